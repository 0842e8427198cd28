"""A run of the accuracy benchmark: what its folder holds, what it refuses, and that a kill costs nothing but time."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prunevid_qwen.errors import ConfigError, SetupError
from prunevid_qwen.evaluation.shapes import accuracy
from prunevid_qwen.evaluation.shapes.accuracy import accuracy_run, whole_videos
from prunevid_qwen.evaluation.shapes.accuracy_summary import write_summary
from prunevid_qwen.evaluation.shapes.methods import AccuracyRun, Method, methods_called
from prunevid_qwen.evaluation.shapes.videos import FIRST_SEED
from prunevid_qwen.evaluation.store import code_digest

SMALL = AccuracyRun(
    tuple(methods_called(["prunevid", "random", "smaller frames"])),
    (0.25, 0.16),
    conditions=("plain",),
    videos=3,
    questions=2,
    random_seeds=2,
    calibration_videos=1,
)
LINE = {
    "seed", "condition", "question", "type", "multiple_choice", "text", "expected", "given", "correct", "method",
    "budget", "random_seed", "visual", "tokens", "layer_average", "text_tokens", "retained", "evidence",
    "evidence_kept", "kept", "vision_average",
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    accuracy_run(folder, SMALL, worker_count=1, command="a test")
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]


@pytest.fixture
def asks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model is loaded, and whoever fits or asks fails."""

    def refuse(run: AccuracyRun, *job: Any) -> Any:
        raise AssertionError(f"done before, and done again: {job}")

    monkeypatch.setattr(accuracy, "calibrate", refuse)
    monkeypatch.setattr(accuracy, "ask", refuse)


def test_every_video_is_asked_every_question_under_every_cell(finished: Path) -> None:
    record = json.loads((finished / "run.json").read_text())
    reached = [cell for cell in record["cells"] if cell["status"] == "ok"]
    assert {cell["method"] for cell in record["cells"]} == {"unpruned", "prunevid", "random", "smaller frames"}
    wanted = Counter()
    for seed in range(FIRST_SEED, FIRST_SEED + 3):
        for cell in reached:
            for draw in (0, 1) if cell["method"] == "random" else (None,):
                for question in (0, 1):
                    wanted[seed, cell["method"], cell["budget"], draw, question] += 1
    written = lines(finished)
    names = ("seed", "method", "budget", "random_seed", "question")
    assert Counter(tuple(line[name] for name in names) for line in written) == wanted
    assert all(set(line) == LINE for line in written)
    drawn = [[line["evidence_kept"] for line in written if line["random_seed"] == draw] for draw in (0, 1)]
    assert drawn[0] != drawn[1]  # the seed does arrive
    assert record["seeds"] == [FIRST_SEED, FIRST_SEED + 2] and record["command"] == "a test"
    assert record["options"]["methods"][1]["name"] == "prunevid" and record["versions"]["torch"]


def test_a_killed_run_comes_to_the_same_summary(finished: Path, copy: Path) -> None:
    whole = (copy / "answers.jsonl").read_text()
    first = sum(line["seed"] == FIRST_SEED for line in lines(copy))
    cut = sum(len(line) + 1 for line in whole.splitlines()[: first + 2]) + 40  # in the middle of a line
    (copy / "answers.jsonl").write_text(whole[:cut])
    told: list[tuple[str, int, int]] = []
    accuracy_run(copy, SMALL, worker_count=1, progress=lambda *how_far: told.append(how_far), command="another")
    assert told == [("asking", 1, 3), ("asking", 2, 3), ("asking", 3, 3)]
    assert sorted((copy / "answers.jsonl").read_text().splitlines()) == sorted(whole.splitlines())
    assert write_summary(copy).read_bytes() == write_summary(finished).read_bytes()


