"""What one phase of training the bundled model is: what it shows, what it asks and for how long."""

from __future__ import annotations

from dataclasses import dataclass


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
        clutter_share: share of the steps whose scenes hold two to six objects, up to three dots, cuts and a shaken
            camera, on 168 x 168 pixels.
    """

    name: str
    steps: int
    learning_rate: float = 2e-3
    warmup: int = 60
    videos: int = 24
    patches: int = 4
    decay_steps: int | None = None
    clutter_share: float = 0.0


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
        clutter_share: share of the steps (pictures apart) whose scenes hold two to six objects and up to three dots,
            half of them with a shaken camera and three in ten with a cut.
        clutter_frames: instead of ``frames`` in those.
        clutter_sizes: instead of ``sizes`` in those.
        cut_share: chance of a cut in the other scenes.
        most_distractors: dots in the other scenes.
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
    clutter_share: float = 0.0
    clutter_frames: tuple[int, ...] = (8, 12, 16, 16)
    clutter_sizes: tuple[tuple[int, int], ...] = ((168, 168), (168, 168), (140, 168), (168, 140), (112, 112))
    cut_share: float = 0.0
    most_distractors: int = 0


@dataclass(frozen=True)
class DeepenPhase:
    """Add decoder layers at the end that change nothing until they are trained: their output weights are zero.

    Args:
        name: as the learning curve calls it.
        layers: of the decoder afterwards.
        steps: none; every phase says how many it takes.
    """

    name: str
    layers: int
    steps: int = 0


TrainedPhase = VisionPhase | QuestionPhase
Phase = TrainedPhase | DeepenPhase
