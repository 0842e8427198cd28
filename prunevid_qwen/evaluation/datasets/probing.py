"""Whether a video, an image or a folder of frames that is there can be used."""

from __future__ import annotations

import os
from pathlib import Path

from prunevid_qwen.errors import MediaError
from prunevid_qwen.evaluation.datasets.lengths import promised_bytes
from prunevid_qwen.evaluation.datasets.record import ProblemKind

_SHOWN = 5


def damage(kind: str, path: Path, decode: bool) -> tuple[ProblemKind, str] | None:
    """Say what is wrong with a file or folder that exists, None if nothing is.

    Args:
        kind: "video", "image" or "frames".
        path: of a file, or of a folder for "frames".
        decode: read all of it, not the header alone.
    """
    try:
        if kind == "image":
            return _image(path, decode)
        if kind == "frames":
            return _frames(path, decode)
        return _video(path, decode)
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

    if not folder.is_dir():
        return "unreadable", "it is a file, expected a folder of frames"
    try:
        held = os.listdir(folder)
    except OSError as error:
        return "unreadable", f"the folder cannot be listed ({error.strerror})"
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
    last, there = max(map(int, stems)), set(map(int, stems))
    absent = [number for number in range(1, last + 1) if number not in there]
    shown = ", ".join(map(str, absent[:_SHOWN])) + (", ..." if len(absent) > _SHOWN else "")
    why = f"{len(absent)} of {last} frames are not there (number {shown}): later ones would move in time"
    return ("damaged", why) if absent else None
