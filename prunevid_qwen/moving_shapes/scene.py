"""What a synthetic video holds: coloured shapes that appear, move and vanish in front of a still background.

A scene is a description in continuous time, so the same scene can be drawn at any frame rate and size. Everything
follows from one integer seed. Training and held-out scenes take their seeds from ranges that do not meet.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 175, 60),
    "blue": (45, 80, 235),
    "yellow": (240, 225, 50),
    "purple": (165, 50, 205),
    "orange": (245, 140, 30),
    "cyan": (60, 215, 225),
    "white": (250, 250, 250),
}
SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "cross", "star", "ring")
DIRECTIONS: dict[str, tuple[int, int]] = {
    "still": (0, 0),
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
}

FIRST_HELD_OUT_SEED = 10**9
"""Training draws its scene seeds below this number; tests, clips and measurements take this number and above."""

LARGEST_JOLT = 4
"""Pixels at scale 1 that a shaken or drifting camera is off its place at most, along each axis."""

_PLACEMENT_TRIES = 20
_DRIFT_STEPS = 64  # places of a drifting camera: finer than the whole pixels in which it moves
_CHECKED_TIMES = np.arange(65) / 64  # moments at which two objects must not touch; finer than any speed needs


@dataclass(frozen=True)
class MovingObject:
    """One shape and its straight path. Lengths are pixels of the scene at scale 1, times are shares of the clip.

    Args:
        color: a key of ``COLORS``.
        shape: one of ``SHAPES``.
        direction: a key of ``DIRECTIONS``; "still" does not move.
        radius: half the width of the sprite, in pixels.
        appears: first moment it is seen, in [0, 1); 0 is there from the first frame.
        vanishes: first moment it is no longer seen, above ``appears``; above 1 it stays to the end.
        origin: (x, y) of its centre at the moment ``appears``.
        velocity: (x, y) pixels it would move during a whole clip.
        tint: rgb offset on the named colour, -12 to 12 each, so that a colour is not one single value.
        brief: seen for at most a quarter of the clip.
    """

    color: str
    shape: str
    direction: str
    radius: int
    appears: float
    vanishes: float
    origin: tuple[float, float]
    velocity: tuple[float, float]
    tint: tuple[float, float, float]
    brief: bool

    def visible(self, times: np.ndarray) -> np.ndarray:
        """Say at which of ``times`` ([F], shares of the clip) the object is seen: [F] bool."""
        return (times >= self.appears) & (times < self.vanishes)

    def centers(self, times: np.ndarray) -> np.ndarray:
        """Give the centre at each of ``times`` ([F], shares of the clip): [F, 2] x and y in pixels at scale 1."""
        origin, velocity = np.array(self.origin), np.array(self.velocity)
        return origin + velocity * (times - self.appears)[:, None]


@dataclass(frozen=True)
class Distractor:
    """A small dark dot that no question is about, and its straight path over the whole clip.

    Args:
        radius: pixels at scale 1, less than half of an object's.
        origin: (x, y) of its centre at the beginning.
        velocity: (x, y) pixels it moves during the clip.
        level: its grey, 15 to 45; backgrounds go from 30 to 200.
    """

    radius: int
    origin: tuple[float, float]
    velocity: tuple[float, float]
    level: int

    def centers(self, times: np.ndarray) -> np.ndarray:
        """Give the centre at each of ``times`` ([F], shares of the clip): [F, 2] x and y in pixels at scale 1."""
        return np.array(self.origin) + np.array(self.velocity) * times[:, None]


@dataclass(frozen=True)
class Scene:
    """A whole clip.

    Args:
        seed: what the scene was made from; the background is drawn from it too.
        height: pixels at scale 1, a multiple of 28.
        width: pixels at scale 1, a multiple of 28.
        objects: the shapes, in drawing order.
        distractors: dots behind the objects.
        cuts: moments (shares of the clip, rising) from which another background is seen; the objects live on.
        jolts: (moment, x, y), moments rising: from then on the camera is off by so many pixels at scale 1, at most
            ``LARGEST_JOLT`` along each axis. Everything moves at once.
    """

    seed: int
    height: int
    width: int
    objects: tuple[MovingObject, ...]
    distractors: tuple[Distractor, ...] = ()
    cuts: tuple[float, ...] = ()
    jolts: tuple[tuple[float, int, int], ...] = ()

    def backdrops(self, times: np.ndarray) -> np.ndarray:
        """Say which background, counted from 0, stands at each of ``times`` ([F]): [F] int64."""
        return np.searchsorted(np.array(self.cuts), times, side="right")

    def offsets(self, times: np.ndarray) -> np.ndarray:
        """Say how far the camera's shaking moves the picture at each of ``times`` ([F]): [F, 2] int64 x and y."""
        moved = np.array([(0, 0), *((x, y) for _, x, y in self.jolts)], np.int64)
        return moved[np.searchsorted(np.array([moment for moment, _, _ in self.jolts]), times, side="right")]


