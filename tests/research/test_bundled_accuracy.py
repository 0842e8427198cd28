"""A bundled toy's accuracy: what is stored follows from the scenes, goes on after a kill, and makes the tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prunevid_qwen.bundled import TOYS, bundled_model
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.moving_shapes import Question
from prunevid_qwen.moving_shapes.conditions import CONDITIONS
from research.bundled_accuracy import FIRST_SEED, card_lines, measure, read_answers, results_of, summarise

pytestmark = pytest.mark.nightly

PLAIN = CONDITIONS["plain"]


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
@pytest.mark.parametrize("toy", TOYS)
def test_the_committed_tables_follow_from_the_committed_answers(toy: str, condition: str) -> None:
    path = results_of(toy, condition)
    stored = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    first, last = stored["seeds"]
    answers = read_answers(path.with_suffix(".jsonl"), last - first + 1)
    assert json.loads(json.dumps(summarise(answers))) == stored["accuracy"]
    card = (Path(bundled_model(toy)) / "README.md").read_text(encoding="utf-8")
    assert all(line in card for line in card_lines(stored["accuracy"]["both"], condition))


def test_the_results_of_another_model_do_not_take_a_toys_place() -> None:
    assert len({results_of(toy, "plain") for toy in TOYS}) == len(TOYS)
    with pytest.raises(ConfigError, match="--out"):
        results_of("runs/mine", "plain")
