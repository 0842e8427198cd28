"""Checks on a path before any library sees it, so that every backend gives the same message."""

from __future__ import annotations

import difflib
import os
import re
from urllib.parse import unquote, urlsplit

from prunevid_qwen.errors import MediaError

_URL = re.compile(r"^([a-zA-Z][a-zA-Z0-9+.-]+)://")


def local_path(source: str | os.PathLike[str]) -> str:
    """Return the path that ``source`` names: ``file://`` and ``~`` are resolved, other URLs refused.

    Raises:
        MediaError: a URL (no network is ever touched), or an empty string.
    """
    text = os.fsdecode(source)
    if not text.strip():
        raise MediaError("an empty path was passed: pass the path of a video, an image or a folder of frames")
    url = _URL.match(text)
    if url is None:
        return os.path.expanduser(text)
    if url.group(1).lower() == "file":
        return unquote(urlsplit(text).path)
    raise MediaError(f"{text} is a URL, and nothing is downloaded here: download it first and pass the local path")


def local_file(source: str | os.PathLike[str], kind: str = "video") -> str:
    """Return the path of a readable, non-empty regular file.

    Raises:
        MediaError: missing (the nearest name beside it is offered), empty, not readable, or no regular file.
    """
    path = local_path(source)
    if os.path.isdir(path):
        raise MediaError(f"{path} is a folder, expected a file: pass the {kind} itself")
    if not os.path.exists(path):
        raise MediaError(f"no {kind} at {path}{_nearest(path)}")
    if not os.path.isfile(path):
        raise MediaError(f"{path} is not a regular file (a device or a pipe): save the {kind} to a file first")
    try:
        with open(path, "rb") as file:
            if not file.read(1):
                raise MediaError(f"{path} is empty (0 bytes): copy or download it again")
    except OSError as error:
        raise MediaError(f"{path} cannot be opened ({error.strerror}): check its permissions") from error
    return path


def _nearest(path: str) -> str:
    folder, name = os.path.split(os.path.abspath(path))
    if not os.path.isdir(folder):
        return f": the folder {folder} does not exist either, check the path"
    try:
        beside = os.listdir(folder)
    except OSError:
        return f": the folder {folder} cannot be listed, check its permissions"
    by_lower = {n.lower(): n for n in beside}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1)
    if close:
        return f"; did you mean {os.path.join(os.path.dirname(path), by_lower[close[0]])}?"
    return f": {folder} holds {len(beside)} other files, check the name"
