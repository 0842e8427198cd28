"""What the bundled model is trained on, in which order and for how long."""

from __future__ import annotations

from dataclasses import dataclass, replace

from prunevid_qwen.moving_shapes import QUESTION_TYPES


@dataclass(frozen=True)
class VisionPhase:
    """Train the vision tower to name, in every merged token, the object's colour, shape and direction.

    Args:
        name: as the learning curve calls it.
        steps: updates.
        learning_rate: its peak; it falls along a cosine to 3 % of it.
        warmup: steps until the peak.
        videos: scenes in a step.
        patches: pairs of frames drawn from each.
        decay_steps: steps over which the learning rate falls; None for those of the phase.
    """

    name: str
    steps: int
    learning_rate: float = 2e-3
    warmup: int = 60
    videos: int = 24
    patches: int = 4
    decay_steps: int | None = None


@dataclass(frozen=True)
class QuestionPhase:
    """Train the decoder to answer, on the vision tower's frozen features.

    Args:
        name: as the learning curve calls it.
        steps: updates.
        types: types of questions asked.
        weights: how often a type is asked relative to the others.
        frames: sampled frames of a video, one drawn for each step.
        sizes: (height, width) in pixels, one drawn for each step.
        learning_rate: its peak; it falls along a cosine to 3 % of it.
        warmup: steps until the peak.
        videos: scenes in a step.
        questions: asked about each for a one-word answer.
        choice_questions: asked about each where a letter is the answer.
        choice_share: share of the steps that ask for letters.
        drop_share: share of the steps in which 10 to 80 % of the background tokens (none that shows an object) are left
            out.
        picture_share: share of the steps that show a single picture instead of a video.
        least_objects: in a scene.
        most_objects: in a scene of a video.
        usual_seconds_share: share of the steps whose clips last 8 seconds; the others' last 2 to 30.
        late_share: chance that an object appears after the beginning.
        fewest_options: with multiple choice, options are this many to 4.
        clauses: ask for "the object that appears last" instead of "the last object".
        hint_weight: weight of two more predictions of the answer's word: at the question mark, and behind the letter
            and its bracket. They show early what a letter stands for; nothing in the prompt changes.
        rank_weight: weight of telling, from every visual token's state inside the decoder and through a head that is
            thrown away, how many objects had appeared before the one it shows.
        decay_steps: steps over which the learning rate falls; None for those of the phase. More than those ends the
            phase at a high rate, which is right where another one follows.
    """

    name: str
    steps: int
    types: tuple[str, ...]
    weights: dict[str, float]
    frames: tuple[int, ...] = (8, 12, 16, 16, 16, 32)
    sizes: tuple[tuple[int, int], ...] = ((112, 112),) * 5 + ((84, 140), (140, 84), (168, 168))
    learning_rate: float = 2e-3
    warmup: int = 80
    videos: int = 16
    questions: int = 12
    choice_questions: int = 7
    choice_share: float = 0.5
    drop_share: float = 0.3
    picture_share: float = 0.05
    least_objects: int = 1
    most_objects: int = 3
    usual_seconds_share: float = 0.6
    late_share: float = 0.35
    fewest_options: int = 4
    clauses: bool = False
    hint_weight: float = 0.0
    rank_weight: float = 0.0
    decay_steps: int | None = None


Phase = VisionPhase | QuestionPhase

