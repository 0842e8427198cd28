"""A page for a browser: one file with all that it shows, which opens from a disk without a network."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np

from prunevid_qwen.kept import Kept, KeptMedium
from prunevid_qwen.pictures.thumbnails import ShownPosition, shown_positions

MOST_POSITIONS, WIDTH, QUALITY = 48, 320, 82
"""Frames shown of a video, their width in pixels, and their JPEG quality: about 1 MB a page."""


@dataclass(frozen=True)
class InNotebook:
    """A page that a notebook shows in a frame of its own.

    Args:
        text: the page.
        height: of the frame, in pixels.
    """

    text: str
    height: int = 720

    def _repr_html_(self) -> str:
        style = f"width: 100%; height: {self.height}px; border: 0"
        said = html.escape(self.text, quote=True)
        return (
            f'<iframe title="Which tokens were kept" style="{style}" srcdoc="{said}" sandbox="allow-scripts"></iframe>'
        )


def page(runs: Sequence[Kept], sources: Sequence[Any] | None = None, titles: Sequence[str] = ()) -> bytes:
    """Write the page of one answer, or of several side by side; the arguments are those of `picture`."""
    content = {"runs": [facts_of(run, sources, titles[number] if titles else "") for number, run in enumerate(runs)]}
    said = json.dumps(content, separators=(",", ":"), ensure_ascii=True).replace("<", "\\u003c").replace(">", "\\u003e")
    here = files("prunevid_qwen.pictures")
    parts = {name: here.joinpath(f"page.{name}").read_text(encoding="utf-8") for name in ("html", "css", "js")}
    out, name = parts["html"], runs[0].question or "Which tokens were kept"
    for place, text in (("TITLE", html.escape(name)), ("CSS", parts["css"]), ("JS", parts["js"]), ("DATA", said)):
        out = out.replace(f"<!--{place}-->", text, 1)
    return out.encode()


def facts_of(kept: Kept, sources: Sequence[Any] | None, title: str) -> dict[str, Any]:
    """Return what the page is told of one answer, ready for JSON.

    Returns:
        "title", "question", "answer", "tokens" (before any step), "steps" (name, at, tokens left), and "media": for
        each kind, name, size, grid, "shares" (after each step, of every position), "seconds", and "positions" that are
        shown: number, "image" (a data URI), "cells" (of each token its place in the grid, -1 for none), and for each
        step "state" (a letter for each token: k, m or d), "group", "size" of that group, and "score".
    """
    steps = [{"name": step.name, "at": step.at, "left": len(step.sizes)} for step in kept.steps]
    media = [
        _medium(kept, number, medium, None if sources is None else sources[number])
        for number, medium in enumerate(kept.media)
    ]
    said = {"title": title, "question": kept.question, "answer": kept.answer, "tokens": kept.tokens}
    return {**said, "steps": steps, "media": media}


def _medium(kept: Kept, number: int, medium: KeptMedium, source: Any) -> dict[str, Any]:
    shown = shown_positions(medium, source, MOST_POSITIONS, WIDTH)
    _, rows, columns = medium.grid
    count = medium.stop - medium.start
    cells = np.arange(count) if medium.cells is None else medium.cells
    position = np.where(cells < 0, -1, cells // (rows * columns))
    return {
        "kind": medium.kind,
        "name": medium.name,
        "size": list(medium.size),
        "grid": list(medium.grid),
        "placed": medium.placed,
        "seconds": None if medium.seconds is None else [list(pair) for pair in medium.seconds],
        "shares": [
            [round(float(share), 4) for share in kept.per_position(number, step)] for step in range(len(kept.steps))
        ],
        "positions": [
            _position(kept, each, np.flatnonzero(position == each.at) + medium.start, cells % (rows * columns), medium)
            for each in shown
        ],
    }


def _position(
    kept: Kept, shown: ShownPosition, tokens: np.ndarray, places: np.ndarray, medium: KeptMedium
) -> dict[str, Any]:
    steps = []
    for step in kept.steps:
        group, sizes = step.group[tokens], np.append(step.sizes, 0)
        score = None if step.score is None else [_number(each) for each in step.score[tokens]]
        states = "".join(str(each)[0] for each in step.states[tokens])
        steps.append({"state": states, "group": group.tolist(), "size": sizes[group].tolist(), "score": score})
    return {
        "at": shown.at,
        "readable": shown.readable,
        "image": _data_uri(shown),
        "cells": places[tokens - medium.start].tolist(),
        "steps": steps,
    }


def _number(score: float) -> float | None:
    return None if np.isnan(score) else round(float(score), 3)


def _data_uri(shown: ShownPosition) -> str:
    held = io.BytesIO()
    shown.frame.save(held, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(held.getvalue()).decode()}"
