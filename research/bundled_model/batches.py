"""Training batches made on the fly: step ``s`` of a phase is always the same batch, whatever was made before it.

Every batch has its own random generator, seeded by (run, phase, step), so a run resumes without replaying anything.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from prunevid_qwen.moving_shapes import (
    COLORS,
    DIRECTIONS,
    FIRST_HELD_OUT_SEED,
    SHAPES,
    Scene,
    frame_times,
    make_scene,
    render,
    sample_questions,
)
from prunevid_qwen.moving_shapes.cover import LEAST_COVER, TOKEN, token_cover
from research.bundled_model.fast_forward import Positions, patchify, vision_features
from research.bundled_model.phases import QuestionPhase, VisionPhase
from research.bundled_model.sequence import Blocks, question_blocks, sequence_positions


@dataclass(frozen=True)
class VisionBatch:
    """Patches [N, P, 1176] uint8 and, for every merged token, its labels [N, P / 4] int64 (0 is background).

    ``grid`` is (patches down, patches across).
    """

    patches: Tensor
    grid: tuple[int, int]
    colors: Tensor
    shapes: Tensor
    directions: Tensor


@dataclass(frozen=True)
class QuestionBatch:
    """What ``answer_states`` takes, and the right answers.

    Args:
        features: [B, V, D] float32 visual tokens.
        blocks: the questions.
        positions: ids of prefix and blocks.
        ranks: [B, V] int64, 0 for background, else 1 + the number of objects that had appeared before the one shown.
        types: [B][N] type of each question, with "*" where a letter is asked for.
    """

    features: Tensor
    blocks: Blocks
    positions: Positions
    ranks: Tensor
    types: list[list[str]]


_PLAIN: dict[str, Any] = {"most_objects": 4}
_CLUTTER: dict[str, Any] = {
    "most_objects": len(SHAPES),
    "least_objects": 2,
    "cut_share": 0.3,
    "shake_share": 0.5,
    "most_distractors": 3,
}


class VisionBatches(Dataset[VisionBatch]):
    """Batch ``step`` of a vision phase."""

    def __init__(self, phase: VisionPhase, key: tuple[int, int]) -> None:
        self.phase, self.key = phase, key

    def __len__(self) -> int:
        """Count the steps of the phase."""
        return self.phase.steps

    def __getitem__(self, step: int) -> VisionBatch:
        """Draw the videos of a step and label their tokens."""
        rng = np.random.default_rng([*self.key, step])
        count = int(rng.choice((8, 12, 16, 16, 32)))
        height, width = ((112, 112), (112, 112), (112, 112), (84, 140), (140, 84))[int(rng.integers(5))]
        clutter = bool(self.phase.clutter_share) and rng.random() < self.phase.clutter_share
        if clutter:
            height, width = 168, 168
        frames, labels = [], []
        for seed in rng.integers(0, FIRST_HELD_OUT_SEED, self.phase.videos):
            scene = make_scene(int(seed), height, width, min(count, 16), **(_CLUTTER if clutter else _PLAIN))
            pairs = rng.permutation(count // 2)[: self.phase.patches]
            times = frame_times(count)[pairs[:, None] * 2 + np.arange(2)]
            times[rng.random(len(times)) < 0.06, 1] = -1  # a picture: the same frame twice
            times[:, 1] = np.where(times[:, 1] < 0, times[:, 0], times[:, 1])
            still = times[:, 0] == times[:, 1]
            frames.append(render(scene, times.ravel()))
            labels.append(_vision_labels(scene, times.ravel(), still))
        video = _add_noise(rng, np.stack(frames))
        colors, shapes, directions = (torch.from_numpy(np.concatenate(part)) for part in zip(*labels, strict=True))
        grid = (height // 14, width // 14)
        return VisionBatch(patchify(torch.from_numpy(video)), grid, colors, shapes, directions)


@dataclass(frozen=True)
class DrawnQuestions:
    """Videos and questions about them, before anything has looked at them.

    Args:
        video: [B, F, H, W, 3] uint8.
        grid: (t, h, w) merged tokens of each.
        picture: whether it is a single picture, given as two equal frames.
        seconds: length of the clips.
        keep: [B, V'] int64, the visual tokens that are left, or None for all of them.
        ranks: [B, V'] int64, of ``QuestionBatch``.
        blocks: the questions.
        types: [B][N], of ``QuestionBatch``.
        after_all: which of two ways text positions go on after a video.
    """

    video: Tensor
    grid: tuple[int, int, int]
    picture: bool
    seconds: float
    keep: Tensor | None
    ranks: Tensor
    blocks: Blocks
    types: list[list[str]]
    after_all: bool

    def kept(self, features: Tensor) -> Tensor:
        """Return the visual tokens that are left: [N, h * w, D] of all frames to [B, V', D]."""
        features = features.view(self.video.shape[0], -1, features.shape[-1])
        if self.keep is None:
            return features
        return features.gather(1, self.keep[..., None].expand(-1, -1, features.shape[-1]))


class QuestionBatches(Dataset[QuestionBatch]):
    """Batch ``step`` of a question phase; the frozen vision tower runs here, beside the decoder's training."""

    def __init__(self, phase: QuestionPhase, key: tuple[int, int], visual: Any) -> None:
        self.phase, self.key, self.visual = phase, key, visual

    def __len__(self) -> int:
        """Count the steps of the phase."""
        return self.phase.steps

    def __getitem__(self, step: int) -> QuestionBatch:
        """Draw the videos of a step, look at them and ask about them."""
        drawn = draw_questions(self.phase, np.random.default_rng([*self.key, step]))
        return seen_by_first_toy(drawn, self.visual)


def seen_by_first_toy(drawn: DrawnQuestions, visual: Any) -> QuestionBatch:
    """Look at drawn videos with the first toy's tower."""
    count, height, width = drawn.video.shape[1:4]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        features = vision_features(visual, patchify(drawn.video), height // 14, width // 14)
    step = 0.0 if drawn.picture else 2 * drawn.seconds / count
    asked, videos = drawn.blocks.ids.shape[-1], drawn.video.shape[0]
    positions = sequence_positions(drawn.grid, step, asked, videos, drawn.keep, drawn.after_all)
    return QuestionBatch(drawn.kept(features), drawn.blocks, positions, drawn.ranks, drawn.types)


def draw_questions(phase: QuestionPhase, rng: np.random.Generator) -> DrawnQuestions:
    """Draw the videos of a step and what is asked about them."""
    picture = rng.random() < phase.picture_share
    # drawn only where the phase has any, so that earlier phases keep their batches
    clutter = bool(phase.clutter_share) and not picture and rng.random() < phase.clutter_share
    count = 2 if picture else int(rng.choice(phase.clutter_frames if clutter else phase.frames))
    sizes = phase.clutter_sizes if clutter else phase.sizes
    height, width = sizes[int(rng.integers(len(sizes)))]
    choice = rng.random() < phase.choice_share
    asked = phase.choice_questions if choice else phase.questions
    frames, covers, ranks, questions = [], [], [], []
    for seed in rng.integers(0, FIRST_HELD_OUT_SEED, phase.videos):
        scene = _picture_scene(int(seed), height, width, phase.least_objects) if picture else None
        scene = scene or _video_scene(phase, int(seed), height, width, min(count, 16), clutter)
        times = np.full(2, 0.5) if picture else frame_times(count)
        frames.append(render(scene, times))
        cover = token_cover(scene, times)
        covers.append(cover.max(0))
        ranks.append(_ranks(scene, cover))
        questions.append(
            sample_questions(
                scene,
                rng,
                asked,
                choice,
                phase.types,
                phase.weights,
                not picture,
                phase.fewest_options,
                phase.clauses,
            )
        )
    video = torch.from_numpy(_add_noise(rng, np.stack(frames)))
    grid = (count // 2, height // TOKEN, width // TOKEN)
    shown = torch.from_numpy(np.stack(ranks).reshape(phase.videos, -1))
    keep = None
    if rng.random() < phase.drop_share:
        keep = _drop_background(rng, np.stack(covers).reshape(phase.videos, -1))
        shown = shown.gather(1, keep)
    seconds = 8.0 if rng.random() < phase.usual_seconds_share else math.exp(rng.uniform(math.log(2), math.log(30)))
    types = [[q.type + "*" * q.multiple_choice for q in row] for row in questions]
    return DrawnQuestions(
        video, grid, picture, seconds, keep, shown, question_blocks(questions), types, rng.random() < 0.5
    )


def _vision_labels(scene: Scene, times: np.ndarray, still: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Label every merged token [F / 2, h * w] with the object that covers most of it, 0 for background."""
    cover = token_cover(scene, times)
    best = np.where(cover.max(0) > LEAST_COVER, cover.argmax(0) + 1, 0)  # [F / 2, h, w]
    best = best.reshape(len(best), -1)
    colors = np.array([0] + [list(COLORS).index(item.color) + 1 for item in scene.objects])
    shapes = np.array([0] + [SHAPES.index(item.shape) + 1 for item in scene.objects])
    directions = np.array([0] + [list(DIRECTIONS).index(item.direction) + 1 for item in scene.objects])
    unmoved = np.where(best > 0, list(DIRECTIONS).index("still") + 1, 0)
    return colors[best], shapes[best], np.where(still[:, None], unmoved, directions[best])


def _ranks(scene: Scene, cover: np.ndarray) -> np.ndarray:
    """Label tokens by when their object appeared: cover [objects, T, h, w] to [T, h, w] ``QuestionBatch.ranks``."""
    before = [sum(other.appears < item.appears for other in scene.objects) for item in scene.objects]
    return np.where(cover.max(0) > LEAST_COVER, np.array(before)[cover.argmax(0)] + 1, 0)


def _video_scene(phase: QuestionPhase, seed: int, height: int, width: int, frames: int, clutter: bool) -> Scene:
    """A scene as the phase describes it."""
    return make_scene(
        seed,
        height,
        width,
        frames,
        late_share=phase.late_share,
        **(_CLUTTER if clutter else _ordinary(phase)),
    )


def _ordinary(phase: QuestionPhase) -> dict[str, Any]:
    return {
        "most_objects": phase.most_objects,
        "least_objects": phase.least_objects,
        "cut_share": phase.cut_share,
        "most_distractors": phase.most_distractors,
    }


def _picture_scene(seed: int, height: int, width: int, least_objects: int) -> Scene:
    """A scene whose objects are all there from beginning to end, so that any moment shows them all."""
    return make_scene(seed, height, width, brief_share=0.0, late_share=0.0, least_objects=least_objects)


def _add_noise(rng: np.random.Generator, video: np.ndarray) -> np.ndarray:
    """To every second batch add grain that changes from frame to frame, as compression does; uint8 in and out."""
    if rng.random() < 0.5:
        return video
    reach = int(rng.integers(1, 5))
    flat = video.reshape(-1)
    tile = rng.integers(-reach, reach + 1, 1 << 17, dtype=np.int16)  # repeats, but at no multiple of a frame
    noise = np.resize(tile[: (1 << 17) - int(rng.integers(1, 4096))], flat.shape)
    return np.clip(flat + noise, 0, 255).astype(np.uint8).reshape(video.shape)


def _drop_background(rng: np.random.Generator, cover: np.ndarray) -> Tensor:
    """Choose what is kept, equally many tokens of every video and all that show an object: [B, V'] int64, sorted."""
    shown = cover > 0
    left = round(cover.shape[1] * (1 - rng.uniform(0.1, 0.8)))
    kept = max(int(shown.sum(1).max()), left, 1)
    order = np.argsort(-(rng.random(cover.shape) + 2.0 * shown), axis=1, kind="stable")
    return torch.from_numpy(np.sort(order[:, :kept], axis=1))
