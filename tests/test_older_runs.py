"""Runs that commit 3a0e2fd wrote (`tests/data/runs_3a0e2fd/README.md`): their tables, and what is refused."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from prunevid_qwen.cli import main
from prunevid_qwen.errors import ConfigError

RUNS = Path(__file__).resolve().parent / "data" / "runs_3a0e2fd"


@pytest.fixture
def run(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of one kind's fixture, as the working folder: paths in commands are relative to it."""
    shutil.copytree(RUNS / request.param, tmp_path / "run")
    monkeypatch.chdir(tmp_path / "run")
    return tmp_path / "run"


def of(kind: str) -> Any:
    return pytest.mark.parametrize("run", [kind], indirect=True, ids=[kind])


REWORDED = (
    (rb"(?<=\d)%", b" %"),
    (rb"what stands still and nothing else\), after that", b"what looks alike over time alone), after that"),
)
"""How f73973f words what 3a0e2fd wrote: shares as "3.9 %", and a line on ``cluster_ratio=1``. No figure differs."""


def check_tables(run: Path, folder: str, which: str) -> None:
    """Compare every file that 3a0e2fd made of a run with the one in ``folder``, byte for byte; of pages, the tables."""
    wanted = sorted(path for path in (run / which).rglob("*") if path.is_file())
    assert wanted
    for path in wanted:
        name, text = path.relative_to(run / which), path.read_bytes()
        for old, new in REWORDED:
            text = re.sub(old, new, text)
        found = (run / folder / name).read_bytes()
        if name.suffix == ".md":  # sentences around tables may be worded anew
            found, text = (b"\n".join(re.findall(rb"^\|.*$", each, re.MULTILINE)) for each in (found, text))
            assert text
        assert found == text, name


def tables_of(page: Path) -> list[str]:
    """The tables of a page, as f73973f words them."""
    text = page.read_bytes()
    for old, new in REWORDED:
        text = re.sub(old, new, text)
    return re.findall(r"(?:^\|.*\n)+", text.decode(), re.MULTILINE)


def stored(folder: Path) -> dict[str, bytes]:
    """What a run holds, but for locks, which are empty."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if not path.name.endswith(".lock")}


def lay(folder: Path, *names: str) -> None:
    """Lay empty files where videos and pictures were: a command looks whether they are there."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def refused(
    words: list[str], folder: Path, capsys: pytest.CaptureFixture[str], call: Callable[[list[str]], int] = main
) -> None:
    """Give a command that another run's folder stops: it says why, and leaves all that was stored as it was."""
    before = stored(folder)
    capsys.readouterr()
    assert call(words) == ConfigError.exit_code
    said = capsys.readouterr()
    if "--json" in words:
        assert json.loads(said.out)["error"]["type"] == "ConfigError"
    assert said.err.strip() and stored(folder) == before


# ---- prunevid eval run

ASKED = [
    "eval", "run", "--dataset", "mvbench", "--data", "data", "--workers", "0", "--protocol", "mvbench_videochat2",
    "--frames", "8", "--min_pixels", "784", "--max_pixels", "12544", "--max_new_tokens", "8",
    "--compare", "baseline,paper+selector=random+keep_ratio=0.1", "--json",
]  # fmt: skip
VIDEOS = ("FunQA_test/test/unexpected_action", "clevrer/video_validation/object_existence",
          "perception/videos/action_count")  # fmt: skip