def frame_times(frames: int) -> np.ndarray:
    """Spread ``frames`` moments evenly over a clip, both ends included: [F] float64 in [0, 1]."""
    return np.arange(frames) / max(frames - 1, 1)


def make_scene(
    seed: int,
    height: int = 112,
    width: int = 112,
    frames: int = 16,
    most_objects: int = 3,
    brief_share: float = 0.35,
    late_share: float = 0.35,
    least_objects: int = 1,
    cut_share: float = 0.0,
    shake_share: float = 0.0,
    most_distractors: int = 0,
    drift_share: float = 0.0,
) -> Scene:
    """Invent a scene of ``least_objects`` to ``most_objects`` shapes, all of different colour and different shape.

    Args:
        seed: any integer of at least 0; the same seed and options give the same scene everywhere.
        height: pixels, a multiple of 28.
        width: pixels, a multiple of 28.
        frames: the coarsest sampling that must still see everything: whatever appears is seen in two of that many
            evenly spaced frames, and no two objects appear within two of them. At least 4.
        most_objects: 1 to 6.
        brief_share: chance that an object is seen only briefly (at most one of them in a scene).
        late_share: chance that an object appears after the beginning and stays.
        least_objects: 1 to ``most_objects``; fewer are placed where no room is found for more.
        cut_share: chance that the background changes once.
        shake_share: chance that the camera is jolted, one to three times.
        most_distractors: dots are none to so many.
        drift_share: chance that the camera drifts from the first frame to the last, instead of being jolted. These last
            four change nothing else about a seed's scene.

    Raises:
        ValueError: an option is outside its range.
    """
    if frames < 4 or not 1 <= least_objects <= most_objects <= len(SHAPES) or height % 28 or width % 28:
        raise ValueError(
            f"a scene needs at least 4 frames, 1 to {len(SHAPES)} objects and sides that are multiples of 28, "
            f"got frames={frames}, objects={least_objects} to {most_objects}, {width}x{height}"
        )
    rng = np.random.default_rng(seed)
    count = int(rng.integers(least_objects, most_objects + 1))
    colors = [list(COLORS)[i] for i in rng.permutation(len(COLORS))[:count]]
    shapes = [SHAPES[i] for i in rng.permutation(len(SHAPES))[:count]]
    placed: list[MovingObject] = []
    starts: list[int] = []
    for color, shape in zip(colors, shapes, strict=True):
        for _ in range(_PLACEMENT_TRIES):
            brief_allowed = not any(o.brief for o in placed)
            start, end, brief = _lifetime(rng, frames, brief_share if brief_allowed else 0.0, late_share)
            if any(abs(start - other) < 2 and (start or other) for other in starts):
                continue
            candidate = _place(rng, color, shape, start, end, brief, (height, width, frames))
            if not any(_touch(candidate, other) for other in placed):
                placed.append(candidate)
                starts.append(start)
                break
    apart = np.random.default_rng([seed, 3])  # so that what is added leaves the objects as they are
    cuts = (float(apart.uniform(0.2, 0.8)),) if apart.random() < cut_share else ()
    jolts = _jolts(apart) if apart.random() < shake_share else ()
    dots = [_distractor(apart, height, width) for _ in range(int(apart.integers(most_distractors + 1)))]
    camera = np.random.default_rng([seed, 5])
    jolts = _drift(camera) if camera.random() < drift_share else jolts
    return Scene(seed, height, width, tuple(placed), tuple(dots), cuts, jolts)


