"""The examples run as they stand, with the bundled toy, and print what happened."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from prunevid_qwen import check_reducer
from prunevid_qwen.cli import main
from prunevid_qwen.reducer import _REDUCERS

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
CLIPS = EXAMPLES.parent / "prunevid_qwen" / "bundled" / "clips"


def load(name: str) -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


def test_every_example_is_here() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {
        "batch_folder", "many_questions", "own_selector", "quickstart",
    }  # fmt: skip


def test_quickstart(capsys: pytest.CaptureFixture[str]) -> None:
    load("quickstart")["main"]()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "pruned: green" and lines[2] == "unpruned: green"  # the clip's true answer
    assert lines[3].endswith("visual tokens: 128, merged to 128, 128 kept") and lines[1] != lines[3]


def test_many_questions(capsys: pytest.CaptureFixture[str]) -> None:
    load("many_questions")["main"](str(CLIPS / "late_square.mp4"), "bundled", "How many objects are there?", "What?")
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("How many objects are there? three (") and second.startswith("What? ")


def test_a_batch_goes_on_past_what_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    videos, out = tmp_path / "videos", tmp_path / "answers.jsonl"
    videos.mkdir()
    (videos / "a.mp4").write_bytes((CLIPS / "late_square.mp4").read_bytes())
    (videos / "b.mp4").write_bytes(b"no video")
    (videos / "notes.txt").touch()
    batch = load("batch_folder")["main"]
    batch(str(videos), "How many objects are there?", str(out))
    (videos / "c.mp4").write_bytes((CLIPS / "late_square.mp4").read_bytes())
    batch(str(videos), "How many objects are there?", str(out))
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [Path(line["video"]).name for line in lines] == ["a.mp4", "b.mp4", "b.mp4", "c.mp4"]
    assert [line.get("answer") for line in lines] == ["three", None, None, "three"] and lines[1]["error"]


def test_own_selector(registry: None, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(EXAMPLES / "own_selector.py")
    words = ["ask", "--plugin", path, "--selector", "farthest", "--selector.keep_ratio", "0.2", "--no_enable_stage1"]
    clip = str(CLIPS / "late_square.mp4")
    assert main([*words, "--video_path", clip, "--question", "What color is the last object?", "--json"]) == 0
    stage = json.loads(capsys.readouterr().out)["stats"]["stage2"]
    assert (stage["selector"], stage["kept_tokens"]) == ("farthest", int(128 * 0.2))
    check_reducer(_REDUCERS[2, "farthest"])


def test_own_selector_is_twenty_lines() -> None:
    code = (EXAMPLES / "own_selector.py").read_text(encoding="utf-8").split('"""', 2)[2].split("if __name__")[0]
    assert len([line for line in code.splitlines() if line.strip() and not line.strip().startswith('"""')]) <= 20
