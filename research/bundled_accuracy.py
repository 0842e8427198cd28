"""How often a bundled toy is right: held-out scenes, written as real files, read, resized and asked about.

Every question is asked twice: about the video and about a grey one of the same length, so that what can be guessed from
the wording alone stands beside what was seen. ``python -m research.bundled_accuracy`` writes a line for each question
to eval/results/bundled_accuracy_CONDITION.jsonl (of ``--model bundled-qwen3vl`` to bundled_qwen3vl_accuracy_...) and
the table to .json, and prints the lines of the toy's card; a stopped measurement goes on where it was.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
import typer

from prunevid_qwen import PruneVidQwen25VL, get_config
from prunevid_qwen.bundled import BUNDLED, TOYS, is_bundled
from prunevid_qwen.cli import run_script
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.report.intervals import clustered_mean
from prunevid_qwen.evaluation.shapes.videos import ShapesVideo, is_correct
from prunevid_qwen.evaluation.store import Lines, keep_lines, read_lines, surroundings
from prunevid_qwen.moving_shapes import FIRST_HELD_OUT_SEED, QUESTION_TYPES, Question, make_questions
from prunevid_qwen.moving_shapes.conditions import BY_NAME, Condition
from prunevid_qwen.receipt import versions
from research.shapes_run import RESULTS, command_of

Ask = Callable[[Path, list[Question]], list[str]]
"""Answers questions about a video file, in order."""

FIRST_SEED = FIRST_HELD_OUT_SEED + 2_000_000
"""Where the measured scenes begin; tests and bundled clips take theirs below."""
_COLUMNS = ("all", "color", "shape", "direction", "first", "last", "brief", "count", "exists")  # of a card


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


def main(
    videos: Annotated[int, typer.Option(help="Held-out scenes to ask about.")] = 200,
    model: Annotated[str, typer.Option(help=f"{', '.join(TOYS)}, or the folder of an exported model.")] = BUNDLED,
    preset: Annotated[str, typer.Option(help="What is pruned: baseline prunes nothing.")] = "baseline",
    out: Annotated[Path | None, typer.Option(help="Path of the results without ending. A folder needs it.")] = None,
    condition: Annotated[str, typer.Option(help=f"Kind of video: {', '.join(BY_NAME)}.")] = "plain",
    threads: Annotated[int, typer.Option(help="Torch threads.")] = 1,
) -> None:
    """Ask, then print and write the table."""
    torch.set_num_threads(threads)
    out = out or results_of(model, condition)
    raw, began = out.with_suffix(".jsonl"), time.monotonic()
    kind = BY_NAME[condition]
    config = get_config(preset).replace(max_frames=kind.frames, max_pixels=kind.height * kind.width)
    ask = package_answers(PruneVidQwen25VL(model, config, device="cpu", dtype="float32"))
    with typer.progressbar(length=videos, label="videos") as bar:
        measure(ask, videos, raw, kind, progress=lambda done: bar.update(done - bar.pos))
    table = summarise(read_answers(raw, videos))
    summary = {
        "what": f"{model} on held-out moving shapes, read from mp4 files; blank: the same length of grey",
        "preset": preset,
        "command": command_of("research.bundled_accuracy"),
        "seeds": [FIRST_SEED, FIRST_SEED + videos - 1],
        "condition": asdict(kind),
        "minutes": round((time.monotonic() - began) / 60, 1),
        "versions": versions(),
        **surroundings(),
        "accuracy": table,
    }
    out.with_suffix(".json").write_text(json.dumps(summary, indent=2) + "\n")
    for way, rows in table.items():
        for type_, row in rows.items():
            interval = " [{:.1%}, {:.1%}]".format(*row["interval"]) if row["interval"] else ""
            figures = f"{row['accuracy']:6.1%}{interval}  blank {row['blank']:6.1%}  n {row['n']}"
            typer.echo(f"{way:16s} {type_:10s} {figures}")
    typer.echo("\n".join(card_lines(table["both"], condition)))


def results_of(model: str, condition: str) -> Path:
    """Return the path, without ending, of a toy's committed results; `ConfigError` for a model that is no toy."""
    if not is_bundled(model):
        raise ConfigError(f"{model} is none of {', '.join(TOYS)}, whose results are committed: pass --out for its own")
    return RESULTS / f"{model.replace('-', '_')}_accuracy_{condition}"


def card_lines(rows: dict[str, Any], condition: str) -> tuple[str, str]:
    """Write what a card says of a condition: its row of the table, and the interval of the whole.

    Args:
        rows: of `summarise`, for both ways of asking.
        condition: the name of the kind of video.
    """
    shares = [rows[kind]["accuracy"] if kind in rows else math.nan for kind in _COLUMNS]
    low, high = rows["all"]["interval"] or (math.nan, math.nan)
    cells = " | ".join(f"{100 * share:.1f}" for share in (*shares, rows["all"]["blank"]))
    return (
        f"| {condition} | {cells} |",
        f"{condition} {rows['all']['n']} questions, {100 * low:.1f} to {100 * high:.1f}",
    )


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
    with Lines(raw) as lines:
        for number in range(videos):
            seed = FIRST_SEED + number
            if seed not in done:  # a scene's lines are written together: an interruption loses one scene
                lines.add(*(asdict(answer) for answer in _ask_about(ask, seed, condition)))
            if progress is not None:
                progress(number + 1)


def read_answers(raw: Path, videos: int) -> list[Answer]:
    """Read back what ``measure`` wrote about the first ``videos`` scenes."""
    answers = [Answer(**line) for line in read_lines(raw)]
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
    """Return the scenes asked about; what a kill left of another one is taken out of the file."""
    asked = Counter(line["seed"] for line in read_lines(raw))
    needed = {seed: 4 * len(make_questions(ShapesVideo(condition, seed).scene, seed)) for seed in asked}
    complete = {seed for seed, count in asked.items() if count == needed[seed]}
    keep_lines(raw, lambda line: line["seed"] in complete)
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


if __name__ == "__main__":
    run_script(main)
