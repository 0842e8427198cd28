"""`prunevid eval run` with the bundled model: every data set to its table; a kill, more workers, a part: same bytes."""

from __future__ import annotations

import json
import os
import random
import re
import select
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import pytest

from prunevid_qwen.cli import main
from prunevid_qwen.config import get_config
from prunevid_qwen.evaluation.benchmark.question import spread
from prunevid_qwen.evaluation.benchmark.run import BenchmarkRun, _manifest
from prunevid_qwen.evaluation.datasets import Subtitle, read_dataset
from prunevid_qwen.evaluation.engine import asking, folder
from prunevid_qwen.evaluation.fingerprint import digest, model_fingerprint
from prunevid_qwen.evaluation.protocol.presets import protocol_for
from tests.benchmark_folders import Clips, mvbench, write_all
from tests.shapes_benchmark import shapes_mvbench

ROOT = Path(__file__).resolve().parents[1]
TABLES = ("report.md", "summary.csv", "summary.json")
SMALL = ("--frames", "4", "--min_pixels", "784", "--max_pixels", "3136")
SHAPES = (
    "--protocol", "mvbench_videochat2", "--frames", "8", "--min_pixels", "784", "--max_pixels", "12544",
    "--max_new_tokens", "8", "--compare", "baseline,paper+keep_ratio=0.1,paper+selector=random+keep_ratio=0.1",
)  # fmt: skip
FEW = "paper keep_ratio=0.1"
CONFIGS = ("baseline", FEW, "paper selector=random keep_ratio=0.1")


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("sets ü")
    return write_all(root, Clips(root / "clips"))


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shapes_mvbench(tmp_path_factory.mktemp("shapes"))


def run(data: Path, out: Path, *words: str, dataset: str = "mvbench", workers: int = 0) -> int:
    words = ("--dataset", dataset, "--data", str(data), "--out", str(out), "--workers", str(workers), *words)
    return main(["eval", "run", *words])


