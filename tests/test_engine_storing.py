"""Which answers a run holds: those of its shares together, of the same hash, without an error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prunevid_qwen import ConfigError
from prunevid_qwen.evaluation.engine.storing import answer_files, answered, answers_of, store_answers
from prunevid_qwen.evaluation.engine.task import Task
from prunevid_qwen.evaluation.store import Lines, read_lines
from tests.stub_answers import StubQuestion

HASHES = {"paper": "a" * 64}


def line(number: int, error: str | None = None, **other: Any) -> dict[str, Any]:
    return {"id": str(number), "config": "paper", "error": error, "run": HASHES["paper"], **other}


def write(folder: Path, *lines: dict[str, Any], shard: tuple[int, int] = (0, 1)) -> None:
    with Lines(answers_of(folder, shard)) as part:
        part.add(*lines)


def test_shards_write_apart_and_are_read_together(tmp_path: Path) -> None:
    write(tmp_path, line(0), shard=(0, 2))
    write(tmp_path, line(1), shard=(1, 2))
    write(tmp_path, line(5))
    names = ["answers-0-of-2.jsonl", "answers-1-of-2.jsonl", "answers.jsonl"]
    assert [path.name for path in answer_files(tmp_path)] == names
    assert answered(tmp_path, HASHES) == {("paper", number) for number in "015"}
    with Lines(answers_of(tmp_path, (0, 2))), Lines(answers_of(tmp_path, (1, 2))):
        pass


def test_what_failed_or_is_not_asked_now_is_not_answered(tmp_path: Path) -> None:
    write(tmp_path, line(1), line(2, error="broken"), line(3, config="baseline", run="of its own"))
    assert answered(tmp_path, HASHES) == {("paper", "1")}


def test_lines_of_another_run_or_of_none_are_refused(tmp_path: Path) -> None:
    write(tmp_path, line(1), line(2, run="0123456789abcdef"))
    with pytest.raises(ConfigError, match=r"answers\.jsonl:2 .*'paper' \(hash 0123456789ab"):
        answered(tmp_path, HASHES)
    answers_of(tmp_path).unlink()
    write(tmp_path, {"id": 1})
    with pytest.raises(ConfigError, match=r"answers\.jsonl:1"):
        answered(tmp_path, HASHES)


def test_lines_are_stored_as_they_come_and_the_engine_is_let_go(tmp_path: Path) -> None:
    """A fault in the middle keeps what came before; nothing left to ask begins no engine."""
    path, told, ended = tmp_path / "answers.jsonl", list[tuple[str, int, int]](), list[bool]()
    tasks = [Task((), ((StubQuestion("1"), ("paper",)), (StubQuestion("2"), ("paper",))))]

    def answers() -> Iterator[dict[str, Any]]:
        try:
            yield {"id": "1"}
            yield {"id": "2"}
        finally:
            ended.append(True)

    def stored(each: dict[str, Any]) -> dict[str, Any]:
        if each["id"] == "2":
            assert read_lines(path) == [{"id": "1", "run": "x"}]
            raise KeyboardInterrupt
        return {**each, "run": "x"}

    with pytest.raises(KeyboardInterrupt):
        store_answers(path, tasks, answers, 5, lambda *what: told.append(what), stored)
    assert ended == [True] and told == [("answering", 3, 5), ("answering", 4, 5)]
    store_answers(path, [], lambda: pytest.fail("an engine was begun"), 5, lambda *what: told.append(what))
    assert told[2:] == [("answering", 5, 5)] and len(read_lines(path)) == 1
