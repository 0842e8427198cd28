"""Whether a video file ends before its own header says, as a broken download leaves it; a few bytes are read.

MP4 boxes, the RIFF chunk of an AVI and the Segment of a Matroska or WebM file state their length. A file whose index
comes first opens, and even plays, with half of its frames missing.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip")
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


def promised_bytes(path: Path) -> int | None:
    """Return the least length in bytes that a file states for itself, None where it states none.

    Raises:
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head[4:8] in _BOXES:
            return _end_of_boxes(file, size)
        if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
            stated = struct.unpack("<I", head[4:8])[0]
            return stated + 8 if 0 < stated < 0xFFFFFFFF else None  # what was streamed states nothing
        if head[:4] == _EBML:
            return _end_of_segment(file)
    return None


def _end_of_boxes(file: BinaryIO, size: int) -> int:
    at = 0
    while at + 8 <= size:
        file.seek(at)
        header = file.read(16)
        length, kind = struct.unpack(">I4s", header[:8])
        if length == 1 and len(header) == 16:
            length = struct.unpack(">Q", header[8:])[0]
        if length < 8 or not kind.isalnum():  # up to the end of the file, or no box
            break
        at += length
    return at


def _end_of_segment(file: BinaryIO) -> int | None:
    file.seek(4)
    header = _stated(file)
    if header is None:
        return None
    file.seek(header, 1)
    if file.read(4) != _SEGMENT:
        return None
    length = _stated(file)
    return None if length is None else file.tell() + length


def _stated(file: BinaryIO) -> int | None:
    """Read a number of EBML's variable length; all ones mean that it is not known."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    extra = 8 - first[0].bit_length()
    bits = 7 * (extra + 1)
    value = int.from_bytes(first + file.read(extra), "big") & ((1 << bits) - 1)
    return None if value == (1 << bits) - 1 else value
