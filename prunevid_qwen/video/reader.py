"""Reading a video from whatever names it: checks, the choice of frames, the backend asked for and no other."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from prunevid_qwen.errors import ConfigError, MediaError, abridged, quoted
from prunevid_qwen.video import frames as frame_sources
from prunevid_qwen.video.backends import BACKENDS, load_backend
from prunevid_qwen.video.paths import Named, local_file, local_path
from prunevid_qwen.video.sampling import Choice, check_request, choose_frames, frames_in_range
from prunevid_qwen.video.video_read import Deadline, Remark, Timeline, Video, about

logger = logging.getLogger("prunevid_qwen")

# A frame that cannot be decoded makes the choice be made again without it; so often at most, then every frame is tried.
_CHOICES = 3


def read_video(
    source: Any,
    *,
    max_frames: int = 16,
    sampling: str = "uniform",
    fps: float = 2.0,
    start: float | None = None,
    end: float | None = None,
    backend: str = "pyav",
    time_limit: float | None = 120.0,
    min_frames: int = 2,
) -> Video:
    """Sample frames from a video by their timestamps.

    Files are read with ``backend`` and no other, as players show them (rotation applied, non-square pixels not
    stretched). Images and arrays carry no times: frame i is taken as shown at ``i / fps`` seconds. Beyond the frames
    taken, one frame is held in memory (an array that was passed is not copied as a whole).

    Args:
        source: path or ``file://`` URL of a video (mp4, webm, mkv, avi, gif, ...) or of an animated picture (webp, png,
            avif, tiff); a folder of images, in natural order of their names; a list of image paths, PIL images or
            ``[H, W, 3]`` arrays; or a uint8 array or tensor ``[T, H, W, 3]`` or ``[T, 3, H, W]``.
        max_frames: frames sampled at most, at least 2. An odd number of frames is made even by repeating the last.
        sampling: "uniform": the frames at ``max_frames`` equally spaced times, both ends included; "fps":
            ``min(max_frames, max(min_frames, floor(seconds * fps)))``. A video of fewer frames gives all; one whose
            rate varies gives a frame at each time that it is on the screen at, and a warning says so.
        fps: frames a second, above 0: for ``sampling="fps"``, and the rate at which images and arrays were taken.
        start: seconds after the first frame, or None for the beginning; the range begins with the frame that is then
            on the screen.
        end: seconds up to which frames are taken (inclusive), or None; beyond the video it means the end.
        backend: "pyav", "decord", "opencv", "torchcodec" or "qwen-vl-utils". All take the same frames, except
            qwen-vl-utils, which spaces them equally by number (the same where the frame rate is constant).
        time_limit: seconds that reading may take, or None. Checked between frames.
        min_frames: frames at least for ``sampling="fps"``, as far as there are so many; 2 to ``max_frames``.

    Returns:
        The frames, uint8 RGB ``[n, H, W, 3]``, n even, and when they are shown.

    Raises:
        MediaError: missing, empty, truncated beyond use, no video, ``start`` beyond the end, or over the time limit.
        ConfigError: a wrong argument.
        SetupError: the backend asked for is not installed.
    """
    asked = ask(source, max_frames, sampling, fps, start, end, backend, time_limit, min_frames)
    if asked.images:
        chosen = choose(asked)
        found = {}
        for i in dict.fromkeys(chosen.indices):
            asked.deadline.check()
            found[i] = asked.images.load(i)
        notes, timeline = asked.images.said, asked.timeline
    else:
        timeline, chosen, found, notes = fetch(asked, asked.module.fetch)
    return _pack(asked, timeline, chosen, found, [*timeline.notes, *notes])


@dataclass(frozen=True)
class OpenedVideo:
    """A source that was opened, and which of its frames are wanted; nothing is decoded yet.

    Args:
        name: the path, or a description of what was passed.
        backend: what will decode it; "frames" for images and arrays.
        module: of this package, that reads with ``backend``; None for images and arrays.
        images: the frames, if they come as images.
        timeline: when each frame is shown.
        usable: first and last index of the frames on the screen between start and end.
        sampling: how many of them are taken, as `choose_frames` takes it.
        window: start and end in seconds.
        deadline: of the whole read.
    """

    name: str
    backend: str
    module: Any
    images: frame_sources.FrameSource | None
    timeline: Timeline
    usable: tuple[int, int]
    sampling: dict[str, Any]
    window: tuple[float | None, float | None]
    deadline: Deadline


def ask(
    source: Any,
    max_frames: int = 16,
    sampling: str = "uniform",
    fps: float = 2.0,
    start: float | None = None,
    end: float | None = None,
    backend: str = "pyav",
    time_limit: float | None = 120.0,
    min_frames: int = 2,
) -> OpenedVideo:
    """Check what is asked of a video, open it and read when its frames are shown; see `read_video`."""
    check_request(max_frames, sampling, fps, start, end, min_frames)
    if backend not in BACKENDS:
        raise ConfigError(f"video_backend is one of {', '.join(BACKENDS)}; got {quoted(backend)}")
    images = _open_frames(source, fps)
    name = images.name if images else local_file(source)
    deadline = Deadline(name, time_limit)
    module = None
    if images:
        timeline, backend = images.timeline, "frames"
    else:
        module = load_backend(backend)
        from prunevid_qwen.video.alike import check_alike
        from prunevid_qwen.video.timeline import read_timeline

        timeline = read_timeline(name, deadline)
        if backend != "pyav":
            check_alike(name, backend)
    usable = frames_in_range(timeline.seconds, timeline.duration, start, end, name)
    how = {"max_frames": max_frames, "sampling": sampling, "fps": fps, "min_frames": min_frames}
    return OpenedVideo(name, backend, module, images, timeline, usable, how, (start, end), deadline)


def _open_frames(source: Any, fps: float) -> frame_sources.FrameSource | None:
    """Return the frames if they come as images; None if ``source`` is the path of a video file."""
    if isinstance(source, (str, os.PathLike)):
        path = Named(local_path(source))
        if os.path.isdir(path):
            return frame_sources.frames_of_folder(path, fps)
        if frame_sources.holds_pictures(path):
            return frame_sources.frames_of_picture(path, fps)
        return None
    if hasattr(source, "shape"):
        return frame_sources.frames_of_array(source, fps)
    if isinstance(source, Sequence) and not isinstance(source, (bytes, bytearray)):
        return frame_sources.frames_of_list(source, fps)
    raise MediaError(
        f"a video is a path, a folder of frames, a list of images or an array [T, H, W, 3]; got {type(source).__name__}"
    )


def choose(asked: OpenedVideo, timeline: Timeline | None = None, lost: Collection[int] = ()) -> Choice:
    """Choose among the frames in the range that was asked for.

    Args:
        asked: what was opened.
        timeline: of the frames that decode, where it is not that of ``asked``.
        lost: indices of frames that are not on offer.
    """
    start, end = asked.window
    usable = asked.usable
    if timeline is None:
        timeline = asked.timeline
    else:
        usable = frames_in_range(timeline.seconds, timeline.duration, start, end, asked.name)
    return choose_frames(
        timeline.seconds,
        timeline.frame_seconds,
        duration=timeline.duration,
        start=start,
        end=end,
        usable=usable,
        lost=lost,
        **asked.sampling,
    )


# (path, ascending indices, timeline, deadline) -> frames by index, sentences on what was wrong
Fetch = Callable[[str, list[int], Timeline, Deadline], tuple[dict[int, Any], list[str]]]


def fetch(asked: OpenedVideo, read: Fetch) -> tuple[Timeline, Choice, dict[int, Any], list[str]]:
    """Choose and decode; choose again without the frames that did not decode.

    Args:
        asked: of a video file.
        read: decodes frames of it with its backend.

    Returns:
        The timeline, the frames chosen, what ``read`` made of each, and sentences for ``Video.warnings``.
    """
    name, module, timeline = asked.name, asked.module, asked.timeline
    lost: set[int] = set()
    said: list[str] = []
    for _ in range(_CHOICES):
        if all(i in lost for i in range(asked.usable[0], asked.usable[1] + 1)):
            break
        chosen = choose(asked, lost=lost)
        found, said = read(name, sorted(set(chosen.indices)), timeline, asked.deadline)
        notes = [about(name, note) for note in said]
        if getattr(module, "CHOOSES_ITSELF", False):
            return timeline, _in_order(timeline, sorted(found)), found, notes
        missing = set(chosen.indices) - set(found)
        if not missing:
            if lost:
                notes = [*notes, f"{name}: {len(lost)} frames did not decode and were left out"]
            return timeline, chosen, found, notes
        lost |= missing
    if module.__name__.rpartition(".")[2] != "pyav":
        why = f" ({said[0]})" if said else ""
        raise MediaError(
            f"{name}: {len(lost)} of the frames chosen cannot be decoded by this backend{why}: use "
            f'video_backend="pyav", which reads around damage'
        )
    return _fetch_what_decodes(asked, read)


def _fetch_what_decodes(asked: OpenedVideo, read: Fetch) -> tuple[Timeline, Choice, dict[int, Any], list[str]]:
    from prunevid_qwen.video.timeline import timeline_by_decoding

    name, listed = asked.name, len(asked.timeline.seconds)
    timeline = timeline_by_decoding(name, asked.deadline, list(asked.timeline.notes))
    chosen = choose(asked, timeline)
    found, said = read(name, sorted(set(chosen.indices)), timeline, asked.deadline)
    notes = [about(name, note) for note in said]
    notes.append(f"{name}: {len(timeline.seconds)} of {listed} frames decode, only those were taken")
    kept = [n for n, i in enumerate(chosen.indices) if i in found]
    chosen = replace(chosen, indices=tuple(chosen.indices[n] for n in kept), times=tuple(chosen.times[n] for n in kept))
    return timeline, chosen, found, notes


def _in_order(timeline: Timeline, indices: list[int]) -> Choice:
    """Take what a backend chose by itself as equally spaced, as it does."""
    times = tuple(timeline.seconds[i] for i in indices)
    covered = times[-1] - times[0] + timeline.frame_seconds if times else 0.0
    return Choice(tuple(indices), times, covered / max(len(times), 1))


def _pack(
    asked: OpenedVideo, timeline: Timeline, chosen: Choice, found: dict[int, np.ndarray], notes: list[str]
) -> Video:
    indices = chosen.indices
    check_frames(asked.name, indices, {found[i].shape[:2] for i in indices})
    height, width = found[indices[0]].shape[:2]
    padded = len(indices) % 2
    frames = np.empty((len(indices) + padded, height, width, 3), dtype=np.uint8)
    for slot, i in enumerate([*indices, *indices[-1:] * padded]):
        # Each frame is let go as soon as it is copied, so that the video is never in memory twice.
        frames[slot] = found.pop(i) if i in found else frames[slot - 1]
    return record(asked, timeline, chosen, frames, notes)


def check_frames(name: str, chosen: Sequence[int], sizes: set[tuple[int, ...]]) -> None:
    """Raise MediaError if no frame is left, or not all are of one size."""
    if not chosen:
        raise MediaError(f"not one frame of {name} can be decoded: the file is damaged; copy or download it again")
    if len(sizes) > 1:
        shown = ", ".join(f"{w}x{h}" for h, w in sorted(sizes))
        raise MediaError(f"{name} changes its size midway ({shown}): convert it to one size, or read one part of it")


def record(asked: OpenedVideo, timeline: Timeline, chosen: Choice, frames: np.ndarray, notes: list[str]) -> Video:
    """Say what was read; warn of what was wrong with it.

    Args:
        asked: what was opened.
        timeline: of the frames that decode.
        chosen: the frames taken.
        frames: ``[n, H, W, 3]``, padding included; n is 0 where they were handed out in chunks.
        notes: sentences on what was wrong.
    """
    indices = chosen.indices
    if (different := len(set(indices))) < len(indices):
        said = f"{different} different frames are on the screen at {len(indices)} equally spaced times"
        notes.append(Remark(f"{asked.name}: the frame rate varies, {said}"))
    for note in notes:
        logger.warning(abridged(note))
    height, width = frames.shape[1:3]
    return Video(
        frames=frames,
        timestamps=chosen.times,
        indices=indices,
        padded=len(indices) % 2,
        seconds_per_grid=2.0 * chosen.spacing,
        duration=timeline.duration,
        source_fps=1.0 / timeline.frame_seconds,
        size=(height, width),
        backend=asked.backend,
        source=str(asked.name),
        warnings=tuple(notes),
    )
