"""``prunevid batch`` with the bundled model: answers, lines that are refused, kills; a question costs once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from prunevid_qwen import PruneVidQwen25VL
from prunevid_qwen.cli import main
from prunevid_qwen.config import get_config
from prunevid_qwen.evaluation.engine.answering import Answerer, Answering
from prunevid_qwen.evaluation.tasks.batch_questions import read_questions
from prunevid_qwen.evaluation.tasks.runs import TOGETHER, BatchRun
from tests.media import frame

LINE = [
    "id", "question", "answer", "error", "config", "run", "asked", "tokens", "kept_ratio", "seconds", "media", "extra"
]  # fmt: skip
CLIPS = Path(__file__).resolve().parents[1] / "prunevid_qwen" / "bundled" / "clips"
SAID = [{"role": "user", "content": [{"type": "image", "image": "still.png"},
                                     {"type": "video", "video": "all_move.gif", "end": 4},
                                     {"type": "text", "text": "How many objects are there?"}]},
        {"role": "assistant", "content": "three"},
        {"role": "user", "content": "What shape is the first object?"}]  # fmt: skip
QUESTIONS: list[dict[str, Any]] = [
    {"id": "color", "video": "late_square.mp4", "question": "What color is the last object?", "note": {"ü": [1, None]}},
    {"id": 70, "video_path": ["late_square.mp4"], "question": "How many objects are there?"},
    {"video": "late_square.mp4", "question": "Is there a green circle?", "start": 2, "end": 6.5},
    {"image": "still.png", "question": "How many objects are there?"},
    {"videos_shown": 2, "video": ["all_move.gif", "late_square.mp4"], "images": "still.png", "question": "What shape?"},
    {"id": "said", "messages": SAID},
]
IDS = ["color", 70, 3, 4, 5, "said"]


def write(folder: Path, questions: Iterable[Any], name: str = "questions.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in questions), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of media, and questions about them."""
    root = tmp_path_factory.mktemp("bulk ü")
    for name in ("late_square.mp4", "all_move.gif"):
        shutil.copyfile(CLIPS / name, root / name)
    Image.fromarray(frame(7, 56, 84)).save(root / "still.png")
    write(root, QUESTIONS)
    return root


def batch(questions: Path, out: Path, *words: str) -> int:
    return main(["batch", str(questions), "--out", str(out), "--max_new_tokens", "6", "--workers", "0", *words])


