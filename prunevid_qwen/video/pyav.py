"""Decoding with PyAV, the default: exact frames, rotation as players show it, seeks where they give the same frames."""

from __future__ import annotations

import bisect
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from prunevid_qwen.errors import MediaError
from prunevid_qwen.video.image_files import WHITE_BELOW
from prunevid_qwen.video.sniff import explain_unreadable
from prunevid_qwen.video.streams import best, videos
from prunevid_qwen.video.video_read import Deadline, Remark, Timeline

# Decoding fewer frames than this costs less than a seek, which empties the decoder's threads.
SEEK_GAP = 24
_ONE = 1 << 16  # in a display matrix
# How a frame is turned that is not mirrored, by quarters counter-clockwise; see `matrix_of`.
_QUARTERS = (None, (0, -_ONE, _ONE, 0), (-_ONE, 0, 0, -_ONE), (0, _ONE, -_ONE, 0))
# Keyframes of other containers are not safe starting points: MPEG-TS marks recovery points, AVI has no pts.
_SEEKABLE = ("matroska", "mp4")
LOOKS_BACK = True  # `fetch` finds what `frames` passes over, where it seeks


def open_container(path: str) -> tuple[Any, Any]:
    """Open a video file; returns PyAV's container and its video stream. The caller closes the container.

    Raises:
        MediaError: no video format, or no video in it.
    """
    import av

    try:
        # "file:" and an absolute path: "12:30.mp4" would otherwise be taken for a URL of the protocol "12".
        container = av.open("file:" + os.path.abspath(path), mode="r", metadata_errors="replace")
    except av.FFmpegError as error:
        raise MediaError(f"{path} cannot be read as a video: {explain_unreadable(path)}") from error
    streams = videos(container)
    if not streams:
        kinds = sorted({"a cover picture" if s.type == "video" else str(s.type) for s in container.streams})
        container.close()
        if not kinds:  # an MP4 whose index is missing may open, as a file of no streams
            raise MediaError(f"{path} cannot be read as a video: {explain_unreadable(path)}")
        raise MediaError(f"{path} has no video in it, only {', '.join(kinds)}: pass a file with a video stream")
    stream = streams[0] if len(streams) == 1 else best(path, streams)
    if stream.codec_context is None:
        container.close()
        raise MediaError(
            f"{path} is in a codec that PyAV cannot decode: convert it, 'ffmpeg -i IN -c:v libx264 OUT.mp4'"
        )
    stream.thread_type = "AUTO"
    return container, stream


def can_seek(container: Any) -> bool:
    """Whether decoding may start at the keyframes that the container lists."""
    return any(name in container.format.name for name in _SEEKABLE)


def decoded(container: Any, stream: Any, deadline: Deadline, errors: list[str]) -> Iterator[Any]:
    """Yield the frames from here on in display order; what cannot be decoded is written to ``errors`` and passed."""
    import av

    packets = container.demux(stream)
    while True:
        deadline.check()
        try:
            packet = next(packets)
        except StopIteration:
            return
        except av.FFmpegError as error:  # the file ends in the middle of a packet
            errors.append(error.strerror or str(error))
            packet = None
        try:
            frames = stream.codec_context.decode(packet) if packet is None else packet.decode()
        except av.EOFError:
            return
        except av.FFmpegError as error:
            errors.append(error.strerror or str(error))
            frames = []
        for frame in frames:
            deadline.check()
            yield frame
        if packet is None:
            return


def fetch(
    path: str, indices: list[int], timeline: Timeline, deadline: Deadline
) -> tuple[dict[int, np.ndarray], list[str]]:
    """Decode the frames at ``indices`` (ascending, distinct, in display order).

    Returns:
        The frames that could be decoded by index, uint8 RGB ``[H, W, 3]``; and one sentence for each thing that was
        wrong.
    """
    if timeline.ticks is None:
        notes: list[str] = []
        return dict(_by_order(path, indices, deadline, notes)), notes
    wanted = {timeline.ticks[i]: i for i in indices}
    found, notes = _fetch_by_tick(path, wanted, timeline, timeline.keys, deadline)
    missing = {tick: i for tick, i in wanted.items() if i not in found}
    if missing and timeline.keys:
        # A seek may land after its target where the index is wrong: from the beginning nothing is skipped.
        more, notes = _fetch_by_tick(path, missing, timeline, (), deadline)
        found.update(more)
    return found, notes


def frames(
    path: str, indices: list[int], timeline: Timeline, deadline: Deadline, notes: list[str]
) -> Iterator[tuple[int, np.ndarray]]:
    """Decode the frames at ``indices`` (ascending, distinct) one after the other, holding one at a time.

    A frame that cannot be decoded is left out. Unlike `fetch`, which does, this does not look for it from the beginning
    of the file, where a seek may have passed it over.

    Args:
        path: of the file.
        indices: in display order.
        timeline: of the file.
        deadline: asked between frames.
        notes: gets one sentence for each thing that was wrong, at the end.

    Yields:
        Index and uint8 RGB ``[H, W, 3]``, ascending in files that are not damaged.
    """
    if timeline.ticks is None:
        yield from _by_order(path, indices, deadline, notes)
        return
    wanted = {timeline.ticks[i]: i for i in indices}
    yield from _by_tick(path, wanted, timeline, timeline.keys, deadline, notes)