@pytest.fixture(scope="module")
def finished(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished")
    assert run(shapes, out, *SHAPES) == 0
    return out


def lines(out: Path) -> list[dict[str, Any]]:
    return [line for path in folder.answer_files(out) for line in folder.whole_lines(path)]


def row(out: Path, config: str = FEW, axis: str = "all") -> dict[str, Any]:
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    found: dict[str, Any] = next(r for r in summary["rows"] if (r["axis"], r["config"]) == (axis, config))
    return found


def tables(out: Path) -> list[bytes]:
    return [(out / name).read_bytes() for name in TABLES]


# ---- every data set, end to end


@pytest.mark.parametrize(
    ("dataset", "answered", "of"),
    [
        ("mvbench", 40, 40),
        ("videomme", 9, 9),
        ("egoschema", 2, 2),
        ("longvideobench", 2, 2),
        ("mlvu", 7, 7),
        ("vstar", 3, 4),  # one is too wide for the model
    ],
)
def test_every_data_set_gets_from_its_folder_to_a_table(
    sets: dict[str, Path], tmp_path: Path, dataset: str, answered: int, of: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(sets[dataset], tmp_path, *SMALL, dataset=dataset) == 0
    said = capsys.readouterr()
    found = row(tmp_path, "paper")
    assert (found["answered"], found["samples"]) == (answered, of)
    assert f"{answered}/{of}" in said.out and "answering" in said.err and "left" in said.err
    assert found["difference"]["pairs"] == answered
    for line in lines(tmp_path):
        assert line["protocol"]["dataset"] == dataset and line["config"] in ("baseline", "paper")
        if line["error"] is None:
            (media,) = line["media"]
            assert media["resized"] and line["tokens"]["visual"] > 0 and "<|im_start|>assistant" in line["prompt"]
            if dataset != "vstar":
                assert 2 <= len(media["indices"]) <= 4 and media["seconds_per_grid"] > 0
            assert line["config"] == "baseline" or line["kept_ratio"] < 0.5
    assert row(tmp_path, "paper")["errors"] == of - answered


def test_hidden_answers_give_a_file_for_the_authors_and_no_score(
    sets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (*SMALL, "--part", "full", "--config", "paper")
    assert run(sets["egoschema"], tmp_path, *words, dataset="egoschema") == 0
    said = capsys.readouterr()
    assert f"prunevid eval export {tmp_path}" in said.out + said.err
    assert main(["eval", "tables", str(tmp_path)]) == 2
    assert "not public" in capsys.readouterr().err
    assert main(["eval", "export", str(tmp_path), "--file", str(tmp_path / "s.json")]) == 0
    letters = json.loads((tmp_path / "s.json").read_text())
    assert len(letters) == 3 and set(letters.values()) <= {-1, 0, 1, 2, 3, 4}


def test_video_mme_is_exported_for_its_own_script(sets: dict[str, Path], tmp_path: Path) -> None:
    assert run(sets["videomme"], tmp_path, *SMALL, dataset="videomme") == 0
    assert main(["eval", "export", str(tmp_path), "--config", "paper"]) == 0
    videos = json.loads((tmp_path / "videomme paper.json").read_text())
    stored = {line["id"]: line["raw"] for line in lines(tmp_path) if line["config"] == "paper"}
    assert {q["question_id"]: q["response"] for video in videos for q in video["questions"]} == stored
    assert main(["eval", "export", str(tmp_path)]) == 2
    for path in (tmp_path / "run.json", tmp_path / "answers.jsonl"):  # names of configs hold paths
        path.write_text(path.read_text().replace('"paper"', '"paper glimpse_path=/a"'))
    assert main(["eval", "export", str(tmp_path), "--config", "paper glimpse_path=/a"]) == 0
    assert json.loads((tmp_path / "videomme paper glimpse_path=_a.json").read_text()) == videos


def test_subtitles_are_those_at_the_frames_taken(sets: dict[str, Path], tmp_path: Path) -> None:
    words = ("--protocol", "videomme_official_subtitles", "--config", "baseline", "--limit", "9")
    small = ("--min_pixels", "784", "--max_pixels", "784", "--sampler", "linspace", "--frames", "2")
    assert run(sets["videomme"], tmp_path, *words, *small, dataset="videomme") == 0
    prompts = {line["id"]: line["prompt"] for line in lines(tmp_path)}
    # frames at 0 and 1.83 s: the cue from 0 s and the one from 1.3 s, not those between
    assert "listed below:\nHello & welcome\n5\nSelect" in prompts["001-2"] and "over it" not in prompts["001-2"]
    assert "subtitles" not in prompts["003-1"]


def test_subtitles_of_longvideobench_are_shown(sets: dict[str, Path], tmp_path: Path) -> None:
    words = (*SMALL, "--protocol", "letter_subtitles", "--config", "baseline")
    assert run(sets["longvideobench"], tmp_path, *words, dataset="longvideobench") == 0
    prompts = {line["id"]: line["prompt"] for line in lines(tmp_path)}
    assert "listed below:\nin\nWhat" in prompts["one_0"] and "before" not in prompts["one_0"]


# ---- what is asked, and what is stored


def test_the_bundled_model_answers_and_pruning_is_compared_pair_by_pair(finished: Path) -> None:
    base, few, control = (row(finished, name) for name in CONFIGS)
    assert base["score"] > 0.9 and base["score"] - few["score"] == pytest.approx(-few["difference"]["value"])
    assert control["difference"]["value"] < few["difference"]["value"]
    assert few["unparsed_rate"] == 0 and few["columns"]["pllava"]["score"] == pytest.approx(few["score"])
    summary = json.loads((finished / "summary.json").read_text())
    kept = {each["config"]: each["kept"] for each in summary["tokens"]["rows"]}
    assert kept["baseline"] == 1 and 0 < kept[FEW] < 0.1
    assert kept[FEW] == pytest.approx(sum(o["kept_ratio"] for o in lines(finished) if o["config"] == FEW) / 36)
    stored = [line for line in lines(finished) if line["config"] == FEW]
    assert all(
        line["protocol"]["prompt"] == "videochat2" and line["prompt"].endswith("Best option:(") for line in stored
    )
    assert all(line["media"][0]["indices"] == stored[0]["media"][0]["indices"] for line in stored)
    assert len({line["run"] for line in lines(finished)}) == 3


def test_the_page_says_what_answered(finished: Path) -> None:
    page = (finished / "report.md").read_text(encoding="utf-8").partition("## What answered")[2]
    assert "- model_path: bundled" in page and "- protocol: frames: 8" in page and "- transformers: " in page
    assert f"- config `{FEW}`: keep_ratio=0.1\n" in page and "- config `baseline`: enable_stage1=False" in page


def test_where_nothing_is_there_no_model_is_loaded(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(asking.Answering, "load", lambda self: pytest.fail("a model was loaded"))
    shutil.copytree(shapes / "json", tmp_path / "data" / "json")
    (tmp_path / "data" / "video").mkdir()
    assert run(tmp_path / "data", tmp_path / "out", *SHAPES) == 4
    assert "none of the 9 media" in (said := capsys.readouterr().err) and "prunevid eval check mvbench" in said
    assert not (tmp_path / "out").exists()


def test_one_decoding_and_one_encoding_serve_all_questions_and_configs(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = []
    encode = asking._Encoded._encode
    monkeypatch.setattr(asking._Encoded, "_encode", lambda *given: encoded.append(1) or encode(*given))
    assert run(shapes, tmp_path, *SHAPES) == 0
    assert len(lines(tmp_path)) == 9 * 4 * 3 and len(encoded) == 9


def test_a_limit_sees_every_part_of_the_set_and_may_grow(
    shapes: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = read_dataset("mvbench", shapes).records
    assert [records.index(each) for each in spread(records, 6)] == [0, 6, 12, 18, 24, 30]
    assert run(shapes, tmp_path, *SHAPES, "--limit", "6") == 0
    assert "of 6/36" in capsys.readouterr().out
    assert {line["groups"]["task"] for line in lines(tmp_path)} == set(
        json.loads((tmp_path / "run.json").read_text())["manifest"]["groups"]["task"]
    )
    assert run(shapes, tmp_path, *SHAPES, "--limit", "12") == 0 and len(lines(tmp_path)) == 36
    assert run(shapes, tmp_path, *SHAPES) == 0
    assert tables(tmp_path) == tables(finished) and len(lines(tmp_path)) == 108


def test_nothing_left_to_do_loads_no_model(
    finished: Path, tmp_path: Path, shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Path(shutil.copytree(finished, tmp_path / "run"))
    for name in TABLES:
        (out / name).unlink()
    monkeypatch.setattr(asking.Answering, "load", lambda self: pytest.fail("a model was loaded"))
    assert run(shapes, out, *SHAPES) == 0
    assert tables(out) == tables(finished)
    for name in TABLES:
        (out / name).unlink()
    assert main(["eval", "tables", str(out)]) == 0 and tables(out) == tables(finished)


def test_configs_added_later_stand_beside_the_others(
    shapes: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = SHAPES[:-2]
    assert run(shapes, tmp_path, *head, "--config", "paper", "--keep_ratio", "0.1") == 0
    assert "baseline" in capsys.readouterr().out
    assert run(shapes, tmp_path, *head, "--config", "baseline", "--keep_ratio", "0.1") == 0
    assert run(shapes, tmp_path, *head, "--config", "paper+selector=random", "--keep_ratio", "0.1") == 0
    names = [line["config"] for line in lines(tmp_path)]
    assert names == [FEW] * 36 + ["baseline"] * 36 + ["paper selector=random keep_ratio=0.1"] * 36
    for config in CONFIGS:
        assert row(tmp_path, config) == row(finished, config)
    assert json.loads((tmp_path / "summary.json").read_text())["configs"] == ["baseline", FEW, CONFIGS[2]]


def test_a_dry_run_stops_before_the_model(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(asking.Answering, "load", lambda self: pytest.fail("a model was loaded"))
    assert run(shapes, tmp_path / "out", *SHAPES, "--dry_run", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["questions"], told["answers"], told["configs"]) == (36, 108, list(CONFIGS))
    assert told["first"]["frames, height, width"] == [[8, 112, 112]] and told["options"]["protocol: frames"] == 8
    assert not (tmp_path / "out").exists()


def test_json_is_one_object_and_the_script_is_the_command(shapes: Path, finished: Path, tmp_path: Path) -> None:
    words = ["--dataset", "mvbench", "--data", str(shapes), "--out", str(tmp_path), "--json", *SHAPES]
    done = subprocess.run(
        [sys.executable, str(ROOT / "eval" / "run.py"), *words, "--workers", "2"],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    assert json.loads(done.stdout) == json.loads((finished / "summary.json").read_text())
    assert tables(tmp_path) == tables(finished)


# ---- kills


_STOPPED = """
import json, multiprocessing, os, signal, sys
from prunevid_qwen.cli import main
from prunevid_qwen.evaluation.engine.folder import Part

at, share, note, number = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3], int(sys.argv[4])
add, count = Part.add, 0

def dying(self, line):
    global count
    count += 1
    if count < at:
        return add(self, line)
    text = json.dumps(line, ensure_ascii=False).encode() + b"\\n"
    self._file.write(text[: int(share * len(text))])
    self._file.flush()
    with open(note, "w") as file:
        json.dump([child.pid for child in multiprocessing.active_children()], file)
    if number == signal.SIGKILL:
        os.kill(os.getpid(), number)
    os.killpg(0, number)  # as a terminal does: to the readers too

if __name__ == "__main__":
    Part.add = dying
    sys.exit(main(["eval", "run", *sys.argv[5:]]))
"""


def stopped(shapes: Path, tmp_path: Path, at: int, share: float, number: int, workers: int) -> Any:
    """Run until line ``at``, of which ``share`` is written, then send a signal."""
    (tmp_path / "stopped.py").write_text(_STOPPED)
    words = ["--dataset", "mvbench", "--data", str(shapes), "--out", str(tmp_path / "run"), *SHAPES]
    told = [str(at), str(share), str(tmp_path / "pids"), str(int(number))]
    return subprocess.run(
        [sys.executable, str(tmp_path / "stopped.py"), *told, *words, "--workers", str(workers)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
        start_new_session=True,
    )  # fmt: skip


def all_readers_ended(tmp_path: Path) -> int:
    """Wait until the readers have noticed that their parent is gone; return how many there were."""
    children = json.loads((tmp_path / "pids").read_text())
    for pid in children:
        try:
            watched = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        assert select.select([watched], [], [], 60)[0], f"reader {pid} outlived its parent"
    return len(children)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_a_kill_at_a_random_point_costs_time_alone(shapes: Path, finished: Path, tmp_path: Path, workers: int) -> None:
    """Killed within a line with SIGKILL, resumed with another number of workers: the same bytes, no process left."""
    drawn = random.Random(workers)
    at, share, out = drawn.randrange(1, 109), drawn.random(), tmp_path / "run"
    done = stopped(shapes, tmp_path, at, share, signal.SIGKILL, workers)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(lines(out)) == at - 1 and all_readers_ended(tmp_path) == workers
    assert run(shapes, out, *SHAPES, workers=(workers + 1) % 4) == 0
    assert tables(out) == tables(finished), (at, share)
    stored = [(line["config"], line["id"]) for line in lines(out)]
    assert len(stored) == len(set(stored)) == 108


@pytest.mark.parametrize("at", [1, 40])
def test_ctrl_c_ends_cleanly_and_loses_nothing(shapes: Path, finished: Path, tmp_path: Path, at: int) -> None:
    done = stopped(shapes, tmp_path, at, 0.0, signal.SIGINT, 2)
    assert done.returncode == 130 and "Traceback" not in done.stderr, done.stderr
    assert "interrupted" in done.stderr and "goes on where" in done.stderr
    assert len(lines(tmp_path / "run")) == at - 1 and all_readers_ended(tmp_path) == 2
    assert run(shapes, tmp_path / "run", *SHAPES) == 0 and tables(tmp_path / "run") == tables(finished)


def test_shards_in_any_order_give_the_same_tables(
    shapes: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (2, 0, 1):
        assert run(shapes, tmp_path, *SHAPES, "--shard", f"{number}/3") == 0
    assert f"prunevid eval tables {tmp_path}" in capsys.readouterr().err
    shares = [folder.whole_lines(path) for path in folder.answer_files(tmp_path)]
    assert [len(share) for share in shares] == [36, 36, 36]
    assert main(["eval", "tables", str(tmp_path)]) == 0 and tables(tmp_path) == tables(finished)


# ---- broken data


def test_five_per_cent_of_broken_videos_are_named_passed_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = mvbench(tmp_path / "data", Clips(tmp_path / "clips"))
    gone, torn = data / "video/star/Charades_v1_480/Z1.mp4", data / "video/perception/videos/action_count_1.mp4"
    whole = torn.read_bytes()
    kept = gone.read_bytes()
    gone.unlink()
    torn.write_bytes(whole[:200])
    broken = {
        "action_sequence/0",
        "action_prediction/0",
        "object_interaction/0",
        "action_count/0",
    }  # Z1 is in three tasks
    assert main(["eval", "check", "mvbench", str(data)]) == 4
    said = capsys.readouterr().out
    assert f"missing: {gone}" in said and f"unreadable: {torn}" in said
    assert run(data, tmp_path / "run", *SMALL, workers=1) == 0
    told = capsys.readouterr()
    assert f"missing: {gone}" in told.err and "prunevid eval check mvbench" in told.err
    assert "of 36/40" in told.out and row(tmp_path / "run", "paper")["error_rate"] == pytest.approx(0.1)
    failed = {line["id"] for line in lines(tmp_path / "run") if line["error"]}
    assert failed == broken
    gone.write_bytes(kept)  # what was missing is asked when it is there, in the same run
    torn.write_bytes(whole)
    assert run(data, tmp_path / "run", *SMALL) == 0
    assert (
        row(tmp_path / "run", "paper")["answered"] == 40 and "of 36/40" not in (tmp_path / "run/report.md").read_text()
    )
    assert len(lines(tmp_path / "run")) == 80 + 2 * 4


# ---- refusals


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--frames", "16"), "protocol: frames was 8, is now 16"),
        (("--compare", "baseline,paper+keep_ratio=0.1+tau=0.5,paper+keep_ratio=0.1"), None),
        (("--protocol", "lmms"), "protocol: prompt was 'videochat2', is now 'lmms'"),
        (("--dtype", "bfloat16"), "loading: dtype was None, is now 'bfloat16'"),
    ],
)
def test_another_run_does_not_go_into_the_same_folder(
    shapes: Path,
    finished: Path,
    tmp_path: Path,
    words: tuple[str, ...],
    said: str | None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = Path(shutil.copytree(finished, tmp_path / "run"))
    code = run(shapes, out, *SHAPES, *words)
    assert code == (0 if said is None else 2)
    assert said is None or said in capsys.readouterr().err


def test_frames_of_another_decoder_do_not_go_into_the_same_folder(
    shapes: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(shutil.copytree(finished, tmp_path / "run"))
    monkeypatch.setattr(av, "__version__", "1.0")
    assert run(shapes, out, *SHAPES) == 2
    assert re.search(r"reader: pyav was '[\d.]+', is now '1\.0'", capsys.readouterr().err)


def test_another_kind_of_run_has_no_tables_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.json").write_text('{"what": "questions of a user", "configs": {"paper": {}}}')
    for words in (("tables", str(tmp_path)), ("export", str(tmp_path))):
        assert main(["eval", *words]) == 2
        assert "holds another kind of run (questions of a user): give the folder" in capsys.readouterr().err


def test_media_are_named_whole_wherever_a_worker_runs(shapes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shapes.parent)
    asked = BenchmarkRun("mvbench", Path(shapes.name), protocol_for("mvbench"), (("paper", get_config("paper")),))
    paths = {media.path for record in asked.read().records for media in record.media}
    assert paths and all(path.startswith(f"{shapes}/") for path in paths)


def test_all_that_could_change_an_answer_is_named_and_where_videos_lie_is_not(shapes: Path) -> None:
    asked = BenchmarkRun("mvbench", shapes, protocol_for("mvbench"), (("paper", get_config("paper")),), device="cuda:1")
    data = asked.read()
    first, (media,) = data.records[0], data.records[0].media
    others = [
        first,
        replace(first, question="Another?"),
        replace(first, options=(*first.options[::-1],)),
        replace(first, answer="A" if first.answer != "A" else "B"),
        replace(first, groups={"task": "another"}),
        *(
            replace(first, media=(replace(media, **change),))
            for change in ({"start": 1.0}, {"end": 1.0}, {"fps": 3.0}, {"subtitles": (Subtitle(0.0, 1.0, "said"),)})
        ),
    ]
    found = [asked.options(replace(data, records=(each, *data.records[1:]))) for each in others]
    assert len({each["questions"] for each in found}) == len(others)
    moved = replace(first, media=(replace(media, path="/elsewhere/clip.mp4"),))
    assert asked.options(replace(data, records=(moved, *data.records[1:]))) == found[0]
    assert found[0]["device"] == "cuda" and found[0]["reader: pillow"]


def test_one_hidden_answer_does_not_hide_the_others(shapes: Path) -> None:
    data = read_dataset("mvbench", shapes)
    counted = _manifest(replace(data, records=(replace(data.records[0], answer=None), *data.records[1:])))
    assert counted is not None and (counted["samples"], counted["hidden"]) == (35, 1)


def test_what_a_config_says_of_reading_and_a_protocol_of_the_answer_is_heeded(shapes: Path) -> None:
    config = get_config("paper").replace(video_backend="decord", video_time_limit=7.0)
    asked = BenchmarkRun("mvbench", shapes, protocol_for("mvbench", max_new_tokens=3), (("paper", config),))
    assert (asked.reading().backend, asked.reading().time_limit) == ("decord", 7.0)
    assert asked.answering().generation == {"max_new_tokens": 3}


def test_hidden_files_beside_the_weights_are_no_other_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.bin").write_text("weights")
    before = digest(tmp_path)
    (tmp_path / ".cache" / "huggingface").mkdir(parents=True)
    (tmp_path / ".cache" / "huggingface" / "model.bin.metadata").write_text("when it was downloaded")
    assert digest(tmp_path) == before == model_fingerprint(str(tmp_path), {})
    (tmp_path / "model.bin").write_text("others")
    assert digest(tmp_path) != before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--config", "paper", "--compare", "paper,baseline"), "say the same thing twice"),
        (("--compare", "baseline+keep_ratio=1"), "nothing of it can be changed"),
        (("--compare", "paper+keep_ratio"), "a change is NAME+OPTION=VALUE"),
        (("--compare", "paper+fps=3"), "the protocol says how videos are read"),
        (("--compare", "paper+nonsense=3"), "no option 'nonsense' of pruning"),
        (("--compare", "paper,paper"), "two configs are called 'paper'"),
        (("--config", "paper", "--keep_ratio", "25"), "did you mean 0.25?"),
        (("--protocol", "mlvu"), "protocol 'mlvu' is not for mvbench"),
        (("--frames", "many"), "frames is a whole number"),
        (("--fps", "1"), "fps would change nothing: sampler 'linspace' of protocol 'lmms' takes 32 frames"),
        (("--min_frames", "4", "--fps", "1"), "fps and min_frames would change nothing"),
        (("--shard", "0/2", "--restart"), "restart throws away the answers of all 2 shares"),
        (("--shard", "2/2"), "shard is I/N"),
        (("--engine", "slurm"), "engine is one of local, ray"),
        (("--replicas", "2"), "for --engine ray"),
        (
            ("--compare", "paper,paper+video_time_limit=5"),
            "configs that share decoded videos have one video_time_limit",
        ),
        (("--compare", "paper,paper+video_backend=decord"), "configs that share decoded videos have one video_backend"),
    ],
)
def test_contradictions_are_refused_before_anything_runs(
    shapes: Path, tmp_path: Path, words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(shapes, tmp_path / "out", *words) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_config_file_that_says_how_videos_are_read_is_refused(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    get_config("paper").replace(max_frames=64).to_json(tmp_path / "long.json")
    assert run(shapes, tmp_path / "out", "--config", str(tmp_path / "long.json")) == 2
    assert "sets max_frames=64" in (said := capsys.readouterr().err) and "pass frames beside it" in said


def test_a_misspelt_data_set_is_offered_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, tmp_path / "out", dataset="mvbenhc") == 2
    assert "did you mean mvbench?" in capsys.readouterr().err
