"""Three plots, each on a light and on a dark page: time against frames, where the time goes, stage 1's growth."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from prunevid_qwen.evaluation.report.page import Row
from prunevid_qwen.evaluation.report.plots import Theme, draw, heading, legend, style_of
from prunevid_qwen.evaluation.speed.contest import KEEP_EVERYTHING, STOCK

_WIDTH, _HEIGHT = 9.6, 4.6  # inches
_PARTS = {  # colours apart for colour-blind eyes
    "vision": ("vision encoder", "#0072b2"),
    "stage1": ("stage 1", "#d55e00"),
    "layers": ("decoder layers", "#7f8c99"),
    "stage2": ("stage 2", "#e69f00"),
    "stage3": ("stage 3", "#cc79a7"),
    "lm_head": ("output layer", "#56b4e9"),
    "rest": ("between the parts", "#009e73"),
}
_PANELS = {
    "prefill": "decoder prefill, ms",
    "first_token": "to the first token, ms",
    "end_to_end": "end to end, ms",
}


def draw_plots(folder: Path, summary: dict[str, Any]) -> list[str]:
    """Draw what a summary holds as svg and png into a folder, and return the files' names.

    Raises:
        SetupError: matplotlib is not installed.
    """
    rows = [row for row in summary["rows"] if "error" not in row]
    wanted: dict[str, Callable[[Any, Theme], None]] = {}
    if rows:
        wanted = {"time": partial(_draw_time, rows), "parts": partial(_draw_parts, rows)}
    if summary["growth"]:
        wanted["growth"] = partial(_draw_growth, summary["growth"])
    drawn = [draw(folder / name, (_WIDTH, _HEIGHT), fill, names_its_maker=True) for name, fill in wanted.items()]
    return [file.name for files in drawn for file in files]


def _draw_time(rows: list[Row], figure: Any, theme: Theme) -> None:
    batches = sorted({row["batch"] for row in rows})
    figure.set_figheight(_HEIGHT * len(batches))
    grid = figure.subplots(len(batches), len(_PANELS), squeeze=False, sharex=True)
    handles: dict[str, Any] = {}
    plain = {"color": theme.ink, "linewidth": 1.8, "marker": "o", "markersize": 4, "zorder": 4}
    own_styles = {STOCK: {**plain, "linestyle": "-"}, KEEP_EVERYTHING: {**plain, "linestyle": ":"}}
    for batch, line in zip(batches, grid, strict=True):
        shown = [row for row in rows if row["batch"] == batch]
        for (part, title), axes in zip(_PANELS.items(), line, strict=True):
            for name in dict.fromkeys(row["variant"] for row in shown):
                own = [row for row in shown if row["variant"] == name]
                values = [row["prefill_ms"] if part == "prefill" else row["ms"][part] for row in own]
                style = own_styles.get(name) or style_of("prunevid" if name == "paper" else name, theme)
                handles[name] = _band(axes, [row["frames"] for row in own], values, 1, style)
            axes.set_xscale("log", base=2)
            _plain_log(axes, sorted({row["frames"] for row in shown}))
            _label(axes, title + (f", batch {batch}" if len(batches) > 1 else ""), "frames", "y")
    figure.subplots_adjust(left=0.07, right=0.985, wspace=0.22)
    said = "Medians; bands from the 20 % to the 80 % quantile. Both axes: log."
    _frame(figure, theme, "Time against frames", said, handles)


def _draw_parts(rows: list[Row], figure: Any, theme: Theme) -> None:
    cells = sorted({(row["batch"], row["frames"]) for row in rows})
    columns = min(3, len(cells))
    lines = -(-len(cells) // columns)
    figure.set_figheight(_HEIGHT * 0.8 * lines + 0.6)
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes in grid.flat[len(cells) :]:
        axes.set_visible(False)
    handles: dict[str, Any] = {}
    for (batch, frames), axes in zip(cells, grid.flat, strict=False):
        own = [row for row in rows if (row["batch"], row["frames"]) == (batch, frames)][::-1]
        left = [0.0] * len(own)
        for part, (name, colour) in _PARTS.items():
            widths = [max(0.0, row["parts_ms"][part]["median"]) for row in own]
            handles[name] = axes.barh(range(len(own)), widths, left=left, color=colour, height=0.66)
            left = [a + b for a, b in zip(left, widths, strict=True)]
        axes.set_yticks(range(len(own)), [row["variant"] for row in own])
        _label(axes, f"{frames} frames, batch {batch}", "ms to the first token", "x")
    figure.subplots_adjust(left=0.13, right=0.985, wspace=0.5, hspace=0.45)
    _frame(figure, theme, "Where the time to the first token goes", "Medians of each part.", handles)


def _draw_growth(growth: dict[str, Any], figure: Any, theme: Theme) -> None:
    points = growth["points"]
    frames = [point["frames"] for point in points]
    left, right = figure.subplots(1, 2)
    style, linear = style_of("prunevid", theme), {"color": theme.quiet, "linestyle": ":", "linewidth": 1.2}
    _band(left, frames, [point["seconds"] for point in points], 1000, style)
    last = points[-1]["seconds"]["median"] * 1000
    left.plot(frames, [last * n / frames[-1] for n in frames], **linear)
    memory = [point["memory"]["above"] for point in points]
    if None not in memory:
        right.plot(frames, [n / 1e6 for n in memory], **style)
    right.plot(frames, [p["input_bytes"] / 1e6 for p in points], **linear)
    titles = "time, ms (dotted: linear)", "peak above the features, MB (dotted: the features)"
    for axes, title in zip((left, right), titles, strict=True):
        axes.set_xscale("log")
        _plain_log(axes, frames)
        _label(axes, title, "frames", "both")
    figure.subplots_adjust(left=0.07, right=0.985, bottom=0.12, top=0.78, wspace=0.18)
    said = f"Time grows with the length to the power of {growth['exponent']:.2f}; 1 is linear."
    _frame(figure, theme, "Stage 1 up to an hour of video", said)


def _band(axes: Any, xs: list[int], values: list[dict[str, float]], factor: float, style: dict[str, Any]) -> Any:
    """Draw medians, and a band from the low to the high quantile; return the line."""
    middle, low, high = ([factor * value[end] for value in values] for end in ("median", "low", "high"))
    line = axes.plot(xs, middle, **style)[0]
    axes.fill_between(xs, low, high, color=style["color"], alpha=0.15, linewidth=0)
    return line


def _plain_log(axes: Any, frames: list[int]) -> None:
    """Make the upright axis logarithmic, with numbers that read as such, and mark the frames on the other."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.set_xticks(frames, [str(n) for n in frames])


def _label(axes: Any, title: str, below: str, lines: str) -> None:
    axes.set_title(title, loc="left", fontsize=9.5)
    axes.set_xlabel(below)
    axes.grid(axis=lines)


def _frame(figure: Any, theme: Theme, title: str, below: str, handles: dict[str, Any] | None = None) -> None:
    """Write the heading, and make room for a legend of ``handles`` below it."""
    height = figure.get_figheight()
    if handles is not None:
        figure.subplots_adjust(bottom=0.55 / height, top=1 - 1.15 / height)
        legend(figure, handles, theme, (0.008, 1 - 0.55 / height), ncols=7, fontsize=8.5, columnspacing=1.2)
    heading(figure, theme, title, below, places=(1 - 0.22 / height, 1 - 0.46 / height))
