"""Frames of a video by their numbers: for benchmarks, whose protocols say which frames are taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prunevid_qwen.errors import ConfigError, MediaError
from prunevid_qwen.video.reader import OpenedVideo, ask, check_frames
from prunevid_qwen.video.video_read import about

# (frames of the source, its mean frames a second) -> indices from 0, never falling; one may come several times
Choose = Callable[[int, float], Sequence[int]]


@dataclass(frozen=True, eq=False)
class IndexedFrames:
    """The frames that were asked for.

    Args:
        frames: uint8 RGB ``[n, H, W, 3]``, one for each entry of ``indices``; nothing is padded.
        indices: as chosen.
        timestamps: seconds of each after the source's first frame, as its container says.
        count: frames of the source.
        fps: its mean frames a second.
        duration: its seconds.
        size: height and width as shown, before ``fit``.
        backend: what decoded it, or "frames".
        source: the path, or a description of what was passed.
        warnings: sentences on what was wrong with the source although it could be read.
    """

    frames: np.ndarray
    indices: tuple[int, ...]
    timestamps: tuple[float, ...]
    count: int
    fps: float
    duration: float
    size: tuple[int, int]
    backend: str
    source: str
    warnings: tuple[str, ...] = ()


def read_frames(
    source: Any,
    choose: Choose,
    *,
    fit: Callable[[np.ndarray], np.ndarray] = lambda frame: frame,
    fps: float = 2.0,
    backend: str = "pyav",
    time_limit: float | None = 120.0,
) -> IndexedFrames:
    """Read the frames of a video that ``choose`` names, each passed through ``fit`` as soon as it is decoded.

    Where a chosen frame does not decode the video is refused: another frame in its place would be another protocol.

    Args:
        source: as `read_video` takes it.
        choose: given the number of frames and their mean rate, returns indices.
        fit: from ``[H, W, 3]`` to another size, the same for all; so only small frames are held.
        fps: rate at which frames were taken that come as images.
        backend: as in `read_video`, but not "qwen-vl-utils", which chooses by itself.
        time_limit: as in `read_video`.

    Raises:
        MediaError: as `read_video`, or a chosen frame that does not decode.
        ConfigError: a backend that cannot be asked for single frames.
    """
    asked = ask(source, fps=fps, backend=backend, time_limit=time_limit)
    if getattr(asked.module, "CHOOSES_ITSELF", False):
        raise ConfigError(f"video_backend={backend!r} chooses frames by itself, a protocol needs its own: pass 'pyav'")
    timeline, said = asked.timeline, list[str]()
    count, rate = len(timeline.seconds), 1.0 / timeline.frame_seconds
    indices = tuple(choose(count, rate))
    wanted = sorted(set(indices))
    found: dict[int, np.ndarray] = {}
    sizes: set[tuple[int, ...]] = set()
    for i, frame in _decoded(asked, wanted, said):
        sizes.add(frame.shape[:2])
        check_frames(asked.name, wanted, sizes)
        found[i] = fit(frame)
    missing = [i for i in wanted if i not in found]
    if missing:
        why = f" ({said[0]})" if said else ""
        raise MediaError(
            f"{asked.name}: {len(missing)} of the {len(wanted)} frames asked for do not decode, the first is number "
            f"{missing[0]}{why}: the file is damaged; download it again"
        )
    height, width = next(iter(sizes))
    return IndexedFrames(
        frames=np.stack([found[i] for i in indices]),
        indices=indices,
        timestamps=tuple(timeline.seconds[i] for i in indices),
        count=count,
        fps=rate,
        duration=timeline.duration,
        size=(height, width),
        backend=asked.backend,
        source=str(asked.name),
        warnings=(*timeline.notes, *(asked.images.said if asked.images else (about(asked.name, n) for n in said))),
    )


def _decoded(asked: OpenedVideo, wanted: list[int], said: list[str]) -> Any:
    """Yield (index, frame) of what decodes; what a seek passed over is looked for from the beginning."""
    if asked.images:
        for i in wanted:
            asked.deadline.check()
            yield i, asked.images.load(i)
        return
    left = dict.fromkeys(wanted)
    for i, frame in asked.module.frames(asked.name, wanted, asked.timeline, asked.deadline, said):
        left.pop(i, None)
        yield i, frame
    if left and asked.timeline.keys and getattr(asked.module, "LOOKS_BACK", False):
        found, notes = asked.module.fetch(asked.name, list(left), asked.timeline, asked.deadline)
        said[:] = notes
        yield from found.items()
