"""A contact sheet: frames of one answer, or of several under each other, with what was kept drawn on them."""

from __future__ import annotations

import colorsys
import io
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from prunevid_qwen.kept import Kept, KeptMedium
from prunevid_qwen.pictures.thumbnails import ShownPosition, shown_positions

MOST_POSITIONS, COLUMNS, WIDTH = 8, 4, 240
"""Frames shown of a video, frames in a row, and the width of a frame in pixels."""

_MARGIN, _GAP, _LINE, _TITLE = 16, 10, 18, 26
_BACK, _FRONT, _QUIET, _KEPT = (255, 255, 255), (28, 29, 31), (98, 101, 107), (255, 166, 33)
_DIM, _TINT = 0.7, 0.5  # share of black over what was dropped, of a group's colour over what was merged
_TURN = 137.508  # degrees of hue between groups: the golden angle, so that neighbours differ


def sheet(runs: Sequence[Kept], sources: Sequence[Any] | None = None, titles: Sequence[str] = ()) -> bytes:
    """Draw the PNG of one answer, or of several under each other; the arguments are those of `picture`.

    A kept token has a bright frame, a merged one the colour of its group, and a dropped one is dark.
    """
    parts = [_run(run, sources, titles[number] if titles else "") for number, run in enumerate(runs)]
    whole = Image.new("RGB", (max(each.width for each in parts), sum(each.height for each in parts)), _BACK)
    top = 0
    for part in parts:
        whole.paste(part, (0, top))
        top += part.height
    held = io.BytesIO()
    whole.quantize(256, dither=Image.Dither.NONE).save(held, "PNG", optimize=True)
    return held.getvalue()


def drawn(kept: Kept, medium: KeptMedium, shown: ShownPosition, step: int = -1) -> Image.Image:
    """Draw what one step left on the frame of a position; `drawn` with no steps is the frame.

    Args:
        kept: of an answer.
        medium: one of its videos and images.
        shown: the position, and the frame to draw on.
        step: number of the step; -1 is the last.
    """
    if not kept.steps:
        return shown.frame.copy()
    pixels = np.asarray(shown.frame).astype(np.float32)
    out, left = shown.frame, list[tuple[int, int, int, int]]()
    states, groups = kept.steps[step].states, kept.steps[step].group
    for token in range(medium.start, medium.stop):
        position, row, column = medium.place(token)
        if position != shown.at:
            continue
        x0, x1 = (round(side * out.width / medium.grid[2]) for side in (column, column + 1))
        y0, y1 = (round(side * out.height / medium.grid[1]) for side in (row, row + 1))
        state = states[token]
        if state == "dropped":
            pixels[y0:y1, x0:x1] *= 1 - _DIM
        elif state == "merged":
            pixels[y0:y1, x0:x1] *= 1 - _TINT
            pixels[y0:y1, x0:x1] += _TINT * np.array(color_of(int(groups[token])), np.float32)
        else:
            left.append((x0, y0, x1 - 1, y1 - 1))
    out = Image.fromarray(pixels.round().astype(np.uint8))
    frames = ImageDraw.Draw(out)
    for box in left:
        frames.rectangle(box, outline=_KEPT, width=max(2, (box[2] - box[0]) // 20))
    return out


def color_of(group: int) -> tuple[int, int, int]:
    """Return the colour of a group, RGB."""
    red, green, blue = colorsys.hls_to_rgb(group * _TURN % 360 / 360, 0.55, 0.75)
    return round(255 * red), round(255 * green), round(255 * blue)


def _run(kept: Kept, sources: Sequence[Any] | None, title: str) -> Image.Image:
    font, small = ImageFont.load_default(size=16), ImageFont.load_default(size=13)
    rows: list[list[tuple[Image.Image, str, str]]] = []
    for number, medium in enumerate(kept.media):
        shown = shown_positions(medium, None if sources is None else sources[number], MOST_POSITIONS, WIDTH)
        cells = [(drawn(kept, medium, each), *_caption(kept, medium, each.at)) for each in shown]
        rows += [cells[start : start + COLUMNS] for start in range(0, len(cells), COLUMNS)]
    across = max(len(row) for row in rows)
    width = 2 * _MARGIN + across * WIDTH + (across - 1) * _GAP
    lines = textwrap.wrap(_said(kept, title), max(20, (width - 2 * _MARGIN) // 8))
    steps = textwrap.wrap(_steps(kept), max(20, (width - 2 * _MARGIN) // 7))
    height = _MARGIN + _TITLE * len(lines) + _LINE * len(steps) + _GAP
    height += sum(max(each.height for each, _, _ in row) + _LINE + _GAP for row in rows) + _MARGIN // 2
    out = Image.new("RGB", (width, height), _BACK)
    pen, top = ImageDraw.Draw(out), _MARGIN
    for line in lines:
        pen.text((_MARGIN, top), line, _FRONT, font)
        top += _TITLE
    for line in steps:
        pen.text((_MARGIN, top), line, _QUIET, small)
        top += _LINE
    top += _GAP
    for row in rows:
        for at, (frame, time, count) in enumerate(row):
            x = _MARGIN + at * (WIDTH + _GAP)
            out.paste(frame, (x, top))
            pen.text((x, top + frame.height + 2), time, _QUIET, small)
            pen.text((x + WIDTH - pen.textlength(count, small), top + frame.height + 2), count, _QUIET, small)
        top += max(each.height for each, _, _ in row) + _LINE + _GAP
    return out


def _said(kept: Kept, title: str) -> str:
    asked = " ".join(filter(None, (kept.question, kept.answer)))
    return ": ".join(filter(None, (title, asked))) or "Which tokens were kept"


def _steps(kept: Kept) -> str:
    left = [f"{step.name} leaves {len(step.sizes)}" for step in kept.steps]
    return ", ".join([f"{kept.tokens} visual tokens", *left])


def _caption(kept: Kept, medium: KeptMedium, at: int) -> tuple[str, str]:
    there = [token for token in range(medium.start, medium.stop) if medium.place(token)[0] == at]
    count = f"{int(kept.left[there].sum())} of {len(there)}"
    if medium.seconds is None:
        return "" if medium.kind == "image" else f"position {at + 1}", count
    begin, end = medium.seconds[at]
    return f"{begin:.1f} to {end:.1f} s", count