def _fetch_by_tick(
    path: str, wanted: dict[int, int], timeline: Timeline, keys: tuple[int, ...], deadline: Deadline
) -> tuple[dict[int, np.ndarray], list[str]]:
    notes: list[str] = []
    return dict(_by_tick(path, wanted, timeline, keys, deadline, notes)), notes


def _by_tick(
    path: str,
    wanted: dict[int, int],
    timeline: Timeline,
    keys: tuple[int, ...],
    deadline: Deadline,
    notes: list[str],
) -> Iterator[tuple[int, np.ndarray]]:
    assert timeline.ticks is not None
    found: set[int] = set()
    errors: list[str] = []
    done: set[str] = set()
    damaged = 0
    container, stream = open_container(path)
    with container:
        pictures = decoded(container, stream, deadline, errors)
        at = -1  # index of the last frame decoded
        for target in sorted(wanted):
            if wanted[target] in found or wanted[target] <= at:
                continue
            key = bisect.bisect_right(keys, target) - 1
            if key >= 0 and bisect.bisect_left(timeline.ticks, keys[key]) - at > SEEK_GAP:
                container.seek(keys[key], stream=stream, backward=True, any_frame=False)
                pictures = decoded(container, stream, deadline, errors)
            for frame in pictures:
                if frame.pts is None:
                    continue
                at = bisect.bisect_right(timeline.ticks, frame.pts) - 1
                if frame.pts in wanted:
                    found.add(wanted[frame.pts])
                    damaged += bool(frame.is_corrupt)
                    yield wanted[frame.pts], _as_shown(frame, done)
                if frame.pts >= target:
                    break
    notes += [*_notes(errors, damaged), *done]


def _by_order(path: str, indices: list[int], deadline: Deadline, notes: list[str]) -> Iterator[tuple[int, np.ndarray]]:
    errors: list[str] = []
    done: set[str] = set()
    damaged = 0
    wanted = set(indices)
    container, stream = open_container(path)
    with container:
        for i, frame in enumerate(decoded(container, stream, deadline, errors)):
            if i in wanted:
                damaged += bool(frame.is_corrupt)
                yield i, _as_shown(frame, done)
            if i >= indices[-1]:
                break
    notes += [*_notes(errors, damaged), *done]


def _notes(errors: list[str], damaged: int) -> list[str]:
    notes = []
    if errors:
        notes.append(f"{len(errors)} parts could not be decoded ({errors[0]})")
    if damaged:
        notes.append(f"{damaged} of the frames taken are damaged")
    return notes


def _as_shown(frame: Any, done: set[str]) -> np.ndarray:
    """Return uint8 RGB ``[H, W, 3]``, turned and mirrored as the display matrix says, over white.

    ``done`` gets a clause on what was done to the colours.
    """
    pixels = see_through(frame)
    if pixels is None:
        pixels = _converted(frame, "rgb24")
    else:
        alpha = pixels[:, :, 3:].astype(np.uint32)
        pixels = ((pixels[:, :, :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
        done.add(Remark(WHITE_BELOW))
    matrix = matrix_of(frame)
    if matrix is None:
        return pixels
    a, b, c, d = matrix
    if abs(a) + abs(d) < abs(b) + abs(c):
        pixels, a, d = pixels.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def see_through(frame: Any) -> np.ndarray | None:
    """Return a frame as uint8 RGBA ``[H, W, 4]`` if parts of it are transparent, else None."""
    if frame.format.name != "pal8" and not any(part.is_alpha for part in frame.format.components):
        return None
    pixels = _converted(frame, "rgba")
    return pixels if pixels[:, :, 3].min() < 255 else None


def _converted(frame: Any, target: str) -> np.ndarray:
    import av

    try:
        return frame.to_ndarray(format=target)  # type: ignore[no-any-return]
    except av.FFmpegError as error:
        space = getattr(frame, "colorspace", "unknown")
        raise MediaError(
            f"PyAV cannot turn the colours of a frame into RGB ({error.strerror}; colour space {space}): "
            f"convert the video, 'ffmpeg -i IN -vf scale=out_color_matrix=bt709 OUT.mp4'"
        ) from error


def matrix_of(frame: Any) -> tuple[int, int, int, int] | None:
    """Return how a frame is turned, if it is: (x, y), y down, goes to (a x + c y, b x + d y), in fixed point."""
    from av.sidedata.sidedata import Type

    try:
        matrix = frame.side_data.get(Type.DISPLAYMATRIX)
    except ValueError:  # beside it is data of a kind that PyAV has no name for: EXIF, the views of a spatial video
        return _QUARTERS[round(getattr(frame, "rotation", 0) / 90) % 4]
    if matrix is None:
        return None
    # Rows (a b u) (c d v) (x y w).
    a, b, _, c, d = np.frombuffer(bytes(matrix)[:20], dtype=np.int32).tolist()
    return a, b, c, d
