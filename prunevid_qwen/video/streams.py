"""Which of a file's video streams is read."""

from __future__ import annotations

import itertools
import os
from typing import Any

from prunevid_qwen.video.video_read import Remark

_DEFAULT = 0x1  # AV_DISPOSITION_DEFAULT
_ATTACHED_PICTURE = 0x400  # AV_DISPOSITION_ATTACHED_PIC; PyAV 12 has no name for it
_LOOK = 2000  # packets that are looked at to tell a moving stream from a still one


def videos(container: Any) -> list[Any]:
    """List the video streams of an opened file, cover pictures left out."""
    # A cover picture is stored as a video stream of one frame: an mp3 with one is still no video.
    return [stream for stream in container.streams.video if not _is_picture(stream)]


def best(path: str, streams: list[Any]) -> Any:
    """Choose the stream to read: one that decodes, moves, is large, and that the file marks as its default."""
    import av

    found = dict.fromkeys((stream.index for stream in streams), 0)
    # Not every container counts its frames: a second opening, because what is demuxed is gone.
    with av.open("file:" + os.path.abspath(path), mode="r", metadata_errors="replace") as other:
        try:
            for packet in itertools.islice(other.demux(videos(other)), _LOOK):
                if packet.size and packet.stream.index in found:
                    found[packet.stream.index] += 1
                if min(found.values()) > 1:
                    break
        except av.FFmpegError:
            pass  # a damaged file: what was seen decides

    def worth(stream: Any) -> tuple[bool, bool, int, bool, int]:
        codec = stream.codec_context
        area = 0 if codec is None else codec.width * codec.height
        default = bool(_disposition(stream) & _DEFAULT)
        return codec is not None, max(found[stream.index], stream.frames) > 1, area, default, -stream.index

    return max(streams, key=worth)


def several_videos(path: str, container: Any, stream: Any) -> list[str]:
    """Say which stream is read where a file holds several."""
    others = [other.index for other in videos(container) if other.index != stream.index]
    if not others:
        return []
    codec = stream.codec_context
    return [
        Remark(
            f"{path} holds {len(others) + 1} videos: stream {stream.index} ({codec.width}x{codec.height}) is read, not "
            f"{', '.join(map(str, others))}"
        )
    ]


def _is_picture(stream: Any) -> bool:
    return bool(_disposition(stream) & _ATTACHED_PICTURE)


def _disposition(stream: Any) -> int:
    found = getattr(stream, "disposition", 0)
    return int(getattr(found, "value", found))  # in PyAV 13 to 15 a flag that is no int
