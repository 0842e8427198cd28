"""Whether a video, an image or a folder of frames that is there can be used.

A video file may end before its own header says, as a broken download leaves it: one whose index comes first opens, and
even plays, with half of its frames missing. MP4 boxes, the RIFF chunk of an AVI and the Segment of a Matroska or WebM
file state their length.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO

from prunevid_qwen.errors import MediaError
from prunevid_qwen.evaluation.datasets.record import ProblemKind

_SHOWN = 5
_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip")
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


def damage(kind: str, path: Path, decode: bool) -> tuple[ProblemKind, str] | None:
    """Say what is wrong with a video, an image or a folder of frames that exists, None if nothing is.

    With ``decode`` all of it is read, not the header alone.
    """
    try:
        return {"image": _image, "frames": _frames, "video": _video}[kind](path, decode)
    except MediaError as error:
        return "unreadable", str(error)


def _video(path: Path, decode: bool) -> tuple[ProblemKind, str] | None:
    if not decode:
        from prunevid_qwen.video.paths import local_file
        from prunevid_qwen.video.pyav import open_container

        container, _ = open_container(local_file(path))
        container.close()
        size, promised = path.stat().st_size, promised_bytes(path)
        if promised is not None and promised > size:
            return "damaged", f"it was cut short: its header promises {promised} bytes, {size} are there"
        return None
    from prunevid_qwen.video import read_video
    from prunevid_qwen.video.video_read import Remark

    video = read_video(path, max_frames=2, time_limit=None)
    wrong = [note.removeprefix(f"{path}: ") for note in video.warnings if not isinstance(note, Remark)]
    return ("damaged", "; ".join(wrong)) if wrong else None


def _image(path: Path, decode: bool) -> tuple[ProblemKind, str] | None:
    from PIL import Image, UnidentifiedImageError

    from prunevid_qwen.video import read_image

    if decode:
        read_image(path)
        return None
    try:
        with Image.open(path) as image:
            image.verify()
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        return "unreadable", f"it is no readable image ({error})"  # all that Pillow's readers raise
    return None


def _frames(folder: Path, decode: bool) -> tuple[ProblemKind, str] | None:
    from prunevid_qwen.video.frames import IMAGE_SUFFIXES, natural_order

    try:
        held = os.listdir(folder)
    except OSError as error:
        return "unreadable", f"it cannot be listed as a folder of frames ({error.strerror})"
    pictures = [name for name in held if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")]
    names = sorted(pictures, key=natural_order)
    if not names:
        return "unreadable", f"the folder holds no frame among its {len(held)} files"
    for name in names if decode else names[:1]:
        found = _image(folder / name, decode)
        if found is not None:
            return found[0], f"{name}: {found[1]}"
    stems = [Path(name).stem for name in names]
    if not all(stem.isascii() and stem.isdigit() for stem in stems):
        return None
    there = set(map(int, stems))
    absent = [number for number in range(1, max(there) + 1) if number not in there]
    shown = ", ".join(map(str, absent[:_SHOWN])) + (", ..." if len(absent) > _SHOWN else "")
    why = f"{len(absent)} of {max(there)} frames are not there (number {shown}): later ones would move in time"
    return ("damaged", why) if absent else None


def promised_bytes(path: Path) -> int | None:
    """Return the least length in bytes that a video file states for itself, None where it states none."""
    with path.open("rb") as file:
        head = file.read(12)
        if head[4:8] in _BOXES:
            return _end_of_boxes(file, path.stat().st_size)
        if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
            stated = struct.unpack("<I", head[4:8])[0]
            return stated + 8 if 0 < stated < 0xFFFFFFFF else None  # what was streamed states nothing
        return _end_of_segment(file) if head[:4] == _EBML else None


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
    file.seek(_stated(file) or 0, 1)
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
    unknown = (1 << 7 * (extra + 1)) - 1
    value = int.from_bytes(first + file.read(extra), "big") & unknown
    return None if value == unknown else value
