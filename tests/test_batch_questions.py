"""What ``prunevid batch`` is asked: a file of questions, each bad line named, or the same of a folder's files."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest

from prunevid_qwen.config import get_config
from prunevid_qwen.errors import ConfigError, MediaError
from prunevid_qwen.evaluation.datasets.record import Media
from prunevid_qwen.evaluation.engine.answering import Answering
from prunevid_qwen.evaluation.engine.local import here
from prunevid_qwen.evaluation.engine.task_media import ByConfig, read_media
from prunevid_qwen.evaluation.store import read_lines
from prunevid_qwen.evaluation.tasks.batch_questions import missing_media, questions_for_folder, read_questions
from prunevid_qwen.evaluation.tasks.runs import BatchRun, answer_batch
from prunevid_qwen.inputs.qwen.pixels import PixelOptions
from tests.test_batch import QUESTIONS, SAID, batch, root, write

__all__ = ["root"]


def test_an_image_may_be_a_data_uri(root: Path, tmp_path: Path) -> None:
    uri = "data:image/png;base64," + base64.b64encode((root / "still.png").read_bytes()).decode()
    item = {"type": "image_url", "image_url": {"url": uri, "detail": "auto"}}
    talk = [{"role": "user", "content": [item, {"type": "text", "text": "How many?"}]}]
    lines = [{"image": uri, "question": "How many?"}, {"messages": talk}, {"image": uri[:-40], "question": "How many?"}]
    questions = read_questions(write(tmp_path, lines))
    assert missing_media(questions) == []
    reading = ByConfig(get_config("paper"), PixelOptions(), PixelOptions())
    cut = read_media(reading, questions[2].media)
    assert cut.error is not None and len(cut.error) < 500
    for question in questions[:2]:
        [read] = read_media(reading, question.media).media
        plain = reading.read(Media("image", str(root / "still.png")))
        assert (read.frames == plain.frames).all() and len(read.facts["source"]) < 200


def says(item: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [item]}]}


BAD = [
    ("{", "no JSON"),
    ("[1]", "a JSON object is expected"),
    ({"id": True, "video": "a", "question": "?"}, "id is text or a whole number, got True"),
    ({"video": "a"}, "no question"),
    ({"video": "a", "question": 3}, "question is a text, got 3"),
    ({"question": "?"}, 'nothing to look at: give "video" or "image"'),
    ({"vidoe": "a", "question": "?"}, "'vidoe' is no key that is read: did you mean 'video'?"),
    ({"video": "a", "questoin": "?"}, "did you mean 'question'?"),
    ({"video": "a", "question": "?", "stat": 3}, "did you mean 'start'?"),
    ({"video": "a", "question": "?", "END": 3}, "did you mean 'end'?"),
    ({"mesages": SAID}, "did you mean 'messages'?"),
    ({"video": "a", "video_path": "b", "question": "?"}, "video and video_path say the same thing twice"),
    ({"image": [], "question": "?"}, "image is a path or a list of paths, got []"),
    ({"video": "http://x/a.mp4", "question": "?"}, "is an address: download it"),
    ({"video": "a", "question": "?", "start": 5, "end": 2}, "end=2 is not after start=5"),
    ({"video": "a", "question": "?", "start": "5"}, "start is in seconds"),
    ({"image": "a", "question": "?", "end": 2}, "seconds of a video, and it has none"),
    ({"video": "a", "question": "what is <|video_pad|>?"}, "the text holds <|video_pad|>"),
    ({"messages": SAID, "question": "?"}, "leave out question"),
    ({"messages": []}, "messages is a list of chat messages"),
    ({"messages": [{"role": "user"}]}, "a message is a dict with role and content"),
    ({"messages": [{"role": "user", "content": "Why?"}]}, "no item of its messages is a video or an image"),
    (says({"type": "image", "image": "a"}), "no message of the user has a text"),
    (says({"type": "audio"}), "an item is of type"),
    (says({"type": "video", "video": "a", "fps": 2}), "got fps: such options are given once"),
    (says({"type": "image", "image": "a", "end": 2}), "an item of type image takes"),
    (says({"type": "video"}), "an item of type video has its source under 'video'"),
]  # fmt: skip


def test_every_bad_line_is_named_before_a_model_is_loaded(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(Answering, "load", lambda self: pytest.fail("the model was loaded"))
    good = {"id": "1", "video": "a", "question": "?"}
    texts = [bad if isinstance(bad, str) else json.dumps(bad) for bad, _ in BAD]
    path = tmp_path / "q.jsonl"
    for at in (0, 15):  # a message names twenty
        some = BAD[at : at + 15]
        path.write_text("\n".join([json.dumps(good), "", *texts[at : at + 15], json.dumps({**good, "id": 1})]))
        assert batch(path, tmp_path / "a.jsonl") == 2
        said = capsys.readouterr().err
        for number, (_, wanted) in enumerate(some, 3):
            assert re.search(rf"line {number}: .*{re.escape(wanted)}", said), (wanted, said)
        assert f"line {len(some) + 3}: id '1' is that of line 1 too" in said
        assert len(re.findall("^line", said, re.MULTILINE)) == len(some) + 1
    assert not list(tmp_path.glob("a.jsonl*"))


def test_no_questions_are_refused(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "q.jsonl").write_text("\n\n")
    assert batch(tmp_path / "q.jsonl", tmp_path / "a.jsonl") == 2
    assert "holds no question: write lines such as" in capsys.readouterr().err
    assert batch(tmp_path / "none.jsonl", tmp_path / "a.jsonl") == 4
    assert "cannot read the questions in" in capsys.readouterr().err


def test_the_systems_message_comes_first(root: Path, tmp_path: Path, capsys: Any) -> None:
    questions = read_questions(write(root, QUESTIONS[:1], "one.jsonl"), system="Be brief.")
    roles = [message["role"] for message in questions[0].messages([{"type": "video"}], [])]
    assert roles == ["system", "user"]
    own = {"messages": [{"role": "system", "content": "Be long."}, *SAID]}
    assert batch(write(root, [own], "own.jsonl"), tmp_path / "a.jsonl", "--system", "Be brief.") == 2
    assert "system message of its own" in capsys.readouterr().err


def test_a_key_of_ones_own_is_handed_through_unless_it_is_a_slip(tmp_path: Path) -> None:
    given = [
        {"video": "a", "question": "?", "question_id": 1, "videos": 2, "answer": "x", "idx": 3, "message": "y"},
        {"messages": [{"role": "user", "content": [{"type": "image", "image": "a"}, {"type": "text", "text": "?"}]}],
         "question_id": 1, "video_id": 2, "ends": 4},
    ]  # fmt: skip
    found = read_questions(write(tmp_path, given))
    assert [sorted(each.extra) for each in found] == [
        ["answer", "idx", "message", "question_id", "videos"],
        ["ends", "question_id", "video_id"],
    ]


# ---- a folder


def test_the_same_is_asked_of_every_file_of_a_folder(root: Path) -> None:
    (root / "more").mkdir(exist_ok=True)
    for name in ("more/clip10.mp4", "more/clip9.mp4", "more/.hidden.mp4", "more/notes.txt"):
        (root / name).touch()
    asked = questions_for_folder(root, ["What moves?", "What color?"])
    names = ["all_move.gif", "late_square.mp4", "more/clip9.mp4", "more/clip10.mp4", "still.png"]
    assert [each.id for each in asked] == [f"{name}#{number}" for name in names for number in (1, 2)]
    assert [each.question for each in asked[:2]] == ["What moves?", "What color?"]
    assert [each.media[0].kind for each in asked[::2]] == ["video"] * 4 + ["image"]
    assert all(Path(each.media[0].path).is_file() for each in asked)
    assert [each.id for each in questions_for_folder(root, ["What moves?"])[:2]] == [
        "all_move.gif#1",
        "late_square.mp4#1",
    ]
    run = BatchRun(tuple(asked), ("paper", get_config("paper")))
    assert [task.answers for task in run.tasks()] == [2] * 5  # each file is read and encoded once


def test_a_folder_asks_what_a_file_of_questions_would(root: Path, tmp_path: Path) -> None:
    lines = [{"id": "late_square.mp4#1", "video": "late_square.mp4", "question": "What color is the last object?"}]
    (as_file,) = read_questions(write(root, lines, "one.jsonl"), system="Be brief.")
    asked = questions_for_folder(root, ["What color is the last object?"], system="Be brief.")
    assert as_file in asked


def test_questions_may_be_added_to_a_folder_that_was_asked(root: Path, tmp_path: Path, stub: None) -> None:
    def answered(*questions: str) -> dict[str, Any]:
        run = BatchRun(tuple(questions_for_folder(root, questions)[:4]), ("paper", get_config("paper")))
        return answer_batch(tmp_path / "a.jsonl", run, here(0), "cpu")

    assert answered("What moves?")["answered"] > 0
    before = [line for line in read_lines(tmp_path / "a.jsonl") if line["error"] is None]
    assert answered("What moves?", "What color?")["answered"] > len(before)
    assert read_lines(tmp_path / "a.jsonl")[: len(before)] == before


def test_folders_that_cannot_be_asked(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.MP4").touch()
    assert [each.id for each in questions_for_folder(tmp_path / "clips", ["?"])] == ["a.MP4#1"]
    for wrong in (
        lambda: questions_for_folder(tmp_path / "clips", []),
        lambda: questions_for_folder(tmp_path / "clips", [" "]),
        lambda: questions_for_folder(tmp_path / "clips", ["<|video_pad|> ?"]),
    ):
        with pytest.raises(ConfigError):
            wrong()
    (tmp_path / "clips" / "a.MP4").unlink()
    for missing in (
        lambda: questions_for_folder(tmp_path / "none", ["?"]),
        lambda: questions_for_folder(tmp_path / "clips", ["?"]),
    ):
        with pytest.raises(MediaError):
            missing()
