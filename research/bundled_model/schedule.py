"""The phases that the bundled model went through, in order, each with its reason where that is not plain."""

from __future__ import annotations

from dataclasses import replace

from prunevid_qwen.moving_shapes import QUESTION_TYPES
from research.bundled_model.phases import DeepenPhase, Phase, QuestionPhase, VisionPhase

_SMALL = ((112, 112),)
_SEEN = ("color", "shape", "exists", "count")
_OTHERS = {"color": 0.3, "shape": 0.3, "direction": 0.3}  # asked now and then, so that they are not forgotten

_EASY = QuestionPhase(
    "easy",
    steps=1200,
    types=(*_SEEN, "brief"),
    weights={},
    frames=(8,),
    sizes=_SMALL,
    choice_share=0.0,
    drop_share=0.0,
    clauses=True,
)
# pictures of two or three objects: few tokens to search, and guessing any object is worth little, so matching a
# word with the tokens that show it is learned within minutes here and hardly at all without
_PICTURES = QuestionPhase(
    "pictures",
    steps=400,
    types=_SEEN,
    weights={"count": 0.3},
    sizes=_SMALL,
    videos=32,
    choice_share=0.0,
    drop_share=0.0,
    picture_share=1.0,
    least_objects=2,
    decay_steps=1500,
)
_LETTERS = replace(
    _PICTURES,
    name="letters",
    steps=600,
    weights={"count": 0.5, "exists": 2.0},
    videos=24,
    choice_share=0.6,
    decay_steps=3000,
)
_ALL = QuestionPhase(
    "all",
    steps=600,
    types=QUESTION_TYPES,
    clauses=True,
    weights={"last": 2.0, "first": 1.5, "direction": 2.0, "exists": 1.5},
    frames=(8, 8, 12, 12, 16, 16),
    sizes=_SMALL * 6 + ((84, 140), (140, 84)),
    drop_share=0.2,
    picture_share=0.3,
    decay_steps=6000,
)
_HINTS = replace(_ALL, name="hints", steps=800, picture_share=0.2, fewest_options=2, hint_weight=0.3)
# short clips of few objects, most of them late. What came first is learned alone to begin with: asked about both
# ends, a model that names any object is right half of the time whichever word it reads, and stays there
_FIRST = QuestionPhase(
    "first",
    steps=250,
    types=("first", "color", "shape", "direction"),
    clauses=True,
    weights={"first": 4.0, **_OTHERS},
    frames=(8,),
    sizes=_SMALL,
    learning_rate=1e-3,
    videos=24,
    choice_share=0.0,
    drop_share=0.0,
    picture_share=0.0,
    least_objects=2,
    most_objects=2,
    usual_seconds_share=1.0,
    late_share=0.6,
    decay_steps=6000,
    hint_weight=0.3,
)
_ORDER = replace(
    _FIRST,
    name="order",
    steps=400,
    types=("first", "last", "brief", "color", "shape", "direction"),
    weights={"first": 3.0, "last": 2.0, "brief": 1.0, **_OTHERS},
    most_objects=3,
    rank_weight=1.0,
)
# "the last object" is read as "the red object" is: the word itself looks for its tokens, which "the object that
# appears last" did not bring about
_NAMED = replace(
    _ORDER,
    name="named",
    clauses=False,
    weights={"first": 2.0, "last": 2.0, "brief": 1.0, **_OTHERS},
    learning_rate=1.5e-3,
    rank_weight=0.5,
)
_HARD = QuestionPhase(
    "hard",
    steps=1400,
    types=QUESTION_TYPES,
    weights={"last": 3.0, "first": 1.5, "brief": 1.5, "direction": 1.5, "exists": 1.5},
    frames=(8, 12, 16, 16, 16),
    sizes=_SMALL * 8 + ((84, 140), (140, 84)),
    learning_rate=1.2e-3,
    choice_share=0.4,
    usual_seconds_share=0.8,
    fewest_options=3,
    hint_weight=0.2,
    rank_weight=0.3,
)
# letters are learned last, once the words they stand for are
_FINISH = replace(
    _HARD,
    name="finish",
    steps=900,
    weights={"last": 2.0, "brief": 1.5, "direction": 2.0, "exists": 1.5},
    learning_rate=8e-4,
    choice_share=0.6,
)
_OPTIONS = replace(
    _FINISH,
    name="options",
    steps=700,
    weights={"last": 1.5, "first": 2.0, "color": 2.0, "brief": 1.5, "direction": 1.5},
    choice_share=0.85,
)
_CLUTTER = QuestionPhase(
    "clutter",
    steps=4600,
    types=QUESTION_TYPES,
    weights={"last": 2.5, "first": 2.0, "brief": 2.5, "count": 1.5, "direction": 1.5},
    frames=(8, 12, 16, 16, 16, 32),
    sizes=_SMALL * 6 + ((84, 140), (140, 84), (168, 168)),
    learning_rate=1.2e-3,
    choice_share=0.6,
    drop_share=0.25,
    picture_share=0.04,
    usual_seconds_share=0.8,
    hint_weight=0.2,
    rank_weight=0.3,
    clutter_share=0.45,
    cut_share=0.15,
    most_distractors=1,
)

PHASES: tuple[Phase, ...] = (
    VisionPhase("vision", steps=1800),
    *(_EASY, _PICTURES, _LETTERS, _ALL, _HINTS, _FIRST, _ORDER, _NAMED, _HARD, _FINISH, _OPTIONS),
    # 8 layers: a pruning layer at the share of the depth that it has in the large models leaves three eighths above it
    DeepenPhase("deepen", layers=8),
    _CLUTTER,
)
"""The schedule that made the shipped weights."""


def shortened(phases: tuple[Phase, ...], share: float) -> tuple[Phase, ...]:
    """The same phases with ``share`` of their steps, at least one each: for a quick look."""
    return tuple(replace(phase, steps=max(min(1, phase.steps), int(phase.steps * share))) for phase in phases)
