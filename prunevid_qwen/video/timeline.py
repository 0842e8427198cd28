"""When each frame of a file is shown, from its packets: nothing is decoded unless the timestamps cannot be trusted."""

from __future__ import annotations

import itertools
import math
from typing import Any

from prunevid_qwen.errors import MediaError
from prunevid_qwen.video.pyav import can_seek, decoded, open_container
from prunevid_qwen.video.sampling import is_steady
from prunevid_qwen.video.sniff import has_end_mark
from prunevid_qwen.video.streams import several_videos
from prunevid_qwen.video.video_read import Deadline, Remark, Timeline

# Recordings in these containers are joined end to end, each with a clock of its own. A longer step ahead is then taken
# for such a join, as ffmpeg's -dts_delta_threshold does.
_JOINED = {"mpegts", "mpeg", "hls"}
_JUMP = 10.0  # seconds
# Packets before such a join, one of which FFmpeg calls damaged although it is whole.
_BEFORE_JOIN = 2


class _Clock:
    """Follows a stream's decoding timestamps: where they fall back or jump ahead, another part begins.

    Args:
        base: seconds of a tick.
        jumps: whether the container is one in which a clock may jump ahead.
    """

    def __init__(self, base: Any, jumps: bool) -> None:
        self._base, self._may_jump = base, jumps
        self._last: int | None = None
        self._beside: list[float] = []  # seconds of other streams since the last packet
        self.falls, self.jumps = 0, 0
        self.joins: list[int] = []  # numbers of the packets with which parts begin

    def beside(self, seconds: float) -> None:
        """Note that another stream goes on: then a picture stays, and no clock jumps."""
        self._beside.append(seconds)

    def tick(self, number: int, dts: int) -> None:
        """Take the timestamp of the next packet."""
        if self._last is not None:
            before, at = float(self._last * self._base), float(dts * self._base)
            fell = dts < self._last
            jumped = self._may_jump and at - before > _JUMP
            jumped = jumped and not any(before + 1 < other < at - 1 for other in self._beside)
            self.falls, self.jumps = self.falls + fell, self.jumps + jumped
            if fell or jumped:
                self.joins.append(number)
        self._last = dts
        self._beside.clear()

    def spares(self, number: int) -> bool:
        """Tell whether a packet is no damaged one, but among the last of a part."""
        return any(0 < join - number <= _BEFORE_JOIN for join in self.joins)


