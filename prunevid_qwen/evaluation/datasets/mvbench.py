"""Where MVBench's clips lie, which its YAML cannot say.

Branch ``main`` has the source videos and gives the seconds that a question is about; branch ``video`` has clips that
are cut already, and bounds must not be applied to those again. Which of the two a folder holds is seen clip by clip, so
a folder into which both were unpacked works. ``data0613`` holds clips that were replaced later; it is searched second.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from prunevid_qwen.evaluation.datasets.annotations import Row
from prunevid_qwen.evaluation.datasets.places import existing, first_there, with_other_endings
from prunevid_qwen.evaluation.datasets.record import Media

FRAMES_PER_SECOND = 3.0
"""Of the frame folders, whose pictures are numbered from 1."""


def media(row: Row, folder: Path) -> Media:
    """Return a question's clip; lmms-eval unpacks the sources' folders without a video folder around them.

    Args:
        row: with the columns "whole", "cut" and "bound" of its task.
        folder: that the user named.
    """
    first = existing([folder / "video", folder / "mvbench_video", folder])
    roots = [*first, *(root / "data0613" for root in first)]
    video, whole, cut = (row.text(name) for name in ("video", "whole", "cut"))
    start, end = (row.seconds(name) if row.values.get("bound") else None for name in ("start", "end"))
    path = first_there(place for root in roots for place in with_other_endings(root / whole / video))
    if path is None and cut != whole:
        cuts = [root / cut / name for root in roots for name in _names_of_cut(video, start, end)]
        path = first_there(place for each in cuts for place in with_other_endings(each))
        only_cut = any((root / cut).is_dir() for root in roots) and not any((root / whole).is_dir() for root in roots)
        if path is not None or only_cut:
            return Media("video", str(path or roots[0] / cut / video))  # nothing but the part asked about
    path = path or roots[0] / whole / video
    if path.is_dir() or (not path.exists() and not path.suffix):
        return Media("frames", str(path), start, end, FRAMES_PER_SECOND)
    return Media("video", str(path), start, end)


def _names_of_cut(video: str, start: float | None, end: float | None) -> Iterator[str]:
    """Yield what a clip may be called in branch video: its questions name it, those of branch main name its source."""
    yield video
    if start is not None and end is not None:
        path = Path(video)
        stem = path.with_suffix("") if path.suffix == ".mp4" else path
        yield f"{stem}_{start}_{end}.mp4"
