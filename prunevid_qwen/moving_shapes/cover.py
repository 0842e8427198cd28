"""Which object each visual token shows: known, because the boxes are."""

from __future__ import annotations

import numpy as np

from prunevid_qwen.moving_shapes.drawing import boxes
from prunevid_qwen.moving_shapes.scene import Scene

TOKEN = 28
"""Pixels of a merged token's side."""

LEAST_COVER = 0.12
"""Share of a merged token that an object's box has to cover for the token to show the object."""


def token_cover(scene: Scene, times: np.ndarray, grid: tuple[int, int] | None = None) -> np.ndarray:
    """Say how much of every merged token each object's box covers, the mean of both frames.

    Args:
        scene: what is drawn.
        times: [F] moments, F even.
        grid: (h, w) tokens down and across, where the frames are resized before the model sees them; None is a token
            for every 28 pixels of the scene.

    Returns: [objects, F / 2, h, w] float64 in [0, 1].
    """
    box = boxes(scene, times)
    rows, columns = grid or (scene.height // TOKEN, scene.width // TOKEN)
    tall, wide = scene.height / rows, scene.width / columns
    xs, ys = np.arange(columns) * wide, np.arange(rows) * tall
    across = np.clip(np.minimum(box[..., 2, None], xs + wide) - np.maximum(box[..., 0, None], xs), 0, None)
    down = np.clip(np.minimum(box[..., 3, None], ys + tall) - np.maximum(box[..., 1, None], ys), 0, None)
    cover = down[..., :, None] * across[..., None, :] / (tall * wide)
    return cover.reshape(len(box), len(times) // 2, 2, rows, columns).mean(2)
