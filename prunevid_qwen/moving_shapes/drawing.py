"""Draw a scene in plain numpy: anti-aliased sprites over a smooth, grainy background that stands still.

No matrix products and no platform drawing library, so a seed gives the same bytes on every machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from prunevid_qwen.moving_shapes.scene import COLORS, LARGEST_JOLT, Scene, frame_times

_SUPERSAMPLING = 4
_PHASES = 4  # sprites are placed to a quarter of a pixel


@dataclass(frozen=True)
class Sprite:
    """A shape's coverage: ``mask`` [n, n] float32 in [0, 1] and the pixels (x0, y0, x1, y1) that are mostly covered."""

    mask: np.ndarray
    box: tuple[int, int, int, int]


def render(scene: Scene, frames: int | np.ndarray = 16, scale: int = 1) -> np.ndarray:
    """Draw the scene.

    Args:
        scene: what to draw.
        frames: how many evenly spaced frames (both ends included), or the moments themselves, [F] in [0, 1].
        scale: whole pixels drawn for each pixel of the scene, at least 1.

    Returns: [F, height * scale, width * scale, 3] uint8 rgb.
    """
    times = frame_times(frames) if isinstance(frames, int) else np.asarray(frames, dtype=np.float64)
    video, shift = _stills(scene, times, scale), scene.offsets(times)
    always = np.ones(len(times), bool)
    for dot in scene.distractors:
        paint = np.full(3, dot.level, np.float32)
        _draw(
            video, "circle", dot.radius * scale, paint, _corners(dot.centers(times) + shift, dot.radius, scale), always
        )
    for item in scene.objects:
        paint = np.clip(np.array(COLORS[item.color], np.float32) + np.array(item.tint, np.float32), 0, 255)
        corners = _corners(item.centers(times) + shift, item.radius, scale)
        _draw(video, item.shape, item.radius * scale, paint, corners, item.visible(times))
    return video


def _stills(scene: Scene, times: np.ndarray, scale: int) -> np.ndarray:
    """The background of every frame, moved as the camera's shaking moves it; its edge pixels fill what opens up."""
    shift, backdrops = scene.offsets(times) * scale, scene.backdrops(times)
    views: dict[tuple[int, int, int], np.ndarray] = {}
    reach = LARGEST_JOLT * scale
    height, width = scene.height * scale, scene.width * scale
    for number, (x, y) in zip(backdrops.tolist(), shift.tolist(), strict=True):
        if (number, x, y) not in views:
            wide = np.pad(background(scene, scale, number), ((reach, reach), (reach, reach), (0, 0)), mode="edge")
            views[number, x, y] = wide[reach - y : reach - y + height, reach - x : reach - x + width]
    return np.stack([views[n, x, y] for n, (x, y) in zip(backdrops.tolist(), shift.tolist(), strict=True)])


def _draw(
    video: np.ndarray,
    shape: str,
    radius: int,
    paint: np.ndarray,
    places: tuple[np.ndarray, np.ndarray],
    visible: np.ndarray,
) -> None:
    """Paint one thing into the frames [F, H, W, 3] in which it is ``visible`` [F]."""
    corners, phases = places
    for f in np.flatnonzero(visible):
        mask = sprite(shape, radius, int(phases[f, 0]), int(phases[f, 1])).mask
        x, y = int(corners[f, 0]), int(corners[f, 1])
        rows, columns = _inside(y, len(mask), video.shape[1]), _inside(x, len(mask), video.shape[2])
        cover = mask[rows.start - y : rows.stop - y, columns.start - x : columns.stop - x, None]
        area = video[f, rows, columns]
        video[f, rows, columns] = (area * (1 - cover) + paint * cover + np.float32(0.5)).astype(np.uint8)


def boxes(scene: Scene, frames: int | np.ndarray = 16, scale: int = 1) -> np.ndarray:
    """Say where each object is in each frame.

    Args:
        scene: what is drawn.
        frames: as for ``render``.
        scale: as for ``render``.

    Returns: [objects, F, 4] int64 x0, y0, x1, y1 in pixels (x1 and y1 exclusive), -1 where it is not seen.
    """
    times = frame_times(frames) if isinstance(frames, int) else np.asarray(frames, dtype=np.float64)
    limit = np.array([scene.width, scene.height] * 2) * scale
    found = np.full((len(scene.objects), len(times), 4), -1, np.int64)
    for k, item in enumerate(scene.objects):
        corners, phases = _corners(item.centers(times) + scene.offsets(times), item.radius, scale)
        for f in np.flatnonzero(item.visible(times)):
            box = sprite(item.shape, item.radius * scale, int(phases[f, 0]), int(phases[f, 1])).box
            found[k, f] = np.clip(np.array(box) + np.tile(corners[f], 2), 0, limit)
    return found