def test_wherever_the_file_was_cut_whole_videos_stay(tmp_path: Path) -> None:
    parts = ["".join(json.dumps({"condition": "plain", "seed": s, "é": n}) + "\n" for n in range(3)) for s in (1, 2)]
    text, path = "".join(parts), tmp_path / "answers.jsonl"
    wanted = {("plain", 1): 3, ("plain", 2): 3}
    edges = (len(parts[0]) - 1, len(parts[0]), len(text) - 1, len(text))
    for cut in sorted({*range(0, len(text), 7), *edges}):
        path.write_text(text[:cut])
        done = whole_videos(path, wanted)
        count = (cut >= len(parts[0])) + (cut >= len(text))
        assert done == set(list(wanted)[:count]), cut
        assert path.read_text() == "".join(parts[:count]), cut


@pytest.mark.usefixtures("asks_nothing")
def test_a_finished_run_asks_nothing_again(copy: Path) -> None:
    before = (copy / "answers.jsonl").read_bytes()
    accuracy_run(copy, SMALL, worker_count=1)
    assert (copy / "answers.jsonl").read_bytes() == before


def test_more_videos_go_on_where_it_was(copy: Path, finished: Path) -> None:
    accuracy_run(copy, replace(SMALL, videos=4), worker_count=1)
    assert (copy / "answers.jsonl").read_text().startswith((finished / "answers.jsonl").read_text())
    assert {line["seed"] for line in lines(copy)} == set(range(FIRST_SEED, FIRST_SEED + 4))
    with pytest.raises(ConfigError, match="videos was 4, is now 3"):
        accuracy_run(copy, SMALL, worker_count=1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"budgets": (0.25, 0.10)}, r"budgets was \[0.25, 0.16\], is now \[0.25, 0.1\]"),
        ({"first_seed": FIRST_SEED + 100}, "first_seed was"),
        ({"questions": 3}, "questions was 2, is now 3"),
        ({"through_files": True}, "through_files was False"),
        ({"methods": (*SMALL.methods[:3], Method("smaller frames"))}, "changed: smaller frames"),
        ({"methods": SMALL.methods[:3]}, "only then: smaller frames"),
        ({"methods": (*SMALL.methods, Method("mine"))}, "only now: mine"),
    ],
)
def test_other_options_are_refused_by_name(copy: Path, change: dict[str, Any], said: str) -> None:
    before = (copy / "answers.jsonl").read_bytes()
    with pytest.raises(ConfigError, match=said):
        accuracy_run(copy, replace(SMALL, **change), worker_count=1)
    assert (copy / "answers.jsonl").read_bytes() == before


def test_other_weights_or_versions_are_refused(copy: Path) -> None:
    record = json.loads((copy / "run.json").read_text())
    for place, name in (("options", "model_sha256"), ("versions", "transformers")):
        changed = {**record, place: {**record[place], name: "another"}}
        (copy / "run.json").write_text(json.dumps(changed))
        with pytest.raises(ConfigError, match=f"{name} was 'another'"):
            accuracy_run(copy, SMALL, worker_count=1)


@pytest.mark.parametrize("before", ["another", None])
def test_another_state_of_the_code_is_refused(copy: Path, before: str | None) -> None:
    record = json.loads((copy / "run.json").read_text())
    assert record["code_sha256"] == code_digest()
    (copy / "run.json").write_text(json.dumps({**record, "code_sha256": before}))
    with pytest.raises(ConfigError, match=rf"code_sha256 was {before!r}, is now '\w{{64}}'.*--restart"):
        accuracy_run(copy, SMALL, worker_count=1)


