"""How often the bundled model is right: held-out scenes, written as real files, read, resized and asked about.

Every question is asked twice: about the video and about a grey one of the same length, so that what can be guessed from
the wording alone stands beside what was seen. One line of raw results for each question; the summary follows from them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from prunevid_qwen.evaluation.shapes.videos import Condition, ShapesVideo
from prunevid_qwen.evaluation.statistics import clustered_mean
from prunevid_qwen.moving_shapes import (
    FIRST_HELD_OUT_SEED,
    QUESTION_TYPES,
    Question,
    make_questions,
)

Ask = Callable[[Path, list[Question]], list[str]]
"""Answers questions about a video file, in order."""

FIRST_SEED = FIRST_HELD_OUT_SEED + 2_000_000
"""Where the measured scenes begin; tests and bundled clips take theirs below."""


@dataclass(frozen=True)
class Answer:
    """One question asked once.

    Args:
        seed: the scene's.
        type: one of ``QUESTION_TYPES``.
        multiple_choice: whether a letter was asked for.
        blank: whether the video was grey.
        question: its text.
        expected: the right answer.
        given: what the model said, all of it.
        correct: whether that is the right answer.
    """

    seed: int
    type: str
    multiple_choice: bool
    blank: bool
    question: str
    expected: str
    given: str
    correct: bool


def is_correct(given: str, expected: str) -> bool:
    """Judge an answer: its first word, without brackets and stops, must be the expected one, capitals included."""
    words = given.replace("(", " ").replace(")", " ").replace(".", " ").split()
    return bool(words) and words[0] == expected


def measure(
    ask: Ask, videos: int, raw: Path, condition: Condition, progress: Callable[[int], None] | None = None
) -> None:
    """Ask about scenes ``FIRST_SEED`` to ``FIRST_SEED + videos - 1`` and append the answers to ``raw``.

    Args:
        ask: the model.
        videos: how many scenes.
        raw: JSON lines; scenes that are there with all their answers are not asked about again.
        condition: the kind of video.
        progress: called with the number of scenes done.
    """
    done = _complete_seeds(raw, condition)
    raw.parent.mkdir(parents=True, exist_ok=True)
    for number in range(videos):
        seed = FIRST_SEED + number
        if seed not in done:
            with raw.open("a") as lines:  # a scene's lines are written together: an interruption loses one scene
                lines.write("".join(json.dumps(asdict(answer)) + "\n" for answer in _ask_about(ask, seed, condition)))
        if progress is not None:
            progress(number + 1)


def read_answers(raw: Path, videos: int) -> list[Answer]:
    """Read back what ``measure`` wrote about the first ``videos`` scenes."""
    answers = [Answer(**json.loads(line)) for line in raw.read_text().splitlines()]
    return [answer for answer in answers if answer.seed < FIRST_SEED + videos]


def summarise(answers: list[Answer]) -> dict[str, Any]:
    """Accuracy by way of asking and by type, with the grey videos beside it.

    Returns: for "word", "multiple_choice" and "both", for "all" and every type: n, videos, accuracy, interval (95 %,
        scenes drawn with replacement; None for a single scene) and blank, the accuracy on grey videos.
    """
    table: dict[str, Any] = {}
    for way, chosen in (("both", None), ("word", False), ("multiple_choice", True)):
        rows = [answer for answer in answers if chosen is None or answer.multiple_choice == chosen]
        table[way] = {"all": _figures(rows)}
        for kind in QUESTION_TYPES:
            of_kind = [answer for answer in rows if answer.type == kind]
            if of_kind:
                table[way][kind] = _figures(of_kind)
    return table


def package_answers(model: Any) -> Ask:
    """Answer with a ``PruneVidQwen25VL``: its own reading, resizing, positions and pruning.

    Args:
        model: loaded, with the config that is to be measured.
    """

    def ask(path: Path, questions: list[Question]) -> list[str]:
        video = model.preprocessor.media.read_video(str(path), model.config)  # once for all that is asked about it
        given = []
        for question in questions:
            content = [{"type": "video", "video": video}, {"type": "text", "text": question.text}]
            messages = [{"role": "user", "content": content}]
            if question.answer_prefix:
                messages.append({"role": "assistant", "content": question.answer_prefix})
            given.append(model.generate(messages=messages, max_new_tokens=4)["answer"])
        return given

    return ask


def _ask_about(ask: Ask, seed: int, condition: Condition) -> Iterator[Answer]:
    """Write the scene and its grey twin as mp4 and ask everything about both, one word and multiple choice."""
    with TemporaryDirectory() as folder:
        for blank in (False, True):
            video = ShapesVideo(condition, seed, blank)
            path = video.write(Path(folder) / f"{'blank' if blank else 'video'}.mp4")
            for choice in (False, True):
                questions = make_questions(video.scene, seed, choice)
                for question, given in zip(questions, ask(path, questions), strict=True):
                    right = is_correct(given, question.answer)
                    yield Answer(seed, question.type, choice, blank, question.text, question.answer, given, right)


def _complete_seeds(raw: Path, condition: Condition) -> set[int]:
    """Scenes already asked about; a last line cut short by a kill is taken off together with its scene."""
    if not raw.exists():
        return set()
    answers = []
    for line in raw.read_text().splitlines():
        try:
            answers.append(Answer(**json.loads(line)))
        except ValueError:
            break
    seeds = {answer.seed for answer in answers}
    needed = {seed: 4 * len(make_questions(ShapesVideo(condition, seed).scene, seed)) for seed in seeds}
    complete = {seed for seed, count in needed.items() if sum(answer.seed == seed for answer in answers) == count}
    kept = [answer for answer in answers if answer.seed in complete]
    beside = raw.with_name(f"{raw.name}.new")  # an interruption leaves one of the two whole
    beside.write_text("".join(json.dumps(asdict(answer)) + "\n" for answer in kept))
    beside.replace(raw)
    return complete


def _figures(rows: list[Answer]) -> dict[str, Any]:
    seen = [answer for answer in rows if not answer.blank]
    unseen = [answer for answer in rows if answer.blank]
    interval = clustered_mean([answer.correct for answer in seen], [answer.seed for answer in seen]).interval
    return {
        "n": len(seen),
        "videos": len({answer.seed for answer in seen}),
        "accuracy": round(_share(seen), 4),
        "interval": [round(end, 4) for end in interval] if interval else None,
        "blank": round(_share(unseen), 4),
    }


def _share(rows: list[Answer]) -> float:
    return sum(answer.correct for answer in rows) / len(rows) if rows else math.nan
