"""Synthetic videos of moving shapes, questions about them and their answers, all from a seed; numpy alone draws them.

>>> from prunevid_qwen.moving_shapes import make_questions, make_scene, render
>>> scene = make_scene(FIRST_HELD_OUT_SEED)
>>> frames = render(scene, frames=16)
>>> [(question.text, question.answer) for question in make_questions(scene, seed=0)]  # doctest: +SKIP
"""

from __future__ import annotations

from prunevid_qwen.moving_shapes.drawing import background, boxes, render
from prunevid_qwen.moving_shapes.questions import (
    ANSWER_PREFIX,
    LETTERS,
    NUMBERS,
    QUESTION_TYPES,
    Question,
    make_questions,
    sample_questions,
)
from prunevid_qwen.moving_shapes.scene import (
    COLORS,
    DIRECTIONS,
    FIRST_HELD_OUT_SEED,
    SHAPES,
    Distractor,
    MovingObject,
    Scene,
    frame_times,
    make_scene,
)
from prunevid_qwen.moving_shapes.video_file import write_frames, write_video

__all__ = [
    "ANSWER_PREFIX",
    "COLORS",
    "DIRECTIONS",
    "FIRST_HELD_OUT_SEED",
    "LETTERS",
    "NUMBERS",
    "QUESTION_TYPES",
    "SHAPES",
    "Distractor",
    "MovingObject",
    "Question",
    "Scene",
    "background",
    "boxes",
    "frame_times",
    "make_questions",
    "make_scene",
    "render",
    "sample_questions",
    "write_frames",
    "write_video",
]
