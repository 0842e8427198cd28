"""When each frame of a file is shown, from its packets: nothing is decoded unless the timestamps cannot be trusted."""

from __future__ import annotations

import itertools
from typing import Any

from prunevid_qwen.errors import MediaError
from prunevid_qwen.video.pyav import can_seek, decoded, open_container
from prunevid_qwen.video.record import Deadline, Timeline
from prunevid_qwen.video.sniff import has_end_mark


def read_timeline(path: str, deadline: Deadline) -> Timeline:
    """List the frames of a video file in display order.

    Every backend chooses from this list, so the same request takes the same frames whichever library decodes them.

    Raises:
        MediaError: the file cannot be opened, or holds no frame.
    """
    import av

    ticks: list[int] = []
    keys: list[int] = []
    packets, damaged, trusted, ended, shown = 0, 0, True, 0.0, 0.0
    container, stream = open_container(path)
    with container:
        try:
            # All streams: whether a Matroska file was cut short shows only where the last of them ends.
            for packet in container.demux():
                deadline.check()
                if packet.size == 0 or packet.stream is None:  # the empty packet that ends each stream
                    continue
                if packet.pts is not None and packet.time_base is not None:
                    ended = max(ended, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                if packet.stream.index != stream.index:
                    continue
                packets += 1
                if packet.is_discard:  # before the beginning that an edit list sets: decoded, never shown
                    continue
                if packet.is_corrupt:  # the file ends in the middle of it: what decodes of it is half a picture
                    damaged += 1
                    continue
                if packet.pts is None:
                    trusted = False
                    continue
                ticks.append(packet.pts)
                shown = float((packet.duration or 0) * packet.time_base)
                if packet.is_keyframe:
                    keys.append(packet.pts)
        except av.FFmpegError:
            pass  # the file ends in the middle of a packet: what is there has been listed
        notes = _cut_short(path, container, stream, packets, ended)
        if damaged:
            notes.append(f"{path}: {damaged} of {packets} frames are cut off or damaged and were left out")
        rate = stream.average_rate or stream.guessed_rate
        base = stream.time_base
        seekable = can_seek(container)
        reordered = "avi" in container.format.name and stream.codec_context.has_b_frames
    if not packets:
        raise MediaError(
            f"{path} holds no frame, its header is all there is: it was truncated; copy or download it again"
        )
    if not trusted or len(set(ticks)) < len(ticks) or not ticks:
        return timeline_by_decoding(path, deadline, notes)
    ticks.sort()
    seconds = tuple(float((t - ticks[0]) * base) for t in ticks)
    lasts = _frame_seconds(seconds, shown, rate)
    if reordered:  # AVI numbers packets in decoding order: the set of times is right, not which frame has which
        return Timeline(seconds, lasts, tuple(notes))
    return Timeline(seconds, lasts, tuple(notes), tuple(ticks), tuple(sorted(keys)) if seekable else ())


def timeline_by_decoding(path: str, deadline: Deadline, notes: list[str] | None = None) -> Timeline:
    """List the frames that really decode. Slow: every frame is decoded, none is kept.

    Raises:
        MediaError: not one frame decodes.
    """
    errors: list[str] = []
    container, stream = open_container(path)
    with container:
        rate = stream.average_rate or stream.guessed_rate
        times: list[float | None] = [f.time for f in decoded(container, stream, deadline, errors)]
    if not times:
        why = f" ({errors[0]})" if errors else ""
        raise MediaError(f"not one frame of {path} can be decoded{why}: the file is damaged; copy or download it again")
    known = [t for t in times if t is not None]
    if len(known) == len(times) and all(b > a for a, b in itertools.pairwise(known)):
        seconds = tuple(t - known[0] for t in known)
    else:
        seconds = tuple(i / float(rate or 25) for i in range(len(times)))
    return Timeline(seconds, _frame_seconds(seconds, 0.0, rate), tuple(notes or ()))


def _frame_seconds(seconds: tuple[float, ...], shown: float, rate: Any) -> float:
    if len(seconds) > 1:
        return seconds[-1] / (len(seconds) - 1)
    return shown if shown > 0 else 1.0 / float(rate or 25)


def _cut_short(path: str, container: Any, stream: Any, packets: int, ended: float) -> list[str]:
    """Compare what the header promises with what is there."""
    if stream.frames > packets:
        return [f"{path} is cut short: its header promises {stream.frames} frames, {packets} are there"]
    if container.format.name == "gif" and not has_end_mark(path):
        return [f"{path} is cut short: it lacks the mark that ends a GIF, {packets} frames are there, the last damaged"]
    promised = (container.duration or 0) / 1e6
    # Matroska has no count of frames, only a duration. Other containers leave it to be guessed from the bit rate.
    if "matroska" not in container.format.name or promised - ended <= max(0.25, 2 * ended / max(packets, 1)):
        return []
    alone = ended > 0 and len(container.streams) == 1  # another stream may rightly be longer than the pictures
    expected = f" (about {round(promised * packets / ended)} frames)" if alone else ""
    return [
        f"{path} is cut short: its header promises {promised:.2f} s{expected}, {ended:.2f} s "
        f"({packets} frames) are there"
    ]
