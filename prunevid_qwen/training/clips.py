"""Make the bundled clips: three scenes nobody trained on, as mp4, webm and gif, with questions and right answers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from prunevid_qwen.moving_shapes import FIRST_HELD_OUT_SEED, make_questions, make_scene, render, write_video


@dataclass(frozen=True)
class Clip:
    """A file to make.

    Args:
        file: its name; the ending says the format.
        seed: of the scene.
        fps: frames a second.
        seconds: how long it lasts.
        first: the question that comes first in the list (the demo asks the first clip's).
        questions: how many questions are listed.
    """

    file: str
    seed: int
    fps: int
    seconds: int
    first: str
    questions: int = 5


CLIPS: tuple[Clip, ...] = ()


def write_clips(folder: Path, clips: tuple[Clip, ...] = CLIPS, scale: int = 2) -> Path:
    """Write the files and ``clips.json``: per clip file, seed, seconds and [{question, answer}].

    Args:
        folder: where to; made if missing.
        clips: what to make.
        scale: pixels for each pixel of the scene (112 x 112).
    Returns: the path of ``clips.json``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for clip in clips:
        scene = make_scene(clip.seed)
        write_video(folder / clip.file, render(scene, clip.fps * clip.seconds, scale), clip.fps)
        known = {question.text: question.answer for question in make_questions(scene, clip.seed)}
        texts = [clip.first, *(text for text in known if text != clip.first)][: clip.questions]
        questions = [{"question": text, "answer": known[text]} for text in texts]
        entries.append({"file": clip.file, "seed": clip.seed, "seconds": clip.seconds, "questions": questions})
    path = folder / "clips.json"
    path.write_text(json.dumps(entries, indent=2) + "\n")
    return path


def held_out(number: int) -> int:
    """The seed of the ``number``-th scene that is kept for clips."""
    return FIRST_HELD_OUT_SEED + 1_000_000 + number
