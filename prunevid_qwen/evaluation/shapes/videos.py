"""The videos of the benchmark: four kinds of moving shapes, a seed each, and the questions about them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from prunevid_qwen.errors import ConfigError, quoted
from prunevid_qwen.moving_shapes import (
    FIRST_HELD_OUT_SEED,
    Question,
    Scene,
    frame_times,
    make_questions,
    render,
    write_video,
)
from prunevid_qwen.moving_shapes.conditions import CONDITIONS, SECONDS, Condition
from prunevid_qwen.moving_shapes.cover import LEAST_COVER, token_cover

FIRST_SEED = FIRST_HELD_OUT_SEED + 3_000_000
"""Where the benchmark's videos begin, unless told otherwise."""

CALIBRATION_SEED = FIRST_HELD_OUT_SEED + 4_000_000
"""Where the videos begin on which configs are fitted to a budget: never asked for an answer."""

CALIBRATION_VIDEOS = 48
_FILE_RATE = 16  # frames a second of files
_GREY = 128


@dataclass(frozen=True)
class ShapesVideo:
    """One video of the benchmark, not drawn yet; a ``blank`` one is grey, and its length, size and questions stay."""

    condition: Condition
    seed: int
    blank: bool = False

    @property
    def name(self) -> tuple[str, int]:
        """Condition and seed."""
        return self.condition.name, self.seed

    @cached_property
    def scene(self) -> Scene:
        """The shapes and how they move."""
        return self.condition.scene(self.seed)

    def frames(self, count: int) -> np.ndarray:
        """Draw ``count`` evenly spaced frames: [count, H, W, 3] uint8 rgb."""
        return self._draw(count, 1)

    def write(self, path: Path) -> Path:
        """Write the video as a file of twice its size, 8 seconds long."""
        return write_video(path, self._draw(int(SECONDS * _FILE_RATE), 2), _FILE_RATE)

    def _draw(self, count: int, scale: int) -> np.ndarray:
        frames = render(self.scene, count, scale=scale)
        return np.full_like(frames, _GREY) if self.blank else frames

    def questions(self, count: int) -> list[Question]:
        """Choose ``count`` questions, half one-word and half multiple choice, types taking turns; always the same."""
        rng = np.random.default_rng([self.seed, 4])
        words, letters = (_spread(rng, make_questions(self.scene, self.seed, choice)) for choice in (False, True))
        half = (count + 1) // 2
        return words[:half] + letters[: count - half]

    def shows(self, question: Question) -> np.ndarray:
        """Tell which tokens show which object the question is about: [objects asked about, T * h * w] bool."""
        return self._covered[list(question.objects)]

    @cached_property
    def _covered(self) -> np.ndarray:
        cover = token_cover(self.scene, frame_times(self.condition.frames))
        return cover.reshape(len(cover), -1) > LEAST_COVER


def benchmark_videos(count: int, first_seed: int = FIRST_SEED, conditions: tuple[str, ...] = ()) -> list[ShapesVideo]:
    """List the videos ``first_seed``, ``first_seed + 1``, ...: conditions (none means all) take turns.

    Raises:
        ConfigError: an unknown condition, or seeds that models were trained or configs fitted on.
    """
    for name in conditions:
        if name not in CONDITIONS:
            raise ConfigError(f"no condition is called {quoted(name)}: there are {', '.join(CONDITIONS)}")
    if count < 1:
        raise ConfigError(f"a benchmark needs at least 1 video, got {count}")
    if first_seed < FIRST_HELD_OUT_SEED:
        raise ConfigError(
            f"first_seed={first_seed} is a seed of the training videos: take one of at least {FIRST_HELD_OUT_SEED}"
        )
    if first_seed < CALIBRATION_SEED + CALIBRATION_VIDEOS and first_seed + count > CALIBRATION_SEED:
        raise ConfigError(
            f"seeds {first_seed} to {first_seed + count - 1} meet the calibration's {CALIBRATION_SEED} to "
            f"{CALIBRATION_SEED + CALIBRATION_VIDEOS - 1}: choose another first_seed"
        )
    kinds = [CONDITIONS[name] for name in conditions or CONDITIONS]
    return [ShapesVideo(kinds[k % len(kinds)], first_seed + k) for k in range(count)]


def calibration_videos(condition: Condition, count: int = CALIBRATION_VIDEOS) -> list[ShapesVideo]:
    """List the videos on which configs for ``condition`` are fitted to a budget."""
    return [ShapesVideo(condition, CALIBRATION_SEED + k) for k in range(count)]


def _spread(rng: np.random.Generator, questions: list[Question]) -> list[Question]:
    """Order questions so that any beginning holds as many types as it can: a round of all types, then another."""
    shuffled = [questions[k] for k in rng.permutation(len(questions))]
    seen = Counter[str]()
    rounds = []
    for question in shuffled:
        rounds.append(seen[question.type])
        seen[question.type] += 1
    return [shuffled[k] for k in np.argsort(rounds, kind="stable")]
