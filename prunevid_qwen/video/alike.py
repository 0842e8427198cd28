"""Files that other libraries would show otherwise than PyAV does: refused there, with the reason."""

from __future__ import annotations

from typing import Any

from prunevid_qwen.errors import MediaError
from prunevid_qwen.video.pyav import matrix_of, open_container, see_through
from prunevid_qwen.video.streams import videos

# Numbers of ITU-T H.273. OpenCV 5 adapts wide primaries and HDR transfers to sRGB, PyAV and decord 3.4 leave them.
_WIDE_MATRICES, _WIDE_PRIMARIES, _HDR_TRANSFERS = (9, 10), (9, 11, 12), (16, 18)


def check_alike(path: str, backend: str) -> None:
    """Check that a library shows a video file as PyAV does; its first frame is decoded.

    Raises:
        MediaError: it holds several videos, is to be mirrored, its colours are BT.2020, P3, PQ or HLG,
            or its first frame is transparent in places.
    """
    import av

    container, stream = open_container(path)
    with container:
        count = len(videos(container))
        try:
            first = next(container.decode(stream), None)
        except av.FFmpegError:
            first = None  # damaged: reading says so
        why = f"it holds {count} videos, of which {backend} takes one by itself" if count > 1 else None
        if first is not None:
            why = why or _otherwise(first, stream.codec_context)
    if why:
        raise MediaError(f'{path} cannot be read with {backend}: {why}. Use video_backend="pyav"')


def _otherwise(frame: Any, codec: Any) -> str | None:
    matrix = matrix_of(frame)
    if matrix is not None:
        a, b, c, d = (value / 65536 for value in matrix)
        if a * d - b * c < 0:
            return "its frames are to be shown mirrored, which not every library does"
    # early PyAV does not tell all three: what it does not tell is taken as unspecified
    space = getattr(frame, "colorspace", 2)
    primaries, transfer = getattr(codec, "color_primaries", 2), getattr(codec, "color_trc", 2)
    if space in _WIDE_MATRICES or primaries in _WIDE_PRIMARIES or transfer in _HDR_TRANSFERS:
        return "its colours are BT.2020, P3, PQ or HLG, which not every library shows alike"
    if see_through(frame) is not None:
        return "parts of its frames are transparent, below which not every library puts white"
    return None
