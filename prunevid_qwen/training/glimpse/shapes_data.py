"""`moving_shapes` as data to train on: videos drawn on demand, a question for each, and the tokens that answer it.

Record i of a seed is always the same, whatever was asked for before. Training scenes have seeds below
``FIRST_HELD_OUT_SEED``; held-out ones stand in a range of their own, which no clip, benchmark or calibration uses.

Which tokens matter: those that show an object the question is about (`token_cover` above ``LEAST_COVER``, as the
benchmark's evidence), in any frame; of an object that no token shows so well (one in 500: brief, and on the corner of
four tokens) those that show most of it, so that no target is empty. "How many objects" is about every object. "Is there
a red circle" answered with no has nothing to point at; what proves the no are the objects that share the colour or the
shape, so it is about those.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from prunevid_qwen.errors import ConfigError, quoted
from prunevid_qwen.inputs.qwen.media import MediaReader, Medium
from prunevid_qwen.inputs.qwen.pixels import video_pixels
from prunevid_qwen.moving_shapes import (
    FIRST_HELD_OUT_SEED,
    QUESTION_TYPES,
    Question,
    Scene,
    frame_times,
    render,
    sample_questions,
)
from prunevid_qwen.moving_shapes.conditions import CONDITIONS, SECONDS, Condition
from prunevid_qwen.moving_shapes.cover import LEAST_COVER, token_cover
from prunevid_qwen.training.glimpse.box_masks import Grid
from prunevid_qwen.training.glimpse.records import BoxRecord, Inspected, check_index

HELD_OUT_SEED = FIRST_HELD_OUT_SEED + 7_000_000
"""Where the scenes begin on which a glimpse is judged while it is trained; `HELD_OUT_VIDEOS` of them."""

HELD_OUT_VIDEOS = 1_000_000
_APART = 7  # keeps these draws apart from those of other users of the same seeds
_SMALLEST_FRAME = 28 * 28
_NEARLY = 1 - 1e-9


@dataclass(frozen=True)
class ShapesClip:
    """One video, not drawn yet, and the objects that matter in it.

    Args:
        condition: the kind of video.
        seed: of its scene.
        objects: indices into the scene's objects, at least one.
    """

    condition: Condition
    seed: int
    objects: tuple[int, ...]

    @property
    def scene(self) -> Scene:
        """What is seen in it."""
        return self.condition.scene(self.seed)

    def frames(self) -> np.ndarray:
        """Draw it: [F, H, W, 3] uint8 rgb."""
        return render(self.scene, self.condition.frames)

    def medium(self, media: MediaReader) -> Medium:
        """Draw it and cut it into patches, as large as it is drawn whatever least size the model's folder asks for."""
        options = replace(media.video, min_pixels=min(media.video.min_pixels, _SMALLEST_FRAME))
        pixels, grid = video_pixels(self.frames(), options, self.condition.height * self.condition.width)
        return Medium("video", pixels, grid, 2 * SECONDS / self.condition.frames, {})

    def shows(self, grid: Grid) -> np.ndarray:
        """Say which merged tokens show an object that matters: [T * h * w] bool.

        Raises:
            ConfigError: the grid is of another number of frames.
        """
        steps, rows, columns = grid
        if steps != self.condition.frames // 2:
            raise ConfigError(
                f"a {self.condition.name} video has {self.condition.frames // 2} temporal positions, got a grid with "
                f"{steps}: pass the grid of the record's own medium"
            )
        cover = token_cover(self.scene, frame_times(self.condition.frames), (rows, columns))[list(self.objects)]
        fullest = cover.max((1, 2, 3), keepdims=True)
        least = np.minimum(
            LEAST_COVER, fullest * _NEARLY
        )  # an object that no token shows well is looked for in its best
        return (cover > least).any(0).reshape(-1)


class ShapesData:
    """`BoxData` of moving shapes.

    Args:
        samples: how many records, at least 1; held out at most ``HELD_OUT_VIDEOS``.
        seed: of everything that is drawn by lot, at least 0; other seeds give other training records.
        held_out: take scenes that nothing is trained on.
        conditions: how likely each kind of video is, relative to the others.
        types: kinds of question; equally likely among those that a scene allows.
        choice_share: share of questions that ask for a letter, 0 to 1.

    Raises:
        ConfigError: an option is outside its range.
    """

    def __init__(
        self,
        samples: int,
        seed: int = 0,
        held_out: bool = False,
        conditions: Mapping[str, float] | None = None,
        types: Sequence[str] = QUESTION_TYPES,
        choice_share: float = 0.3,
    ) -> None:
        weights = dict.fromkeys(CONDITIONS, 1.0) if conditions is None else dict(conditions)
        if samples < 1 or seed < 0 or not 0 <= choice_share <= 1 or (held_out and samples > HELD_OUT_VIDEOS):
            raise ConfigError(
                f"moving_shapes takes at least 1 sample (held out at most {HELD_OUT_VIDEOS}), a seed of at least 0 and "
                f"a choice_share in [0, 1]; got samples={samples}, seed={seed}, choice_share={choice_share}"
            )
        if not set(weights) <= set(CONDITIONS) or min(weights.values(), default=0) < 0 or not sum(weights.values()) > 0:
            raise ConfigError(
                f"conditions weigh {', '.join(CONDITIONS)} with numbers of at least 0, not all 0; got {quoted(weights)}"
            )
        if not types or not {"color", "shape", "count", "exists"} & set(types) or set(types) - set(QUESTION_TYPES):
            raise ConfigError(
                f"types are some of {', '.join(QUESTION_TYPES)}, with one of color, shape, count or exists, as not "
                f"every scene has an answer to the others; got {quoted(tuple(types))}"
            )
        self._samples, self._seed, self._held_out = samples, seed, held_out
        self._types, self._choice_share = tuple(types), choice_share
        self._conditions = [CONDITIONS[name] for name in weights]
        self._chances = np.array(list(weights.values())) / sum(weights.values())

    def __len__(self) -> int:
        """Count the records."""
        return self._samples

    def __iter__(self) -> Iterator[BoxRecord]:
        """Make one record after the other."""
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> BoxRecord:
        """Invent one record; its video is drawn when it is asked for."""
        rng = np.random.default_rng([_APART, int(self._held_out), self._seed, check_index(index, len(self))])
        condition = self._conditions[int(rng.choice(len(self._conditions), p=self._chances))]
        seed = HELD_OUT_SEED + index if self._held_out else int(rng.integers(0, FIRST_HELD_OUT_SEED))
        scene = condition.scene(seed)
        choice = bool(rng.random() < self._choice_share)
        question = sample_questions(scene, rng, 1, choice, self._types)[0]
        clip = ShapesClip(condition, seed, asked_about(scene, question))
        return BoxRecord(
            f"{condition.name}-{seed}-{index}",
            clip,
            question.text,
            question.answer,
            answer_prefix=question.answer_prefix,
            turn_ends=not question.multiple_choice,
        )

    def inspect(self, index: int, images: str) -> Inspected:
        """Find nothing wrong: what is drawn is right."""
        return Inspected(f"moving_shapes record {check_index(index, len(self))}", None, ())


def asked_about(scene: Scene, question: Question) -> tuple[int, ...]:
    """Say which objects of the scene prove the answer: indices, at least one."""
    if question.type != "exists" or question.word == "yes":
        return question.objects
    color, shape = question.text.splitlines()[0].rstrip("?").split()[-2:]
    return tuple(k for k, item in enumerate(scene.objects) if item.color == color or item.shape == shape)
