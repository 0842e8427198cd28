"""The bundled model's accuracy: what is stored follows from the scenes, goes on after a kill, and makes the tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prunevid_qwen.moving_shapes import Question
from prunevid_qwen.moving_shapes.conditions import CONDITIONS
from research.bundled_accuracy import FIRST_SEED, measure, read_answers, summarise

pytestmark = pytest.mark.nightly

PLAIN = CONDITIONS["plain"]
RESULTS = Path(__file__).resolve().parents[2] / "eval" / "results"


class Killed(Exception):
    """Stands for a kill."""


def every_second(path: Path, questions: list[Question]) -> list[str]:
    """The right answer to every second question about a file, which is there."""
    return [each.answer if number % 2 and path.is_file() else "nothing." for number, each in enumerate(questions)]


def test_a_killed_measurement_ends_as_one_that_was_not(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    measure(every_second, 2, whole, PLAIN)

    def kill(done: int) -> None:
        raise Killed

    with pytest.raises(Killed):
        measure(every_second, 2, killed, PLAIN, kill)
    text = whole.read_bytes()
    assert 0 < killed.stat().st_size < len(text)
    killed.write_bytes(text[:-9])  # the second scene, all but the end of its last line
    measure(every_second, 2, killed, PLAIN)
    assert killed.read_bytes() == text
    answers = read_answers(whole, 2)
    assert {answer.seed for answer in answers} == {FIRST_SEED, FIRST_SEED + 1} and read_answers(whole, 1) != answers
    assert {answer.correct for answer in answers} == {True, False}
    assert all(answer.correct == (answer.given == answer.expected) for answer in answers)


@pytest.mark.parametrize("condition", sorted(CONDITIONS.keys() - {"long"}))
def test_the_committed_tables_follow_from_the_committed_answers(condition: str) -> None:
    stored = json.loads((RESULTS / f"bundled_accuracy_{condition}.json").read_text(encoding="utf-8"))
    first, last = stored["seeds"]
    answers = read_answers(RESULTS / f"bundled_accuracy_{condition}.jsonl", last - first + 1)
    assert json.loads(json.dumps(summarise(answers))) == stored["accuracy"]
