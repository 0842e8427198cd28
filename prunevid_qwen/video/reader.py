"""Reading a video from whatever names it: checks, the choice of frames, the backend asked for and no other."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prunevid_qwen.errors import ConfigError, MediaError, SetupError
from prunevid_qwen.video import frames as frame_sources
from prunevid_qwen.video.paths import local_file, local_path
from prunevid_qwen.video.record import Deadline, Timeline, Video
from prunevid_qwen.video.sampling import check_request, choose_frames, frames_in_range

logger = logging.getLogger("prunevid_qwen")

# Name of the option: module here, module it imports, extra that installs it.
BACKENDS = {
    "pyav": ("pyav", "av", "pyav"),
    "decord": ("decord", "decord", "decord"),
    "opencv": ("opencv", "cv2", "opencv"),
    "torchcodec": ("torchcodec", "torchcodec.decoders", "torchcodec"),
    "qwen-vl-utils": ("qwen_vl_utils", "qwen_vl_utils", "qwen-vl-utils"),
}
# Seen with decord2 3.4 and torchcodec 0.13: a segmentation fault, which no except clause catches.
_CLASHES = {"torchcodec": "decord", "decord": "torchcodec"}
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
) -> Video:
    """Sample frames from a video by their timestamps.

    Files are read with ``backend`` and no other, as players show them (rotation applied, non-square pixels not
    stretched). Images and arrays carry no times: frame i is taken as shown at ``i / fps`` seconds. Beyond the frames
    taken, one frame is held in memory (an array that was passed is not copied as a whole).

    Args:
        source: path or ``file://`` URL of a video (mp4, webm, mkv, avi, gif, ...); a folder of images, in natural
            order of their names; a list of image paths, PIL images or ``[H, W, 3]`` arrays; or a uint8 array or tensor
            ``[T, H, W, 3]`` or ``[T, 3, H, W]``.
        max_frames: frames sampled at most, at least 2. An odd number of frames is made even by repeating the last.
        sampling: "uniform": the frames nearest to ``max_frames`` equally spaced times, both ends included; "fps":
            ``min(max_frames, max(2, floor(seconds * fps)))`` of them. A video with fewer frames gives them all.
        fps: frames a second, above 0: for ``sampling="fps"``, and the rate at which images and arrays were taken.
        start: seconds after the first frame from which frames are taken, or None for the beginning.
        end: seconds up to which frames are taken (inclusive), or None; beyond the video it means the end.
        backend: "pyav", "decord", "opencv", "torchcodec" or "qwen-vl-utils". All take the same frames, except
            qwen-vl-utils, which spaces them equally by number (the same where the frame rate is constant).
        time_limit: seconds that reading may take, or None. Checked between frames.

    Returns:
        The frames, uint8 RGB ``[n, H, W, 3]``, n even, and when they are shown.

    Raises:
        MediaError: missing, empty, truncated beyond use, no video, no frame in the range, or over the time limit.
        ConfigError: a wrong argument.
        SetupError: the backend asked for is not installed.
    """
    check_request(max_frames, sampling, fps, start, end)
    if backend not in BACKENDS:
        raise ConfigError(f"video_backend is one of {', '.join(BACKENDS)}; got {backend!r}")
    opened = _open_frames(source, fps)
    name = opened.name if opened else local_path(source)
    deadline = Deadline(name, time_limit)
    if opened:
        timeline, backend = opened.timeline, "frames"
    else:
        name = local_file(source)
        module = load_backend(backend)
        from prunevid_qwen.video.timeline import read_timeline

        timeline = read_timeline(name, deadline)

    first, last = frames_in_range(timeline.seconds, timeline.duration, start, end, name)
    usable = list(range(first, last + 1))
    asked: dict[str, Any] = {"max_frames": max_frames, "sampling": sampling, "fps": fps}
    if opened:
        chosen = _choose(timeline, usable, asked)
        found = {}
        for i in dict.fromkeys(chosen):
            deadline.check()
            found[i] = opened.load(i)
        notes: list[str] = []
    else:
        timeline, chosen, found, notes = _fetch(name, module, timeline, usable, asked, (start, end), deadline)
    return _pack(name, backend, timeline, chosen, found, [*timeline.notes, *notes])


def load_backend(backend: str) -> Any:
    """Import the module of this package that reads with ``backend``, and the library under it.

    Raises:
        SetupError: the library is not installed, or its import fails.
    """
    ours, theirs, extra = BACKENDS[backend]
    clash = _CLASHES.get(backend)
    if clash in sys.modules:
        raise SetupError(
            f'video_backend="{backend}": {clash} is already loaded in this process, and the two together crash Python '
            f'on AV1 videos (each carries an FFmpeg): use one of them per process, or video_backend="pyav"'
        )
    try:
        importlib.import_module(theirs)
    except ModuleNotFoundError as error:
        missing = error.name or theirs
        if missing == theirs.split(".")[0]:
            why = f"{theirs.split('.')[0]} is not installed"
        else:
            why = f"{backend} is installed, but needs {missing}, which is not"
        raise SetupError(f'video_backend="{backend}": {why}. {_remedy(backend, extra)}') from error
    except Exception as error:  # a shared library that is missing shows as OSError, ImportError or RuntimeError
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise SetupError(
            f'video_backend="{backend}": importing {theirs} failed ({said[0][:200]}). {_remedy(backend, extra)}'
        ) from error
    return importlib.import_module(f"prunevid_qwen.video.{ours}")


def _remedy(backend: str, extra: str) -> str:
    needs = {
        "torchcodec": " It also needs FFmpeg's shared libraries (for example 'apt install ffmpeg') and a build that "
        "fits the installed torch.",
        "qwen-vl-utils": " It also needs a torchvision that imports beside the installed torch, and decord or "
        "torchcodec to read with.",
    }.get(backend, "")
    install = "pip install av" if backend == "pyav" else f"pip install prunevid-qwen[{extra}]"
    other = "" if backend == "pyav" else ', or use video_backend="pyav"'
    return f"Run '{install}'{other}.{needs}"


def _open_frames(source: Any, fps: float) -> frame_sources.FrameSource | None:
    """Return the frames if they come as images; None if ``source`` is the path of a video file."""
    if isinstance(source, (str, os.PathLike)):
        path = local_path(source)
        if os.path.isdir(path):
            return frame_sources.frames_of_folder(path, fps)
        if Path(path).suffix.lower() in frame_sources.IMAGE_SUFFIXES:
            return frame_sources.frames_of_list([path], fps, name=path)
        return None
    if hasattr(source, "shape"):
        return frame_sources.frames_of_array(source, fps)
    if isinstance(source, Sequence) and not isinstance(source, (bytes, bytearray)):
        return frame_sources.frames_of_list(source, fps)
    raise MediaError(
        f"a video is a path, a folder of frames, a list of images or an array [T, H, W, 3]; got {type(source).__name__}"
    )


def _choose(timeline: Timeline, usable: list[int], asked: dict[str, Any]) -> list[int]:
    picks = choose_frames([timeline.seconds[i] for i in usable], timeline.frame_seconds, **asked)
    return [usable[p] for p in picks]


def _fetch(
    name: str,
    module: Any,
    timeline: Timeline,
    usable: list[int],
    asked: dict[str, Any],
    window: tuple[float | None, float | None],
    deadline: Deadline,
) -> tuple[Timeline, list[int], dict[int, np.ndarray], list[str]]:
    """Choose and decode; choose again without the frames that did not decode."""
    lost: set[int] = set()
    said: list[str] = []
    for _ in range(_CHOICES):
        offered = [i for i in usable if i not in lost]
        if not offered:
            break
        chosen = _choose(timeline, offered, asked)
        found, said = module.fetch(name, sorted(set(chosen)), timeline, deadline)
        notes = [f"{name}: {note}" for note in said]
        if getattr(module, "CHOOSES_ITSELF", False):
            return timeline, sorted(found), found, notes
        missing = set(chosen) - set(found)
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
    return _fetch_what_decodes(name, module, timeline, asked, window, deadline)


def _fetch_what_decodes(
    name: str,
    module: Any,
    timeline: Timeline,
    asked: dict[str, Any],
    window: tuple[float | None, float | None],
    deadline: Deadline,
) -> tuple[Timeline, list[int], dict[int, np.ndarray], list[str]]:
    from prunevid_qwen.video.timeline import timeline_by_decoding

    listed = len(timeline.seconds)
    timeline = timeline_by_decoding(name, deadline, list(timeline.notes))
    first, last = frames_in_range(timeline.seconds, timeline.duration, *window, name)
    chosen = _choose(timeline, list(range(first, last + 1)), asked)
    found, said = module.fetch(name, sorted(set(chosen)), timeline, deadline)
    notes = [f"{name}: {note}" for note in said]
    notes.append(f"{name}: {len(timeline.seconds)} of {listed} frames decode, only those were taken")
    return timeline, [i for i in chosen if i in found], found, notes


def _pack(
    name: str, backend: str, timeline: Timeline, chosen: list[int], found: dict[int, np.ndarray], notes: list[str]
) -> Video:
    if not chosen:
        raise MediaError(f"not one frame of {name} can be decoded: the file is damaged; copy or download it again")
    sizes = {found[i].shape[:2] for i in chosen}
    if len(sizes) > 1:
        shown = ", ".join(f"{w}x{h}" for h, w in sorted(sizes))
        raise MediaError(f"{name} changes its size midway ({shown}): convert it to one size, or read one part of it")
    if len(set(chosen)) < len(chosen):
        notes.append(
            f"{name}: the frame rate varies, {len(set(chosen))} different frames are the nearest to "
            f"{len(chosen)} equally spaced times"
        )
    height, width = sizes.pop()
    padded = len(chosen) % 2
    frames = np.empty((len(chosen) + padded, height, width, 3), dtype=np.uint8)
    for slot, i in enumerate([*chosen, *chosen[-1:] * padded]):
        # Each frame is let go as soon as it is copied, so that the video is never in memory twice.
        frames[slot] = found.pop(i) if i in found else frames[slot - 1]
    for note in notes:
        logger.warning(note)
    times = tuple(timeline.seconds[i] for i in chosen)
    covered = times[-1] - times[0] + timeline.frame_seconds
    return Video(
        frames=frames,
        timestamps=times,
        indices=tuple(chosen),
        padded=padded,
        seconds_per_grid=2.0 * covered / len(times),
        duration=timeline.duration,
        source_fps=1.0 / timeline.frame_seconds,
        size=(height, width),
        backend=backend,
        source=name,
        warnings=tuple(notes),
    )
