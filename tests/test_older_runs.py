"""Runs that commit 3a0e2fd wrote (`tests/data/runs_3a0e2fd/README.md`): their tables, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from prunevid_qwen.cli import main
from prunevid_qwen.errors import ConfigError

RUNS = Path(__file__).resolve().parent / "data" / "runs_3a0e2fd"
TABLES = ("report.md", "summary.csv", "summary.json")


@pytest.fixture
def run(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of one kind's fixture, as the working folder: paths in commands are relative to it."""
    shutil.copytree(RUNS / request.param, tmp_path / "run")
    monkeypatch.chdir(tmp_path / "run")
    return tmp_path / "run"


def of(kind: str) -> Any:
    return pytest.mark.parametrize("run", [kind], indirect=True, ids=[kind])


def expected(run: Path, name: str, which: str = "expected") -> bytes:
    """The bytes of 3a0e2fd, or those of f73973f where a page was worded anew between the two."""
    later = run / f"{which}_f73973f" / name
    return (later if later.exists() else run / which / name).read_bytes()


def stored(folder: Path) -> dict[str, bytes]:
    """What a run holds, but for locks, which are empty."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if not path.name.endswith(".lock")}


def refused(words: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Give a command that another run's folder stops: it says why, and leaves all that was stored as it was."""
    before = stored(folder)
    capsys.readouterr()
    assert main(words) == ConfigError.exit_code
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
    for name in TABLES:
        assert (run / folder / name).read_bytes() == expected(run, name, which), name
    assert json.loads(capsys.readouterr().out) == json.loads(expected(run, "summary.json", which))


@of("benchmark")
@pytest.mark.parametrize("folder", ["finished", "unfinished"])
def test_a_benchmark_of_other_code_does_not_go_on(run: Path, folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    for place in VIDEOS:
        for number in (0, 1):
            path = run / "data" / "video" / f"{place}_{number}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    refused([*ASKED, "--out", folder], run / folder, capsys)


@of("benchmark")
def test_answers_without_a_record_have_no_tables(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "finished" / "run.json").unlink()
    refused(["eval", "tables", "finished", "--json"], run / "finished", capsys)


# ---- prunevid batch


@of("batch")
@pytest.mark.parametrize("folder", ["finished", "unfinished"])
def test_a_batch_of_other_code_does_not_go_on(run: Path, folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("late_square.mp4", "still.png"):
        (run / "data" / name).touch()
    words = ["batch", "data/questions.jsonl", "--out", f"{folder}/answers.jsonl", "--max_new_tokens", "6"]
    refused([*words, "--workers", "0", "--json"], run / folder, capsys)


# ---- prunevid bench accuracy

SHAPES = [
    "bench", "accuracy", "--methods", "prunevid,random", "--conditions", "plain,shake", "--budgets", "0.3,0.2",
    "--videos", "4", "--questions", "4", "--random_seeds", "1", "--workers", "1",
]  # fmt: skip


def write_shapes_tables(folder: Path) -> None:
    """No command writes these of a stored run, without asking anything: so this is the one place that calls inside."""
    from prunevid_qwen.evaluation.accuracy_comparison import compare_folders
    from prunevid_qwen.evaluation.accuracy_report import report, write_summary

    (folder / "report.md").write_text(report(json.loads(write_summary(folder).read_text())))
    (folder / "comparison.md").write_text(compare_folders(folder, folder))


@of("shapes")
def test_tables_of_the_accuracy_benchmark(run: Path) -> None:
    write_shapes_tables(run / "finished")
    for name in ("summary.json", "report.md", "comparison.md"):
        assert (run / "finished" / name).read_bytes() == expected(run, name), name


@of("shapes")
@pytest.mark.parametrize("torn", [True, False], ids=["within a line", "within a video"])
def test_an_unfinished_accuracy_benchmark_has_no_tables(
    run: Path, torn: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib", reason="the command asks for it first")
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
    pytest.importorskip("matplotlib", reason="the command asks for it first")
    refused([*SHAPES, "--out", folder], run / folder, capsys)