def background(scene: Scene, scale: int = 1, number: int = 0) -> np.ndarray:
    """Draw what is behind the objects after ``number`` cuts: [height * scale, width * scale, 3] uint8, 30 to 200."""
    # apart from the scene's own draws, so that neither shifts the other
    rng = np.random.default_rng([scene.seed, 1, number] if number else [scene.seed, 1])
    height, width = scene.height * scale, scene.width * scale
    base = rng.uniform(70, 150) + rng.uniform(-15, 15, 3)
    clouds = rng.uniform(-28, 28, (int(rng.integers(3, 7)), int(rng.integers(3, 7)), 3))
    grain = rng.uniform(-1, 1, (scene.height // 2, scene.width // 2, 1)) * rng.uniform(3, 14)
    picture = base + _stretch(clouds, height, width, smooth=True) + _stretch(grain, height, width, smooth=False)
    return np.clip(picture, 30, 200).astype(np.uint8)


@lru_cache(maxsize=8192)
def sprite(shape: str, radius: int, phase_x: int = 0, phase_y: int = 0) -> Sprite:
    """Cover of a shape whose centre lies ``phase / 4`` pixels after the middle of the sprite's middle pixel.

    Args:
        shape: one of ``SHAPES``.
        radius: pixels, at least 4.
        phase_x: quarter pixels to the right, 0 to 3.
        phase_y: quarter pixels down, 0 to 3.
    """
    side = 2 * radius + 3  # one pixel more on each side, for the quarters
    fine = (np.arange(side * _SUPERSAMPLING) + 0.5) / _SUPERSAMPLING - side / 2
    x = (fine[None, :] - phase_x / _PHASES) / radius
    y = (fine[:, None] - phase_y / _PHASES) / radius
    cover = _inside_shape(shape, *np.broadcast_arrays(x, y))
    mask = cover.reshape(side, _SUPERSAMPLING, side, _SUPERSAMPLING).mean((1, 3)).astype(np.float32)
    ys, xs = np.nonzero(mask > 0.5)
    mask.setflags(write=False)  # the cache hands the same array to everyone
    return Sprite(mask, (int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1))


def _inside_shape(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Say which points (in units of the radius, y down) belong to the shape."""
    across, down = np.abs(x), np.abs(y)
    if shape == "circle":
        return x * x + y * y <= 1
    if shape == "ring":
        return (x * x + y * y <= 1) & (x * x + y * y >= 0.55**2)
    if shape == "square":
        return np.maximum(across, down) <= 0.86
    if shape == "triangle":
        return (y <= 0.8) & (across <= (y + 1) / 1.8)
    if shape == "cross":
        return np.maximum(np.minimum(across, down) / 0.32, np.maximum(across, down)) <= 1
    if shape == "star":
        return _inside_polygon(_star(), x, y)
    raise ValueError(f"unknown shape {shape!r}")


def _star() -> list[tuple[float, float]]:
    """Corners of a five-pointed star, the first one straight up."""
    corners = []
    for k in range(10):
        angle, reach = math.pi * (k / 5 - 0.5), 1.0 if k % 2 == 0 else 0.42
        corners.append((reach * math.cos(angle), reach * math.sin(angle)))
    return corners


def _inside_polygon(corners: list[tuple[float, float]], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Even-odd rule: a point is inside when a ray to the right crosses the outline an odd number of times."""
    inside = np.zeros(x.shape, bool)
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        crosses = (y0 > y) != (y1 > y)
        slope = (x1 - x0) / (y1 - y0) if y1 != y0 else 0.0
        inside ^= crosses & (x < x0 + slope * (y - y0))
    return inside


def _stretch(grid: np.ndarray, height: int, width: int, smooth: bool) -> np.ndarray:
    """Interpolate [n, m, C] to [height, width, C] linearly, or with soft steps between the grid's points."""
    rows, row_share = _between(len(grid), height, smooth)
    columns, column_share = _between(grid.shape[1], width, smooth)
    tall = grid[rows] * (1 - row_share)[:, None, None] + grid[rows + 1] * row_share[:, None, None]
    return tall[:, columns] * (1 - column_share)[None, :, None] + tall[:, columns + 1] * column_share[None, :, None]


def _between(points: int, pixels: int, smooth: bool) -> tuple[np.ndarray, np.ndarray]:
    """For each pixel, the grid point before it and the share of the way to the next one."""
    at = np.arange(pixels) * ((points - 1) / (pixels - 1))
    before = np.minimum(at.astype(np.int64), points - 2)
    share = at - before
    return before, share * share * (3 - 2 * share) if smooth else share


def _corners(centers: np.ndarray, radius: int, scale: int) -> tuple[np.ndarray, np.ndarray]:
    """Turn centres [F, 2] at scale 1 into each sprite's top left pixel and quarter-pixel phases, both [F, 2] int64."""
    quarters = np.floor(centers * scale * _PHASES + 0.5).astype(np.int64)
    return quarters // _PHASES - radius * scale - 1, quarters % _PHASES


def _inside(start: int, length: int, limit: int) -> slice:
    """The part of [start, start + length) that lies in [0, limit)."""
    return slice(max(start, 0), min(start + length, limit))