def test_answers_of_unknown_origin_are_refused_until_restart(
    copy: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (copy / "run.json").unlink()
    with pytest.raises(ConfigError, match="--restart"):
        accuracy_run(copy, SMALL, worker_count=1)
    accuracy_run(copy, replace(SMALL, videos=1), worker_count=1, restart=True)
    assert {line["seed"] for line in lines(copy)} == {FIRST_SEED}


def test_restart_throws_nothing_away_for_a_run_that_cannot_begin(copy: Path) -> None:
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    nowhere = replace(SMALL, model="/nowhere")
    with pytest.raises(ConfigError, match="no weights"):
        accuracy_run(copy, nowhere, worker_count=1, restart=True)
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before


@pytest.mark.nightly
def test_restart_leaves_no_comparison_of_the_run_before(copy: Path) -> None:
    (copy / "comparison.md").write_text("of the answers before")
    accuracy_run(copy, replace(SMALL, videos=1), worker_count=1, restart=True)
    assert {path.name for path in copy.iterdir() if path.suffix != ".lock"} == {"answers.jsonl", "run.json"}


def test_a_run_refuses_what_makes_no_sense() -> None:
    for change, said in (
        ({"budgets": (16.0,)}, "share"),
        ({"budgets": (0.16, 0.1, 0.16)}, "0.16 is given twice"),
        ({"conditions": ("plain", "plain")}, "plain is given twice"),
        ({"methods": (Method("a"), Method("a"))}, "a is given twice"),
        ({"conditions": ("planes",)}, "planes"),
        ({"videos": 0}, "at least 1"),
        ({"questions": 0}, "questions"),
        ({"calibration_videos": 49}, "48 calibration videos"),
    ):
        with pytest.raises(ConfigError, match=said):
            replace(SMALL, **change)
    assert AccuracyRun((Method("mine"),)).methods[0].name == "unpruned"
    with pytest.raises(ConfigError, match="no weights"):
        replace(SMALL, model="/nowhere").to_dict()


def end_this_process(run: AccuracyRun) -> None:
    os._exit(1)


@pytest.mark.nightly
def test_a_worker_ended_from_outside_says_how_to_go_on() -> None:
    with pytest.raises(SetupError, match="goes on where it was"):
        list(accuracy.each(SMALL, 2, end_this_process, [()]))


# ---- stopped at every kind of place


class Stopped:
    """Tells how far a run is, and presses Ctrl-C once it has been told something so often."""

    def __init__(self, what: str, times: int) -> None:
        self.what, self.times, self.told = what, times, list[tuple[str, int, int]]()

    def __call__(self, what: str, done: int, total: int) -> None:
        self.told.append((what, done, total))
        if len([each for each in self.told if each[0] == self.what]) == self.times:
            raise KeyboardInterrupt


@pytest.mark.parametrize(("what", "times"), [pytest.param("calibrating", 3, marks=pytest.mark.nightly), ("asking", 2)])
def test_a_stopped_run_goes_on_with_what_it_has_and_ends_with_the_same_bytes(
    what: str, times: int, finished: Path, tmp_path: Path
) -> None:
    folder, stopped, told = tmp_path / "run", Stopped(what, times), list[tuple[str, int, int]]()
    with pytest.raises(KeyboardInterrupt):
        accuracy_run(folder, SMALL, worker_count=1, progress=stopped, command="a test")
    accuracy_run(folder, SMALL, worker_count=1, progress=lambda *how_far: told.append(how_far))
    assert told[0] == stopped.told[-1] == (what, times - 1, 4 if what == "calibrating" else 3), "done, and done again"
    assert (folder / "answers.jsonl").read_bytes() == (finished / "answers.jsonl").read_bytes()
    ours, theirs = (json.loads((each / "run.json").read_text()) for each in (folder, finished))
    assert {**ours, "minutes": 0} == {**theirs, "minutes": 0}


@pytest.mark.nightly
def test_the_bar_of_the_calibration_moves_with_each_method_which_is_stored_by_then(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    stop = Stopped("asking", 1)

    def look(what: str, done: int, total: int) -> None:
        told.append((what, done, total))
        cells = json.loads((tmp_path / "run.json").read_text()).get("cells", [])  # a kill finds these
        assert len({(cell["condition"], cell["method"]) for cell in cells}) == (done if what == "calibrating" else 8)
        stop(what, done, total)

    with pytest.raises(KeyboardInterrupt):
        run = replace(SMALL, conditions=("plain", "shake"), budgets=(0.25,))
        accuracy_run(tmp_path, run, worker_count=1, progress=look)
    assert told == [*(("calibrating", k, 8) for k in range(9)), ("asking", 0, 3)]