PHASES: tuple[Phase, ...] = (
    VisionPhase("vision", steps=1800),
    QuestionPhase(
        "easy",
        steps=1200,
        types=("color", "shape", "exists", "count", "brief"),
        weights={},
        frames=(8,),
        sizes=((112, 112),),
        choice_share=0.0,
        drop_share=0.0,
        clauses=True,
    ),
    # pictures of two or three objects: few tokens to search, and guessing any object is worth little, so matching a
    # word with the tokens that show it is learned within minutes here and hardly at all without
    QuestionPhase(
        "pictures",
        steps=400,
        types=("color", "shape", "exists", "count"),
        weights={"count": 0.3},
        sizes=((112, 112),),
        videos=32,
        choice_share=0.0,
        drop_share=0.0,
        picture_share=1.0,
        least_objects=2,
        decay_steps=1500,
    ),
    QuestionPhase(
        "letters",
        steps=600,
        types=("color", "shape", "exists", "count"),
        weights={"count": 0.5, "exists": 2.0},
        sizes=((112, 112),),
        videos=24,
        choice_share=0.6,
        drop_share=0.0,
        picture_share=1.0,
        least_objects=2,
        decay_steps=3000,
    ),
    QuestionPhase(
        "all",
        steps=600,
        types=QUESTION_TYPES,
        clauses=True,
        weights={"last": 2.0, "first": 1.5, "direction": 2.0, "exists": 1.5},
        frames=(8, 8, 12, 12, 16, 16),
        sizes=((112, 112),) * 6 + ((84, 140), (140, 84)),
        drop_share=0.2,
        picture_share=0.3,
        decay_steps=6000,
    ),
    QuestionPhase(
        "hints",
        steps=800,
        types=QUESTION_TYPES,
        clauses=True,
        weights={"last": 2.0, "first": 1.5, "direction": 2.0, "exists": 1.5},
        frames=(8, 8, 12, 12, 16, 16),
        sizes=((112, 112),) * 6 + ((84, 140), (140, 84)),
        drop_share=0.2,
        picture_share=0.2,
        decay_steps=6000,
        fewest_options=2,
        hint_weight=0.3,
    ),
    # short clips of few objects, most of them late. What came first is learned alone to begin with: asked about both
    # ends, a model that names any object is right half of the time whichever word it reads, and stays there
    QuestionPhase(
        "first",
        steps=250,
        types=("first", "color", "shape", "direction"),
        clauses=True,
        weights={"first": 4.0, "color": 0.3, "shape": 0.3, "direction": 0.3},
        frames=(8,),
        sizes=((112, 112),),
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
    ),
    QuestionPhase(
        "order",
        steps=400,
        types=("first", "last", "brief", "color", "shape", "direction"),
        clauses=True,
        weights={"first": 3.0, "last": 2.0, "brief": 1.0, "color": 0.3, "shape": 0.3, "direction": 0.3},
        frames=(8,),
        sizes=((112, 112),),
        learning_rate=1e-3,
        videos=24,
        choice_share=0.0,
        drop_share=0.0,
        picture_share=0.0,
        least_objects=2,
        usual_seconds_share=1.0,
        late_share=0.6,
        decay_steps=6000,
        hint_weight=0.3,
        rank_weight=1.0,
    ),
    # "the last object" is read as "the red object" is: the word itself looks for its tokens, which "the object that
    # appears last" did not bring about
    QuestionPhase(
        "named",
        steps=400,
        types=("first", "last", "brief", "color", "shape", "direction"),
        weights={"first": 2.0, "last": 2.0, "brief": 1.0, "color": 0.3, "shape": 0.3, "direction": 0.3},
        frames=(8,),
        sizes=((112, 112),),
        learning_rate=1.5e-3,
        videos=24,
        choice_share=0.0,
        drop_share=0.0,
        picture_share=0.0,
        least_objects=2,
        usual_seconds_share=1.0,
        late_share=0.6,
        decay_steps=6000,
        hint_weight=0.3,
        rank_weight=0.5,
    ),
    QuestionPhase(
        "hard",
        steps=1400,
        types=QUESTION_TYPES,
        weights={"last": 3.0, "first": 1.5, "brief": 1.5, "direction": 1.5, "exists": 1.5},
        frames=(8, 12, 16, 16, 16),
        sizes=((112, 112),) * 8 + ((84, 140), (140, 84)),
        learning_rate=1.2e-3,
        choice_share=0.4,
        usual_seconds_share=0.8,
        fewest_options=3,
        hint_weight=0.2,
        rank_weight=0.3,
    ),
    # letters are learned last, once the words they stand for are
    QuestionPhase(
        "finish",
        steps=900,
        types=QUESTION_TYPES,
        weights={"last": 2.0, "brief": 1.5, "direction": 2.0, "exists": 1.5},
        frames=(8, 12, 16, 16, 16),
        sizes=((112, 112),) * 8 + ((84, 140), (140, 84)),
        learning_rate=8e-4,
        choice_share=0.6,
        usual_seconds_share=0.8,
        fewest_options=3,
        hint_weight=0.2,
        rank_weight=0.3,
    ),
    QuestionPhase(
        "options",
        steps=700,
        types=QUESTION_TYPES,
        weights={"last": 1.5, "first": 2.0, "color": 2.0, "brief": 1.5, "direction": 1.5},
        frames=(8, 12, 16, 16, 16),
        sizes=((112, 112),) * 8 + ((84, 140), (140, 84)),
        learning_rate=8e-4,
        choice_share=0.85,
        usual_seconds_share=0.8,
        fewest_options=3,
        hint_weight=0.2,
        rank_weight=0.3,
    ),
)
"""The schedule that made the shipped weights."""


def shortened(phases: tuple[Phase, ...], share: float) -> tuple[Phase, ...]:
    """The same phases with ``share`` of their steps, at least one each: for a quick look."""
    return tuple(replace(phase, steps=max(1, int(phase.steps * share))) for phase in phases)
