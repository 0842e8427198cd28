"""Where the files that annotations name may lie, and what else lies there when they do not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from prunevid_qwen.evaluation.datasets.annotations import AnnotationRow
from prunevid_qwen.evaluation.datasets.record import Media

_ENDINGS = (".mp4", ".MP4", ".mkv", ".webm", ".avi", ".mov")
MVBENCH_FPS = 3.0  # of the frame folders, whose pictures are numbered from 1
_ARCHIVES = ("*.zip", "*.tar", "*.tar.gz", "*.tar.part*", "*.zip.part*")


def first_there(candidates: Iterable[Path]) -> Path | None:
    """Return the first that exists, a file or a folder."""
    return next((path for path in candidates if path.exists()), None)


def video_there(folders: Sequence[Path], name: str) -> Path | None:
    """Return where a video lies in the first folder that has it; branches and mirrors re-encode: any ending will do."""
    for folder in folders:
        path = folder / name
        stem = path.with_suffix("") if path.suffix in _ENDINGS else path
        if found := first_there([path, *(stem.with_name(stem.name + suffix) for suffix in _ENDINGS)]):
            return found
    return None


def existing(folders: Iterable[Path]) -> tuple[Path, ...]:
    """Keep the folders that are there; the first of them all, if none is."""
    listed = list(folders)
    return tuple(folder for folder in listed if folder.is_dir()) or (listed[0],)


def packed(folder: Path) -> list[Path]:
    """List archives that lie in a folder or one below it."""
    patterns = [depth + pattern for pattern in _ARCHIVES for depth in ("", "*/")]
    return sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})


def mvbench_media(row: AnnotationRow, folder: Path) -> Media:
    """Return the clip of a question of MVBench, which its YAML cannot say.

    Branch ``main`` has the source videos and gives the seconds that a question is about; branch ``video`` has clips
    that are cut already, and bounds must not be applied to those again. Which of the two a folder holds is seen clip by
    clip. ``data0613`` holds clips that were replaced later; lmms-eval unpacks without a video folder around all.
    """
    first = existing([folder / "video", folder / "mvbench_video", folder])
    roots = [*first, *(root / "data0613" for root in first)]
    video, whole, cut = (row.text(name) for name in ("video", "whole", "cut"))
    start, end = (row.seconds(name) if row.values.get("bound") else None for name in ("start", "end"))
    path = video_there([root / whole for root in roots], video)
    if path is None and cut != whole:
        names = [video]  # the questions of branch video name the clip, those of branch main its source
        if start is not None and end is not None:
            names.append(f"{video.removesuffix('.mp4')}_{start}_{end}.mp4")
        path = next(filter(None, (video_there([root / cut], name) for root in roots for name in names)), None)
        only_cut = any((root / cut).is_dir() for root in roots) and not any((root / whole).is_dir() for root in roots)
        if path is not None or only_cut:
            return Media("video", str(path or roots[0] / cut / video))  # nothing but the part asked about
    path = path or roots[0] / whole / video
    if path.is_dir() or (not path.exists() and not path.suffix):
        return Media("frames", str(path), start, end, MVBENCH_FPS)
    return Media("video", str(path), start, end)