def _jolts(rng: np.random.Generator) -> tuple[tuple[float, int, int], ...]:
    moments = np.sort(rng.uniform(0.05, 0.95, int(rng.integers(1, 4))))
    places = rng.integers(-LARGEST_JOLT, LARGEST_JOLT + 1, (len(moments), 2))
    return tuple((float(t), int(x), int(y)) for t, (x, y) in zip(moments, places, strict=True))


def _drift(rng: np.random.Generator) -> tuple[tuple[float, int, int], ...]:
    """Move the camera on a straight line through its place, in whole pixels; along one axis from end to end.

    The slowest object moves 3.5 times as far, so which of them move, and where to, stays plain to see.
    """
    angle = float(rng.uniform(0, 2 * np.pi))
    way = np.array([np.cos(angle), np.sin(angle)])
    end = LARGEST_JOLT * way / np.abs(way).max()
    shares = np.arange(_DRIFT_STEPS + 1) / _DRIFT_STEPS
    return tuple((float(t), *(round(each) for each in end * (2 * t - 1))) for t in shares)


def _distractor(rng: np.random.Generator, height: int, width: int) -> Distractor:
    """Put a dot somewhere; half of them move, to another place inside the picture."""
    radius = int(rng.integers(4, 6))
    low, high = radius + 1.0, np.array([width, height]) - radius - 2.0
    (x, y), (to_x, to_y) = rng.uniform(low, high, (2, 2)).tolist()
    velocity = (to_x - x, to_y - y) if rng.random() < 0.5 else (0.0, 0.0)
    return Distractor(radius, (x, y), velocity, int(rng.integers(15, 46)))


def _lifetime(rng: np.random.Generator, frames: int, brief_share: float, late_share: float) -> tuple[int, int, bool]:
    """Choose the frames [start, end) in which an object is seen, and whether that is called brief."""
    chance = rng.random()
    if chance < brief_share:
        length = int(rng.integers(max(2, frames // 8), max(2, frames // 4) + 1))
        start = int(rng.integers(0, frames - length + 1))
        return start, start + length, True
    if chance < brief_share + late_share:
        return int(rng.integers(2, max(3, int(0.65 * frames)))), frames, False
    return 0, frames, False


def _place(
    rng: np.random.Generator, color: str, shape: str, start: int, end: int, brief: bool, extent: tuple[int, int, int]
) -> MovingObject:
    """Give an object a size, a direction, a speed and a place so that it stays inside the picture all its life."""
    height, width, frames = extent
    radius = int(rng.integers(11, 16))
    direction = "still" if brief else list(DIRECTIONS)[int(rng.integers(0, len(DIRECTIONS)))]
    dx, dy = DIRECTIONS[direction]
    # half a step early, so that a file's frame that lies a little off the even spacing still shows what it should
    appears = max(0.0, (start - 0.5) / (frames - 1))
    vanishes = (end - 0.5) / (frames - 1)
    life = min(vanishes, 1.0) - appears
    room = (width if dx else height) - 2 * radius - 4
    speed = min(float(rng.uniform(28.0, 54.0)), room / life) if direction != "still" else 0.0
    path = speed * life
    margin = radius + 1
    x = rng.uniform(margin + (path if dx < 0 else 0), width - 1 - margin - (path if dx > 0 else 0))
    y = rng.uniform(margin + (path if dy < 0 else 0), height - 1 - margin - (path if dy > 0 else 0))
    tint = rng.uniform(-12, 12, 3)
    return MovingObject(
        color=color,
        shape=shape,
        direction=direction,
        radius=radius,
        appears=appears,
        vanishes=vanishes,
        origin=(float(x), float(y)),
        velocity=(dx * speed, dy * speed),
        tint=(float(tint[0]), float(tint[1]), float(tint[2])),
        brief=brief,
    )


def _touch(a: MovingObject, b: MovingObject) -> bool:
    """Say whether two objects come too close to each other while both are seen."""
    both = a.visible(_CHECKED_TIMES) & b.visible(_CHECKED_TIMES)
    if not both.any():
        return False
    distance = np.abs(a.centers(_CHECKED_TIMES) - b.centers(_CHECKED_TIMES)).max(1)[both].min()
    return bool(distance < 0.95 * (a.radius + b.radius))
