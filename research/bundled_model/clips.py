"""Make the bundled clips: three scenes nobody trained on, as mp4, webm and gif, with questions and right answers.

``python -m research.bundled_model.clips`` writes them into the package.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from prunevid_qwen.cli import run_script
from prunevid_qwen.moving_shapes import FIRST_HELD_OUT_SEED, make_questions, make_scene, render, write_video


@dataclass(frozen=True)
class Clip:
    """A file to make.

    Args:
        file: its name; the ending says the format.
        seed: of the scene.
        fps: frames a second.
        seconds: how long it lasts.
        scale: pixels for each pixel of the scene (112 x 112).
        questions: what is listed as asked; the demo asks the first of the first clip.
    """

    file: str
    seed: int
    fps: int
    seconds: int
    scale: int
    questions: tuple[str, ...]


def held_out(number: int) -> int:
    """The seed of the ``number``-th scene that is kept for clips."""
    return FIRST_HELD_OUT_SEED + 1_000_000 + number


CLIPS: tuple[Clip, ...] = (
    Clip(
        "late_square.mp4",
        held_out(23),
        fps=16,
        seconds=8,
        scale=2,
        questions=(
            "What color is the last object?",
            "What color is the brief object?",
            "What color is the circle?",
            "Which direction does the red object move?",
            "What shape is the first object?",
            "How many objects are there?",
            "Is there a green circle?",
        ),
    ),
    Clip(
        "three_arrive.webm",
        held_out(30),
        fps=8,
        seconds=8,
        scale=2,
        questions=(
            "What shape is the last object?",
            "What color is the first object?",
            "Which direction does the square move?",
            "What color is the star?",
            "How many objects are there?",
        ),
    ),
    Clip(
        "all_move.gif",
        held_out(38),
        fps=4,
        seconds=8,
        scale=1,
        questions=(
            "Which direction does the yellow object move?",
            "What color is the last object?",
            "What shape is the orange object?",
            "Is there a purple triangle?",
        ),
    ),
)
"""The files in the package."""


def write_clips(folder: Path, clips: tuple[Clip, ...] = CLIPS) -> Path:
    """Write the files and ``clips.json``: per clip file, seed, seconds and [{question, answer}].

    Args:
        folder: where to; made if missing.
        clips: what to make.
    Returns: the path of ``clips.json``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for clip in clips:
        scene = make_scene(clip.seed)
        write_video(folder / clip.file, render(scene, clip.fps * clip.seconds, clip.scale), clip.fps)
        known = {question.text: question.answer for question in make_questions(scene, clip.seed)}
        questions = [{"question": text, "answer": known[text]} for text in clip.questions]
        entries.append({"file": clip.file, "seed": clip.seed, "seconds": clip.seconds, "questions": questions})
    path = folder / "clips.json"
    path.write_text(json.dumps(entries, indent=2) + "\n")
    return path


BUNDLED = Path(__file__).resolve().parents[2] / "prunevid_qwen" / "bundled" / "clips"


def main(out: Annotated[Path, typer.Option(help="Folder to write into.")] = BUNDLED) -> None:
    """Draw, encode, list questions and answers."""
    typer.echo(f"wrote {write_clips(out)}")


if __name__ == "__main__":
    run_script(main)