@pytest.fixture(scope="module")
def finished(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "answers.jsonl"
    assert batch(root / "questions.jsonl", out) == 0
    return out


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished.parent, tmp_path, dirs_exist_ok=True)
    return tmp_path / finished.name


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The id of every question that reaches a model."""
    ids: list[str] = []
    ask = Answerer._ask

    def watched(self: Any, question: Any, *given: Any) -> Any:
        ids.append(question.id)
        return ask(self, question, *given)

    monkeypatch.setattr(Answerer, "_ask", watched)
    return ids


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def timeless(out: Path) -> list[dict[str, Any]]:
    return [{**line, "seconds": None} for line in lines(out)]


def test_answers_are_those_of_generate(root: Path, finished: Path) -> None:
    written = lines(finished)
    assert [line["id"] for line in written] == IDS and all(list(line) == LINE for line in written)
    model = PruneVidQwen25VL.from_pretrained("bundled", config=get_config("paper"))
    square, gif, still = (str(root / name) for name in ("late_square.mp4", "all_move.gif", "still.png"))
    absolute = json.loads(json.dumps(SAID).replace("still.png", still).replace("all_move.gif", gif))
    calls: list[dict[str, Any]] = [
        {"video_path": square, "question": QUESTIONS[0]["question"]},
        {"video_path": square, "question": QUESTIONS[1]["question"]},
        {"video_path": square, "question": QUESTIONS[2]["question"], "start": 2, "end": 6.5},
        {"images": still, "question": QUESTIONS[3]["question"]},
        {"video_path": [gif, square], "images": still, "question": "What shape?"},
        {"messages": absolute},
    ]
    for line, call in zip(written, calls, strict=True):
        result = model.generate(**call, max_new_tokens=6, do_sample=False)
        stats = result["stats"]
        assert line["answer"] == result["answer"] and line["error"] is None
        assert {name: line["tokens"][name] for name in stats["tokens"]} == stats["tokens"]
        assert line["tokens"]["generated"] == stats["generated_tokens"]
        assert line["kept_ratio"] == stats["tokens"]["after_stage2"] / stats["tokens"]["visual"] < 1
        assert len(line["media"]) == len(stats["input"]["videos"]) + len(stats["input"]["images"])
        own = {fact for fact in line["media"][0] if fact != "grid"}
        kind = "images" if line["media"][0]["source"] == still else "videos"
        assert own and {fact: line["media"][0][fact] for fact in own}.items() <= stats["input"][kind][0].items()
    assert written[0]["answer"] == "green" and written[1]["answer"] == "three"  # what clips.json says


def test_lines_say_what_was_asked_and_hand_through_the_rest(finished: Path) -> None:
    written = lines(finished)
    assert [line["extra"] for line in written] == [{"note": {"ü": [1, None]}}, {}, {}, {}, {"videos_shown": 2}, {}]
    assert written[5]["question"] == "What shape is the first object?"
    assert {line["config"] for line in written} == {"paper"} and len({line["run"] for line in written}) == 1
    record = json.loads((finished.parent / "answers.jsonl.run" / "run.json").read_text())
    assert record["options"]["config"] == "paper" and record["options"]["max_new_tokens"] == 6


def test_neighbours_about_the_same_media_are_one_task(root: Path) -> None:
    run = BatchRun(tuple(read_questions(root / "questions.jsonl")), ("paper", get_config("paper")))
    assert [[q.id for q, _ in task.questions] for task in run.tasks()] == [
        ["color", "70"],
        ["3"],
        ["4"],
        ["5"],
        ["said"],
    ]
    assert [[q.id for q, _ in task.questions] for task in run.tasks(["color", "4"])] == [["70"], ["3"], ["5"], ["said"]]
    many = BatchRun(run.questions[:1] * (TOGETHER + 1), run.config)
    assert [task.answers for task in many.tasks()] == [TOGETHER, 1]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_workers_change_nothing(workers: str, root: Path, finished: Path, tmp_path: Path) -> None:
    assert batch(root / "questions.jsonl", tmp_path / "a.jsonl", "--workers", workers) == 0
    assert timeless(tmp_path / "a.jsonl") == timeless(finished)


@pytest.mark.parametrize("where", [0.0, 0.31, 0.5, 0.99, "line"])
def test_a_killed_run_comes_to_the_same_lines(
    where: float | str, root: Path, finished: Path, copy: Path, asked: list[str]
) -> None:
    whole = copy.read_bytes()
    cut = whole.index(b"\n") + 1 if where == "line" else int(len(whole) * float(where))
    copy.write_bytes(whole[:cut])
    assert batch(root / "questions.jsonl", copy) == 0
    assert len(asked) == len(IDS) - whole[:cut].count(b"\n")
    assert timeless(copy) == timeless(finished)


def test_a_finished_run_loads_no_model(root: Path, copy: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(Answering, "load", lambda self: pytest.fail("the model was loaded"))
    assert batch(root / "questions.jsonl", copy, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["questions"], told["answered"], told["failed"]) == (6, 6, 0) and told["run"] == lines(copy)[0]["run"]


def test_ctrl_c_loses_nothing(
    root: Path, finished: Path, tmp_path: Path, asked: list[str], monkeypatch: Any, capsys: Any
) -> None:
    ask, out = Answerer._ask, tmp_path / "a.jsonl"

    def interrupted(self: Any, *given: Any) -> Any:
        if len(asked) == 2:
            raise KeyboardInterrupt
        return ask(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Answerer, "_ask", interrupted)
        assert batch(root / "questions.jsonl", out) == 130
        said = capsys.readouterr().err
        interrupted, kept = said.index("interrupted"), said.index(f"what was done is in {out}: the same command")
        assert interrupted < kept and "\n\n" not in said[interrupted:]
    assert [line["id"] for line in lines(out)] == ["color", 70]
    assert batch(root / "questions.jsonl", out) == 0 and len(asked) == 6
    assert timeless(out) == timeless(finished)


def test_a_limit_may_grow_and_so_may_the_file(root: Path, finished: Path, tmp_path: Path, asked: list[str]) -> None:
    out = tmp_path / "a.jsonl"
    assert batch(root / "questions.jsonl", out, "--limit", "2") == 0 and asked == ["color", "4"]
    assert batch(root / "questions.jsonl", out) == 0 and len(asked) == 6
    assert sorted(timeless(out), key=str) == sorted(timeless(finished), key=str)
    more = write(root, [*reversed(QUESTIONS[:2]), {**QUESTIONS[0], "id": "again"}], "more.jsonl")
    assert batch(more, out) == 0 and asked[6:] == ["again"]


def test_what_cannot_be_read_is_a_line_and_is_asked_again(
    root: Path, tmp_path: Path, asked: list[str], capsys: Any
) -> None:
    folder = Path(shutil.copytree(root, tmp_path / "other"))
    out = tmp_path / "a.jsonl"
    hidden = (folder / "all_move.gif").rename(folder / "away")
    (folder / "still.png").write_bytes(b"no image")
    assert batch(folder / "questions.jsonl", out) == 4
    said = capsys.readouterr()
    assert f"missing: {folder / 'all_move.gif'}" in said.err and "1 media are missing" in said.err
    assert "3 of 6 questions are answered" in said.out and "3 could not be answered" in said.out
    failed = {line["id"]: line["error"] for line in lines(out) if line["error"] is not None}
    assert set(failed) == {4, 5, "said"} and "all_move.gif" in failed[5] and "still.png" in failed[4]
    assert all(list(line) == LINE for line in lines(out))
    hidden.rename(folder / "all_move.gif")
    shutil.copyfile(root / "still.png", folder / "still.png")
    assert batch(folder / "questions.jsonl", out) == 0
    assert len(asked) == 6 and sorted(str(line["id"]) for line in lines(out)) == sorted(map(str, IDS))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--max_new_tokens", "7"], "max_new_tokens was 6, is now 7"),
        (["--system", "Be brief."], "system was None, is now 'Be brief.'"),
        (["--config", "aggressive"], "config was 'paper', is now 'aggressive'"),
        (["--keep_ratio", "0.9"], "config was 'paper', is now 'paper keep_ratio=0.9'"),
        (["--dtype", "bfloat16"], "loading: dtype was None, is now 'bfloat16'"),
    ],
)
def test_another_run_is_refused_by_name(words: list[str], said: str, root: Path, copy: Path, capsys: Any) -> None:
    before = copy.read_bytes()
    assert batch(root / "questions.jsonl", copy, *words) == 2
    printed = capsys.readouterr().err
    assert said in printed and str(copy) in printed and "--restart" in printed and "another file" in printed
    assert copy.read_bytes() == before


def test_other_questions_of_the_same_ids_are_refused_and_restart_takes_them(
    root: Path, copy: Path, capsys: Any
) -> None:
    other = write(root, [{**QUESTIONS[0], "question": "What color is the circle?"}], "other.jsonl")
    assert batch(other, copy) == 2
    assert f"{copy}:1 answers another question of id 'color'" in capsys.readouterr().err
    assert batch(other, copy, "--restart") == 0
    assert [line["question"] for line in lines(copy)] == ["What color is the circle?"]


def test_a_file_that_is_no_run_is_not_touched(root: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "notes.jsonl"
    out.write_text("precious\n")
    assert batch(root / "questions.jsonl", out) == 2
    assert "notes.jsonl exists" in capsys.readouterr().err and out.read_text() == "precious\n"
    assert batch(root / "questions.jsonl", root / "questions.jsonl") == 2
    assert "is the file of the questions" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--engine", "slurm"], "engine is one of local, ray; got 'slurm'"),
        (["--replicas", "2"], "--replicas are for --engine ray"),
        (["--engine", "ray"], "--workers 0 reads in a thread of this process"),
        (["--config", "papr"], "papr"),
        (["--keep_ratio", "7"], "keep_ratio"),
    ],
)
def test_options_that_cannot_be_are_refused(
    words: list[str], said: str, root: Path, tmp_path: Path, capsys: Any
) -> None:
    assert batch(root / "questions.jsonl", tmp_path / "a.jsonl", *words) == 2
    assert said in capsys.readouterr().err
