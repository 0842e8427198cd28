"""A picture of what was kept, in the form that a file's name asks for."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from prunevid_qwen.errors import ConfigError
from prunevid_qwen.kept import Kept
from prunevid_qwen.pictures.html import page
from prunevid_qwen.pictures.overlay import overlay
from prunevid_qwen.pictures.sheet import sheet

Draw = Callable[[Sequence[Kept], Sequence[Any] | None, Sequence[str]], bytes]

_FORMS: dict[str, Draw] = {".html": page, ".png": sheet, ".mp4": overlay}
SUFFIXES = tuple(_FORMS)
"""The endings of files that `picture` writes."""


def picture(
    kept: Kept | Sequence[Kept],
    path: str | os.PathLike[str],
    sources: Sequence[Any] | None = None,
    titles: Sequence[str] = (),
) -> Path:
    """Draw what was kept of the tokens of one answer, or of two answers side by side.

    A page (.html) is one file that needs no network. A contact sheet (.png) is for papers. A video (.mp4) has it drawn
    on the frames of the prompt's first video. The same input gives the same bytes. The file is written aside and then
    renamed, so that a failure leaves the file before it as it was.

    Args:
        kept: of an answer (``result.kept``), or of several.
        path: of the file; its ending chooses the form.
        sources: the videos and images of the prompt, in order; None takes them from the paths that the answers name.
        titles: of each answer, such as the method's name.

    Returns:
        The path.

    Raises:
        ConfigError: another ending, nothing to draw, or other numbers of sources or titles than there are.
        MediaError: a video or image cannot be read again.
    """
    runs, path = [kept] if isinstance(kept, Kept) else list(kept), Path(path)
    check_suffix(path)
    if not runs or not any(run.media for run in runs):
        raise ConfigError("there is nothing to draw: the prompt shows no video or image")
    counts = {len(run.media) for run in runs}
    if sources is not None and counts != {len(sources)}:
        raise ConfigError(
            f"pass one source for each video and image of the prompt ({', '.join(map(str, sorted(counts)))}), got "
            f"{len(sources)}"
        )
    if titles and len(titles) != len(runs):
        raise ConfigError(f"{len(runs)} answers need {len(runs)} titles, got {len(titles)}")
    content = _FORMS[path.suffix.lower()](runs, sources, titles)
    aside = path.with_name(f".{path.name}.part")
    aside.write_bytes(content)
    aside.replace(path)
    return path


def check_suffix(path: str | os.PathLike[str]) -> None:
    """Refuse a file name whose ending names no form.

    Raises:
        ConfigError: as it says.
    """
    if Path(path).suffix.lower() not in _FORMS:
        raise ConfigError(f"a picture is a file that ends in {' or '.join(SUFFIXES)}, got {str(path)!r}")