def read_timeline(path: str, deadline: Deadline) -> Timeline:
    """List the frames of a video file in display order.

    Every backend chooses from this list, so the same request takes the same frames whichever library decodes them.

    Raises:
        MediaError: the file cannot be opened, or holds no frame.
    """
    import av

    ticks: list[int] = []
    keys: list[int] = []
    packets, trusted, ended = 0, True, 0.0
    suspects: list[tuple[int, int | None]] = []  # number and tick of packets that FFmpeg calls damaged
    lasting: dict[int, int] = {}
    beside: list[float] = []  # seconds at which other streams, such as sound, have something
    container, stream = open_container(path)
    with container:
        joined = not _JOINED.isdisjoint(container.format.name.split(","))
        clock = _Clock(stream.time_base, joined)
        try:
            # All streams: whether a Matroska file was cut short shows only where the last of them ends.
            for packet in container.demux():
                deadline.check()
                if packet.size == 0 or packet.stream is None:  # the empty packet that ends each stream
                    continue
                if packet.pts is not None and packet.time_base is not None:
                    ended = max(ended, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                if packet.stream.index != stream.index:
                    if packet.pts is not None and packet.time_base is not None:
                        beside.append(float(packet.pts * packet.time_base))
                        clock.beside(beside[-1])
                    continue
                packets += 1
                if packet.dts is not None:
                    clock.tick(packets, packet.dts)
                if packet.is_discard:  # before the beginning that an edit list sets: decoded, never shown
                    continue
                if packet.pts is not None:
                    lasting[packet.pts] = packet.duration or 0
                if packet.is_corrupt:  # the file ends in the middle of it: what decodes of it is half a picture
                    suspects.append((packets, packet.pts))
                    continue
                if packet.pts is None:
                    trusted = False
                    continue
                ticks.append(packet.pts)
                if packet.is_keyframe:
                    keys.append(packet.pts)
        except av.FFmpegError:
            pass  # the file ends in the middle of a packet: what is there has been listed
        notes = _cut_short(path, container, stream, packets, ended)
        spared = [tick for number, tick in suspects if clock.spares(number)]
        ticks += [tick for tick in spared if tick is not None]
        by_decoding = not trusted or None in spared or clock.falls or len(set(ticks)) < len(ticks) or not ticks
        damaged = len(suspects) - len(spared)
        if damaged:
            left_out = "" if by_decoding else " and were left out"
            notes.append(f"{path}: {damaged} of {packets} frames are cut off or damaged{left_out}")
        promised = None if notes else _promised_end(container, stream)
        notes += several_videos(path, container, stream)
        rate = stream.average_rate or stream.guessed_rate
        base = stream.time_base
        seekable = can_seek(container)
        reordered = "avi" in container.format.name and stream.codec_context.has_b_frames
    if not packets:
        raise MediaError(
            f"{path} holds no frame, its header is all there is: it was truncated; copy or download it again"
        )
    if by_decoding:
        return timeline_by_decoding(path, deadline, notes, clock.falls, clock.jumps)
    ticks.sort()
    begins = float(ticks[0] * base)
    seconds = tuple(float((t - ticks[0]) * base) for t in ticks)
    if joined:
        seconds, jumps = _without_jumps(seconds, [at - begins for at in beside])
        if jumps:
            promised = None
            notes.append(_parts_moved(path, "jumps ahead", jumps))
    shown = lasting[ticks[-1]]
    lasts = _frame_seconds(seconds, float(shown * base), rate)
    ends = _end(seconds, lasts, float(shown * base), 0.0 if promised is None else float((promised - ticks[0]) * base))
    if reordered:  # AVI numbers packets in decoding order: the set of times is right, not which frame has which
        return Timeline(seconds, lasts, tuple(notes), ends=ends)
    return Timeline(seconds, lasts, tuple(notes), tuple(ticks), tuple(sorted(keys)) if seekable else (), ends)


def timeline_by_decoding(
    path: str, deadline: Deadline, notes: list[str] | None = None, resets: int = 0, leaps: int = 0
) -> Timeline:
    """List the frames that really decode, in the order in which they do. Slow: every frame is decoded, none is kept.

    Args:
        path: of the file.
        deadline: asked between frames.
        notes: sentences for ``Video.warnings``, to which others are added.
        resets: how often the packets' clock falls back: where the frames' does, what follows is placed behind.
        leaps: how often it jumps ahead, likewise.

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
    said = list(notes or ())
    known = [t for t in times if t is not None]
    steps = [b - a for a, b in itertools.pairwise(known)]
    falls = sum(step <= 0 for step in steps)
    if len(known) == len(times) and falls <= resets:
        forward = sorted(step for step in steps if step > 0)
        usual = forward[len(forward) // 2] if forward else 1.0 / float(rate or 25)
        far = sum(step > max(_JUMP, usual) for step in steps)
        most = max(_JUMP, usual) if 0 < far <= leaps else math.inf
        seconds = tuple(itertools.accumulate((step if 0 < step <= most else usual for step in steps), initial=0.0))
        if falls:
            said.append(_parts_moved(path, "begins anew", falls))
        if most < math.inf:
            said.append(_parts_moved(path, "jumps ahead", far))
    else:
        seconds = tuple(i / float(rate or 25) for i in range(len(times)))
    return Timeline(seconds, _frame_seconds(seconds, 0.0, rate), tuple(said))


def _parts_moved(path: str, clock_does: str, times: int) -> str:
    often = "once" if times == 1 else f"{times} times"
    return Remark(f"{path}: its clock {clock_does} {often}, each part was placed behind the one before it")


def _without_jumps(seconds: tuple[float, ...], beside: list[float]) -> tuple[tuple[float, ...], int]:
    """Let each part of a recording follow the one before it; say how many parts were moved.

    A step of more than ten seconds is a jump of the clock, unless other streams go on meanwhile: then a picture stays.
    """
    steps = [b - a for a, b in itertools.pairwise(seconds)]
    usual = sorted(steps)[len(steps) // 2] if steps else 0.0
    moved, jumps = [], 0
    for at, step in zip(seconds, steps, strict=False):
        jump = step > max(_JUMP, usual) and not any(at + 1 < other < at + step - 1 for other in beside)
        moved.append(usual if jump else step)
        jumps += jump
    return (tuple(itertools.accumulate(moved, initial=0.0)) if jumps else seconds), jumps


def _promised_end(container: Any, stream: Any) -> int | None:
    """Tick at which the header lets the stream end; None where it says nothing, or speaks of the whole file."""
    in_parts = "mp4" in container.format.name and not stream.frames  # parts that are missing would be promised
    if in_parts or stream.duration is None or stream.start_time is None:
        return None
    return int(stream.start_time + stream.duration)


def _end(seconds: tuple[float, ...], lasts: float, shown: float, promised: float) -> float | None:
    """Seconds at which the last frame leaves the screen; None if it stays as long as the others."""
    ends = max(seconds[-1] + (shown or lasts), promised)
    return None if is_steady(seconds) and lasts / 2 <= ends - seconds[-1] <= 2 * lasts else ends


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
