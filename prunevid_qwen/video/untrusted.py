"""Checks of files that strangers send, by their headers: nothing is decoded, and nothing else is opened for them."""

from __future__ import annotations

from prunevid_qwen.errors import MediaError
from prunevid_qwen.video.frames import holds_pictures
from prunevid_qwen.video.image_files import open_image
from prunevid_qwen.video.pyav import open_container
from prunevid_qwen.video.reader import ask

_HEAD = 256
_BEGINS = (b"\x1aE\xdf\xa3", b"GIF8", b"FLV\x01", b"OggS", b"\0\0\1\xba", b"\0\0\1\xb3", b"0&\xb2u", b"\x89PNG",
           b"II*\0", b"MM\0*", b"YUV4MPEG2 ")  # fmt: skip
_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip")  # of MP4 and MOV
_SYNC = 0x47  # of MPEG-TS, each 188 bytes


def holds_its_frames(head: bytes) -> bool:
    """Tell from its first bytes whether a file is of a format that holds its frames itself.

    Others are not opened: a playlist is a text that names other files, and FFmpeg would read them.
    """
    riff = head[:4] == b"RIFF" and head[8:12] in (b"AVI ", b"WEBP")
    stream = len(head) > 188 and head[0] == head[188] == _SYNC
    return head.startswith(_BEGINS) or head[4:8] in _BOXES or riff or stream


def check_video(path: str, name: str, seconds: float, pixels: int) -> None:
    """Refuse a video that is too long or of too many pixels, or a file that is none.

    Args:
        path: of the file.
        name: what the message calls it.
        seconds: at most.
        pixels: of a frame at most.

    Raises:
        MediaError: as it says.
    """
    with open(path, "rb") as file:
        if not holds_its_frames(file.read(_HEAD)):
            raise MediaError(f"{name} is of no format that is read here: send an mp4, webm, mkv, avi, ts or gif")
    duration = ask(path).timeline.duration
    if duration > seconds:
        raise MediaError(f"{name} has {duration:.0f} s, and at most {seconds:g} s are taken here: cut it")
    if holds_pictures(path):
        check_image(path, name, pixels)
        return
    container, stream = open_container(path)
    with container:
        context = stream.codec_context
        _check_pixels(name, context.width * context.height, pixels)


def check_image(path: str, name: str, pixels: int) -> None:
    """Refuse an image of too many pixels, or a file that is none; the arguments are those of `check_video`.

    Raises:
        MediaError: as it says.
    """
    with open_image(path) as image:
        width, height = image.size
    _check_pixels(name, width * height, pixels)


def _check_pixels(name: str, count: int, most: int) -> None:
    if count > most:
        raise MediaError(f"{name} has {count:,} pixels a frame, and at most {most:,} are taken here: make it smaller")
