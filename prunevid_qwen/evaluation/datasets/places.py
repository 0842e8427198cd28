"""Where the files that annotations name may lie, and what else lies there when they do not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

VIDEO_SUFFIXES = (".mp4", ".MP4", ".mkv", ".webm", ".avi", ".mov")
_ARCHIVES = ("*.zip", "*.tar", "*.tar.gz", "*.tar.part*", "*.zip.part*")


def first_there(candidates: Iterable[Path]) -> Path | None:
    """Return the first that exists, a file or a folder."""
    return next((path for path in candidates if path.exists()), None)


def with_other_endings(path: Path) -> list[Path]:
    """List a video's path, and the same name as other containers: branches and mirrors re-encode."""
    stem = path.with_suffix("") if path.suffix in VIDEO_SUFFIXES else path
    return list(dict.fromkeys([path, *(stem.with_name(stem.name + suffix) for suffix in VIDEO_SUFFIXES)]))


def video_place(folders: Sequence[Path], name: str) -> Path:
    """Return where a video lies, under any ending; where it does not, where it was first looked for.

    Args:
        folders: searched in order.
        name: relative path with its ending.
    """
    return first_there(path for folder in folders for path in with_other_endings(folder / name)) or folders[0] / name


def existing(folders: Iterable[Path]) -> tuple[Path, ...]:
    """Keep the folders that are there; the first of them all, if none is."""
    listed = list(folders)
    return tuple(folder for folder in listed if folder.is_dir()) or (listed[0],)


def packed(folder: Path) -> list[Path]:
    """List archives that lie in a folder or one below it."""
    patterns = [depth + pattern for pattern in _ARCHIVES for depth in ("", "*/")]
    return sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
