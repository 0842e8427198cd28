"""Files that other libraries would show otherwise than PyAV does: refused there, with the reason."""

from __future__ import annotations

from typing import Any

from prunevid_qwen.errors import MediaError
from prunevid_qwen.video.pyav import matrix_of, open_container, see_through
from prunevid_qwen.video.streams import videos

# Numbers of ITU-T H.273 that all libraries show alike: RGB, BT.709, BT.601 and their kin, and what is not said.
# OpenCV 5 adapts other primaries and HDR transfers to sRGB, PyAV and decord 3.4 leave them; some it cannot convert.
_MATRICES, _PRIMARIES = (0, 1, 2, 4, 5, 6, 7), (0, 1, 2, 4, 5, 6, 7, 22)
_OTHER_TRANSFERS = (9, 10, 16, 18)  # logarithmic, PQ, HLG


def check_alike(path: str, backend: str) -> None:
    """Check that a library shows a video file as PyAV does; its first frame is decoded.

    Raises:
        MediaError: it holds several videos, is to be mirrored, its colours are no usual ones (BT.2020, P3, PQ,
            HLG), or its first frame is transparent in places.
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
    if space not in _MATRICES or primaries not in _PRIMARIES or transfer in _OTHER_TRANSFERS:
        return (
            f"its colours (matrix {space}, primaries {primaries}, transfer {transfer} of H.273) are wider than "
            "BT.709, such as BT.2020, P3, PQ and HLG, or unusual, and not every library shows them alike"
        )
    if see_through(frame) is not None:
        return "parts of its frames are transparent, below which not every library puts white"
    return None
