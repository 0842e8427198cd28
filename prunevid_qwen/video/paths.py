"""Checks on a path before any library sees it, so that every backend gives the same message."""

from __future__ import annotations

import difflib
import os
import re
from urllib.parse import unquote

from prunevid_qwen.errors import QUOTED, MediaError, excerpt
from prunevid_qwen.video.data_uris import is_data_uri, named

_URL = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]+://")
_FILE = re.compile(r"^file:(//(localhost(?=/))?|(?=/))", re.IGNORECASE)  # pathlib makes file:/a of file:///a
_LONGEST_NAME = 255  # of a file, on every usual file system


class Named(str):
    """A path that messages hold in part: in an f-string the middle of a long one is left out, elsewhere it is whole."""

    __slots__ = ()

    def __format__(self, spec: str) -> str:
        """Return what a message holds."""
        return format(excerpt(str(self)), spec)


def local_path(source: str | os.PathLike[str], folder: str | os.PathLike[str] = "") -> str:
    """Return the path that ``source`` names: ``file://`` and ``~`` are resolved, other URLs refused.

    After ``file://`` may stand a path as it is, which people and Qwen's examples write, or one that is
    percent-encoded: where the first exists it is meant, else the second. Nothing is cut off after ``#`` or ``?``.

    Args:
        source: a path or a URL.
        folder: what a relative path starts from; not joined to it here.

    Raises:
        MediaError: a URL (no network is ever touched), a ``data:`` URI, or an empty string.
    """
    text = os.fsdecode(source)
    if not text.strip():
        raise MediaError("an empty path was passed: pass the path of a video, an image or a folder of frames")
    if is_data_uri(text):
        raise MediaError(f"{named(text)} is a data URI, which only images may be: save it to a file and pass the path")
    file = _FILE.match(text)
    if file is None:
        if _URL.match(text):
            raise MediaError(
                f"{excerpt(text)} is a URL, and nothing is downloaded here: download it first and pass the local path"
            )
        return os.path.expanduser(text)
    rest = text[file.end() :]
    raw, decoded = os.path.expanduser(rest), os.path.expanduser(unquote(rest))
    return raw if os.path.exists(os.path.join(folder, raw)) else decoded


def local_file(source: str | os.PathLike[str], kind: str = "video") -> Named:
    """Return the path of a readable, non-empty regular file.

    Raises:
        MediaError: missing (the nearest name beside it is offered), empty, not readable, or no regular file.
    """
    path = local_path(source)
    name = excerpt(path)
    if os.path.isdir(path):
        raise MediaError(f"{name} is a folder, expected a file: pass the {kind} itself")
    if not os.path.exists(path):
        raise MediaError(f"no {kind} at {name}{_nearest(path)}")
    if not os.path.isfile(path):
        raise MediaError(f"{name} is not a regular file (a device or a pipe): save the {kind} to a file first")
    try:
        with open(path, "rb") as file:
            if not file.read(1):
                raise MediaError(f"{name} is empty (0 bytes): copy or download it again")
    except OSError as error:
        raise MediaError(f"{name} cannot be opened ({error.strerror}): check its permissions") from error
    return Named(path)


def _nearest(path: str) -> str:
    folder, name = os.path.split(os.path.abspath(path))
    if not os.path.isdir(folder):
        return f": the folder {_beside(path, folder)} does not exist either, check the path"
    try:
        beside = os.listdir(folder)
    except OSError:
        return f": the folder {_beside(path, folder)} cannot be listed, check its permissions"
    by_lower = {n.lower(): n for n in beside}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1) if len(name) <= _LONGEST_NAME else []
    if close:
        return f"; did you mean {_beside(path, os.path.join(os.path.dirname(path), by_lower[close[0]]))}?"
    return f": {_beside(path, folder)} holds {len(beside)} other file{'s' * (len(beside) != 1)}, check the name"


def _beside(path: str, other: str) -> str:
    """Return what a message that holds ``path`` may hold of another one: the end of it, if both are too much."""
    return (
        other
        if len(path) <= QUOTED // 2 and len(other) <= QUOTED // 2
        else excerpt(os.path.basename(other), QUOTED // 4)
    )
