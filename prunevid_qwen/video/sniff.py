"""Why a file is not a video: looks at its first bytes, so that the message can say what to do."""

from __future__ import annotations

import os
import struct

_PICTURES = {b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"BM": "BMP", b"II*\0": "TIFF", b"MM\0*": "TIFF"}
_ARCHIVES = {b"PK\x03\x04": "ZIP", b"\x1f\x8b": "gzip", b"%PDF": "PDF", b"7z\xbc\xaf": "7-Zip"}


def explain_unreadable(path: str) -> str:
    """Say in one clause what the file at ``path`` seems to be and what to do about it."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(4096)
    if head.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the video itself: run 'git lfs pull'"
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"wide"):
        if not _has_moov(path, size):
            return (
                f"it is an MP4/MOV of {size} bytes without its complete index (the moov box), so it was truncated or "
                f"its recording never finished: copy or download it again"
            )
        return f"its MP4/MOV index cannot be read ({size} bytes), it is probably truncated: copy or download it again"
    if head.startswith(b"\x1aE\xdf\xa3"):
        return f"its Matroska/WebM header cannot be read ({size} bytes), it is probably truncated: download it again"
    for magic, kind in {**_PICTURES, **_ARCHIVES}.items():
        if head.startswith(magic):
            return f"it is a {kind} file: pass a video (mp4, webm, mkv, avi, gif) or a folder of frames"
    if _is_text(head):
        first = head.decode("utf-8", "replace").strip().splitlines()[:1]
        shown = first[0][:60] if first else ""
        return f"it is a text file (it begins {shown!r}), not a video: check the path, or download the video again"
    return (
        f"its {size} bytes are no video format that this reader knows: convert it, for example 'ffmpeg -i IN out.mp4'"
    )


def is_webp_or_tiff(path: str) -> bool:
    """Whether a file begins as a WebP or TIFF does; False where there is none that can be read."""
    try:
        with open(path, "rb") as file:
            head = file.read(12)
    except OSError:
        return False
    return head[:4] in (b"II*\0", b"MM\0*") or (head[:4] == b"RIFF" and head[8:] == b"WEBP")


def has_end_mark(path: str) -> bool:
    """Whether a GIF ends as a complete one does."""
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b";"


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # a character cut by the end of what was read is still text
            return False
        text = head[: error.start].decode("utf-8")
    return all(c.isprintable() or c in "\r\n\t\f\ufeff" for c in text)


def _has_moov(path: str, size: int) -> bool:
    """Walk the top-level boxes of an MP4: is the index there, all of it?"""
    at = 0
    with open(path, "rb") as file:
        while at + 8 <= size:
            file.seek(at)
            header = file.read(16)
            length, kind = struct.unpack(">I4s", header[:8])
            if length == 1 and len(header) == 16:
                length = struct.unpack(">Q", header[8:])[0]
            if kind == b"moov":
                return at + length <= size
            if length < 8:  # 0 means "to the end of the file"
                return False
            at += length
    return False
