"""The phases that the second toy went through, in order."""

from __future__ import annotations

from dataclasses import replace

from prunevid_qwen.moving_shapes import QUESTION_TYPES
from research.bundled_model.phases import VisionPhase
from research.bundled_qwen3vl.questions import BeginPhase, Phase, TaughtPhase

_SMALL = ((112, 112),)
# the decoder begins with the first toy's parameters, reads other positions, and has narrower layers: the first toy's
# states, shown at every token, tell it sooner than answers alone
_BESIDE = TaughtPhase(
    "beside",
    steps=1000,
    types=QUESTION_TYPES,
    weights={"last": 2.0, "first": 2.0, "brief": 2.0, "count": 1.5, "direction": 1.5},
    frames=(8, 12, 16, 16),
    sizes=_SMALL * 6 + ((84, 140), (140, 84)),
    learning_rate=2e-3,
    choice_share=0.5,
    drop_share=0.2,
    picture_share=0.05,
    usual_seconds_share=0.8,
    clutter_share=0.3,
    clutter_frames=(8, 12),
    cut_share=0.15,
    most_distractors=1,
    decay_steps=6000,
    states_weight=1.0,
    answers_weight=1.0,
)
_ALONE = replace(
    _BESIDE,
    name="alone",
    steps=2200,
    weights={"last": 2.5, "first": 2.0, "brief": 2.5, "count": 1.5, "direction": 1.5},
    frames=(8, 12, 16, 16, 16, 32),
    sizes=_SMALL * 6 + ((84, 140), (140, 84), (168, 168)),
    learning_rate=1.2e-3,
    choice_share=0.6,
    drop_share=0.25,
    clutter_share=0.45,
    clutter_frames=(8, 12, 16, 16),
    decay_steps=None,
    hint_weight=0.2,
    states_weight=0.0,
    answers_weight=0.0,
)

PHASES: tuple[Phase, ...] = (
    VisionPhase("vision", steps=2400, clutter_share=0.25),
    BeginPhase("begin"),
    _BESIDE,
    _ALONE,
)
"""The schedule that made the shipped weights."""