@of("benchmark")
@pytest.mark.parametrize(("folder", "which"), [("finished", "expected"), ("unfinished", "expected_unfinished")])
def test_tables_of_a_benchmark(run: Path, folder: str, which: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An unfinished one has tables too, of what was answered."""
    assert main(["eval", "tables", folder, "--json"]) == 0
    check_tables(run, folder, which)
    assert json.loads(capsys.readouterr().out) == json.loads((run / folder / "summary.json").read_text())


@of("benchmark")
@pytest.mark.parametrize("folder", ["finished", "unfinished"])
def test_a_benchmark_of_other_code_does_not_go_on(run: Path, folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    lay(run / "data" / "video", *(f"{place}_{number}.mp4" for place in VIDEOS for number in (0, 1)))
    refused([*ASKED, "--out", folder], run / folder, capsys)


@of("benchmark")
def test_answers_without_a_record_have_no_tables(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "finished" / "run.json").unlink()
    refused(["eval", "tables", "finished", "--json"], run / "finished", capsys)


# ---- prunevid batch


@of("batch")
@pytest.mark.parametrize("folder", ["finished", "unfinished"])
def test_a_batch_of_other_code_does_not_go_on(run: Path, folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    lay(run / "data", "late_square.mp4", "still.png")
    words = ["batch", "data/questions.jsonl", "--out", f"{folder}/answers.jsonl", "--max_new_tokens", "6"]
    refused([*words, "--workers", "0", "--json"], run / folder, capsys)


# ---- prunevid bench accuracy

SHAPES = [
    "bench", "accuracy", "--methods", "prunevid,random", "--conditions", "plain,shake", "--budgets", "0.3,0.2",
    "--videos", "4", "--questions", "4", "--random_seeds", "1", "--workers", "1",
]  # fmt: skip


def write_shapes_tables(folder: Path) -> None:
    """As `bench accuracy --plots_from` does, which draws for seconds: so this is the one place that calls inside."""
    from prunevid_qwen.evaluation.shapes.accuracy_page import report
    from prunevid_qwen.evaluation.shapes.accuracy_summary import write_summary
    from prunevid_qwen.evaluation.shapes.comparison_page import compare_folders

    (folder / "report.md").write_text(report(json.loads(write_summary(folder).read_text())))
    (folder / "comparison.md").write_text(compare_folders(folder, folder))


@of("shapes")
def test_tables_of_the_accuracy_benchmark(run: Path) -> None:
    """The sentences around them are new, and so are two tables."""
    write_shapes_tables(run / "finished")
    for name, count in (("report.md", 9), ("comparison.md", 1)):
        ours, theirs = (tables_of(run / folder / name) for folder in ("finished", "expected"))
        assert len(theirs) == count and [table for table in ours if table in theirs] == theirs, name
        (run / "expected" / name).unlink()
    check_tables(run, "finished", "expected")


@of("shapes")
@pytest.mark.parametrize("torn", [True, False], ids=["within a line", "within a video"])
def test_an_unfinished_accuracy_benchmark_has_no_tables(
    run: Path, torn: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    if not torn:
        answers = run / "unfinished" / "answers.jsonl"
        answers.write_bytes(b"".join(answers.read_bytes().splitlines(keepends=True)[:-1]))
    with pytest.raises(ConfigError):
        write_shapes_tables(run / "unfinished")
    refused([*SHAPES, "--out", "other", "--against", "unfinished"], run / "unfinished", capsys)
    assert not (run / "other").exists()


@of("shapes")
@pytest.mark.parametrize("folder", ["finished", "unfinished"])
def test_an_accuracy_benchmark_of_other_code_does_not_go_on(
    run: Path, folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    refused([*SHAPES, "--out", folder], run / folder, capsys)


# ---- prunevid bench speed

SPEED = [
    "bench", "speed", "--quick", "--shape", "tiny", "--frames", "8", "--batch", "1", "--preset", "paper",
    "--new_tokens", "4", "--repeats", "2", "--warmup", "0", "--device", "cpu", "--json",
]  # fmt: skip


@of("speed")
@pytest.mark.parametrize(
    ("folder", "which"),
    [("finished", "expected"), pytest.param("unfinished", "expected_unfinished", marks=pytest.mark.nightly)],
)
def test_tables_of_the_speed_benchmark(run: Path, folder: str, which: str) -> None:
    """An unfinished one has tables too, of what was measured."""
    pytest.importorskip("matplotlib", reason="the page shows the plots")
    assert main(["bench", "speed", "--plots_from", folder, "--json"]) == 0
    for path in (run / which).iterdir():
        old = path.read_bytes()
        for before, after in REWORDED:
            old = re.sub(before, after, old)
        old, new = (text.decode() for text in (old, (run / folder / path.name).read_bytes()))
        if path.suffix == ".md":
            tables = [part for part in new.split("\n\n") if part.startswith("|")]
            assert {part for part in old.split("\n\n") if part.startswith("|")} < set(tables)
        else:  # sentences say less now, every figure is the same
            assert without_sentences(path.suffix, new) == without_sentences(path.suffix, old)


def without_sentences(suffix: str, text: str) -> tuple[Any, list[dict[str, Any]]]:
    rows = json.loads(text)["rows"] if suffix == ".json" else list(csv.DictReader(io.StringIO(text, newline="")))
    rest = {**json.loads(text), "rows": None} if suffix == ".json" else None
    assert all(row.pop("sentence") for row in rows)
    return rest, rows


@of("speed")
@pytest.mark.parametrize("folder", ["finished", "unfinished"])
def test_a_speed_benchmark_of_other_code_does_not_go_on(
    run: Path, folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    refused([*SPEED, "--out", folder], run / folder, capsys)


@of("speed")
def test_a_folder_without_measurements_has_no_tables(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "finished" / "measurements.jsonl").unlink()
    refused(["bench", "speed", "--plots_from", "finished", "--json"], run / "finished", capsys)


# ---- prunevid eval visual-cot

JUDGE = ["--judge_base_url", "http://127.0.0.1:33855/v1", "--judge_model", "stub"]
"""As it was when the run was judged: every answer has its judgement, and nobody is asked again."""


@of("visual_cot")
@pytest.mark.parametrize(
    ("folder", "words", "which"),
    [
        ("finished", JUDGE, "expected"),
        ("finished", [], "expected_contained"),
        ("unfinished", [], "expected_unfinished"),
    ],
)
def test_tables_of_visual_cot(
    run: Path, folder: str, words: list[str], which: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An unfinished one has tables too, of what was answered."""
    if words:
        pytest.importorskip("openai", reason="a judge is opened through openai")
    assert main(["eval", "visual-cot", "--judge_only", *words, "--out", folder, "--json"]) == 0
    check_tables(run, folder, which)
    assert json.loads(capsys.readouterr().out) == json.loads((run / folder / "summary.json").read_text())


@of("visual_cot")
@pytest.mark.parametrize("folder", ["finished", "unfinished"])
def test_a_visual_cot_run_of_other_code_does_not_go_on(
    run: Path, folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lay(run / "data", *(f"{place}/{number}.png" for place in ("drawn", "cot/shapes") for number in (0, 1)))
    words = ["eval", "visual-cot", "--data", "data/benchmark", "--images", "data", "--max_new_tokens", "8"]
    refused([*words, "--config", "data/few.json", "--out", folder, "--json"], run / folder, capsys)


@of("visual_cot")
def test_visual_cot_answers_without_a_record_have_no_tables(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "finished" / "run.json").unlink()
    refused(["eval", "visual-cot", "--judge_only", "--out", "finished", "--json"], run / "finished", capsys)


# ---- prunevid reproduce

MINIATURE = [
    "--device", "cpu", "--workers", "0", "--min_pixels", "784", "--max_pixels", "6272", "--model_path", "bundled",
    "--limit", "2", "--json",
]  # fmt: skip


def reproduce(name: str, words: list[str]) -> int:
    return main(["reproduce", name, *words])


TABLE_6 = partial(reproduce, "prunevid_table6")
VSTAR = partial(reproduce, "glimpseprune_vstar")


@of("reproduction")
@pytest.mark.parametrize(("folder", "which"), [("finished", "expected"), ("unfinished", "expected_unfinished")])
def test_pages_of_a_reproduction(run: Path, folder: str, which: str) -> None:
    """An unfinished one has a page too: it says what was not run."""
    for path in run.rglob("run.json"):  # the file for EgoSchema's authors is of all questions: their folder is read
        path.write_text(path.read_text().replace("/tmp/fx/rdata", (run / "data").as_posix()))
    assert TABLE_6(["--setting", "16frames", "--page_only", "--out", folder]) == 0
    check_tables(run, folder, which)


@of("reproduction")
@pytest.mark.parametrize("folder", ["finished", "unfinished"])
def test_a_reproduction_of_other_code_does_not_go_on(
    run: Path, folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lay(run / "data/mvbench/video", *(f"{place}_0.mp4" for place in VIDEOS))
    lay(run / "data/egoschema/videos", *(f"{number:08x}-aaaa.mp4" for number in range(3)))
    words = ["--data", "mvbench=data/mvbench", "--data", "egoschema=data/egoschema", "--setting", "16frames"]
    words += ["--only", "mvbench", "--only", "egoschema-full", "--frames", "8", *MINIATURE, "--out", folder]
    refused(words, run / folder, capsys, TABLE_6)


@of("timing")
@pytest.mark.parametrize(("folder", "which"), [("finished", "expected"), ("unfinished", "expected_unfinished")])
def test_pages_of_a_timed_reproduction(run: Path, folder: str, which: str) -> None:
    """An unfinished one has a page too: it says how many images were measured."""
    assert VSTAR(["--setting", "efficiency", "--page_only", "--out", folder]) == 0
    check_tables(run, folder, which)


@of("timing")
@pytest.mark.parametrize("folder", ["finished", "unfinished"])
def test_a_timed_reproduction_of_other_code_does_not_go_on(
    run: Path, folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lay(run / "data/vstar", *(f"direct_attributes/sa_{number}.jpg" for number in (1, 2)))
    lay(run / "data/vstar", *(f"relative_position/sa_{number}.png" for number in (3, 4)))
    words = ["--data", "vstar=data/vstar", "--setting", "efficiency", "--new_tokens", "2", *MINIATURE]
    refused([*words, "--out", folder], run / folder, capsys, VSTAR)


# ---- prunevid train-glimpse

TRAIN = ["train-glimpse", "--recipe", "data/glimpse.yaml", "--no_check", "--device", "cpu", "--threads", "1", "--json"]


@of("training")
def test_a_finished_training_is_finished(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = stored(run / "finished")
    assert main([*TRAIN, "--out", "finished"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(before["train.json"])
    after = stored(run / "finished")
    after.pop("curve.svg", None)
    assert after == before


@of("training")
def test_a_training_that_3a0e2fd_began_goes_on(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of step 3 a line was written and no checkpoint: it is done again. A training asks for no equal code."""
    first, second, _ = (run / "unfinished" / "curve.jsonl").read_bytes().splitlines()
    assert main([*TRAIN, "--out", "unfinished"]) == 0
    record = json.loads(capsys.readouterr().out)
    lines = (run / "unfinished" / "curve.jsonl").read_bytes().splitlines()
    assert lines[:2] == [first, second] and [json.loads(line)["step"] for line in lines] == [1, 2, 3]
    assert record["steps"] == 3 and (run / "unfinished" / "model" / "model.safetensors").is_file()


@of("training")
@pytest.mark.parametrize("folder", ["finished", "unfinished"])
def test_a_training_of_another_recipe_does_not_go_on(
    run: Path, folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    refused([*TRAIN, "--steps", "4", "--out", folder], run / folder, capsys)


# ---- prunevid train-glimpse-plus

PLUS = ["train-glimpse-plus", "--recipe", "data/plus.yaml", "--no_check", "--device", "cpu", "--threads", "1"]
PLUS += ["--no_glimpse", "--json"]


@pytest.fixture
def without_trl(monkeypatch: pytest.MonkeyPatch) -> None:
    """A finished run is summed up by what needs none of the libraries that it was trained with."""
    monkeypatch.setattr("prunevid_qwen.training.glimpse_plus.train.LIBRARIES", ())


@of("training_plus")
def test_summary_of_glimpse_plus(run: Path, without_trl: None, capsys: pytest.CaptureFixture[str]) -> None:
    before = stored(run / "finished")
    assert main([*PLUS, "--out", "finished"]) == 0
    check_tables(run, "finished", "expected")
    assert json.loads(capsys.readouterr().out) == json.loads((run / "finished" / "summary.json").read_text())
    after = stored(run / "finished")
    assert {name: after[name] for name in before} == before


@of("training_plus")
@pytest.mark.parametrize("folder", ["finished", "unfinished"])
def test_glimpse_plus_of_another_recipe_does_not_go_on(
    run: Path, folder: str, without_trl: None, capsys: pytest.CaptureFixture[str]
) -> None:
    refused([*PLUS, "--set", "beta=0.1", "--out", folder], run / folder, capsys)
