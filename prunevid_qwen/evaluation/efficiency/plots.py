"""Three plots, each on a light and on a dark page: time against frames, where the time goes, stage 1's growth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prunevid_qwen.evaluation.efficiency.findings import PARTS, Row
from prunevid_qwen.evaluation.efficiency.variants import KEEP_EVERYTHING, STOCK
from prunevid_qwen.evaluation.plot_style import THEMES, Theme, load_matplotlib, settings, style_of

_WIDTH, _HEIGHT = 9.6, 4.6  # inches
_PART_NAMES = {
    "vision": "vision encoder", "stage1": "stage 1", "layers": "decoder layers", "stage2": "stage 2",
    "stage3": "stage 3", "lm_head": "output layer", "rest": "between the parts",
}  # fmt: skip
_PART_COLOURS = {
    "vision": "#0072b2",
    "stage1": "#d55e00",
    "layers": "#7f8c99",
    "stage2": "#e69f00",
    "stage3": "#cc79a7",
    "lm_head": "#56b4e9",
    "rest": "#009e73",
}  # fmt: skip  apart for colour-blind eyes
_STYLED = {"paper": "prunevid"}  # a preset that plots of accuracy know under another name
_PANELS = {
    "prefill": "decoder prefill, ms", "first_token": "to the first token, ms", "end_to_end": "end to end, ms",
}  # fmt: skip


def draw_plots(folder: Path, summary: dict[str, Any]) -> list[str]:
    """Draw what a summary holds as svg and png, and return the files' names.

    Args:
        folder: where to.
        summary: of `report.summarise`.

    Raises:
        SetupError: matplotlib is not installed.
    """
    matplotlib = load_matplotlib()
    from matplotlib.figure import Figure

    rows = [row for row in summary["rows"] if "error" not in row]
    wanted: dict[str, Any] = {"time": _draw_time, "parts": _draw_parts} if rows else {}
    data: dict[str, Any] = {"time": rows, "parts": rows}
    if summary["growth"]:
        wanted["growth"], data["growth"] = _draw_growth, summary["growth"]
    names = []
    for name, draw in wanted.items():
        for theme in THEMES:
            with matplotlib.rc_context(settings(theme)):
                figure = Figure(figsize=(_WIDTH, _HEIGHT))
                draw(figure, data[name], theme)
                for kind in ("svg", "png"):
                    path = folder / f"{name}_{theme.name}.{kind}"
                    figure.savefig(path, dpi=160, metadata={"Date": None} if kind == "svg" else {})
                    names.append(path.name)
    return names


def _draw_time(figure: Any, rows: list[Row], theme: Theme) -> None:
    batches = sorted({row["batch"] for row in rows})
    figure.set_figheight(_HEIGHT * len(batches))
    grid = figure.subplots(len(batches), len(_PANELS), squeeze=False, sharex=True)
    handles: dict[str, Any] = {}
    for batch, line in zip(batches, grid, strict=True):
        for (part, title), axes in zip(_PANELS.items(), line, strict=True):
            _lines(axes, [row for row in rows if row["batch"] == batch], part, theme, handles)
            axes.set_title(title + (f", batch {batch}" if len(batches) > 1 else ""), loc="left", fontsize=9.5)
            axes.set_xlabel("frames")
    top = 1 - 1.15 / figure.get_figheight()
    figure.subplots_adjust(left=0.07, right=0.985, bottom=0.55 / figure.get_figheight(), top=top, wspace=0.22)
    _legend(figure, handles, theme)
    _heading(figure, "Time against frames", "Medians; bands from the 20 % to the 80 % quantile. Both axes: log.", theme)


def _lines(axes: Any, rows: list[Row], part: str, theme: Theme, handles: dict[str, Any]) -> None:
    frames = sorted({row["frames"] for row in rows})
    for name in dict.fromkeys(row["variant"] for row in rows):
        own = [row for row in rows if row["variant"] == name]
        values = [row["prefill_ms"] if part == "prefill" else row["ms"][part] for row in own]
        xs, style = [row["frames"] for row in own], _style(name, theme)
        handles[name] = axes.plot(xs, [value["median"] for value in values], **style)[0]
        low, high = ([value[end] for value in values] for end in ("low", "high"))
        axes.fill_between(xs, low, high, color=style["color"], alpha=0.15, linewidth=0)
    axes.set_xscale("log", base=2)
    _plain_log(axes)
    axes.set_xticks(frames, [str(n) for n in frames])
    axes.grid(axis="y")


def _style(name: str, theme: Theme) -> dict[str, Any]:
    if name in (STOCK, KEEP_EVERYTHING):
        dash = "-" if name == STOCK else ":"
        return {"color": theme.ink, "linewidth": 1.8, "linestyle": dash, "marker": "o", "markersize": 4, "zorder": 4}
    return style_of(_STYLED.get(name, name), theme)


def _draw_parts(figure: Any, rows: list[Row], theme: Theme) -> None:
    cells = sorted({(row["batch"], row["frames"]) for row in rows})
    columns = min(3, len(cells))
    lines = -(-len(cells) // columns)
    figure.set_figheight(_HEIGHT * 0.8 * lines + 0.6)
    grid = figure.subplots(lines, columns, squeeze=False)
    handles: dict[str, Any] = {}
    for place, axes in enumerate(grid.flat):
        if place >= len(cells):
            axes.set_visible(False)
            continue
        batch, frames = cells[place]
        own = [row for row in rows if (row["batch"], row["frames"]) == cells[place]][::-1]
        left = [0.0] * len(own)
        for part in PARTS:
            widths = [max(0.0, row["parts_ms"][part]["median"]) for row in own]
            bars = axes.barh(range(len(own)), widths, left=left, color=_PART_COLOURS[part], height=0.66)
            handles[_PART_NAMES[part]] = bars
            left = [a + b for a, b in zip(left, widths, strict=True)]
        axes.set_yticks(range(len(own)), [row["variant"] for row in own])
        axes.set_title(f"{frames} frames, batch {batch}", loc="left", fontsize=9.5)
        axes.set_xlabel("ms to the first token")
        axes.grid(axis="x")
    height = figure.get_figheight()
    figure.subplots_adjust(left=0.13, right=0.985, bottom=0.55 / height, top=1 - 1.15 / height, wspace=0.5, hspace=0.45)
    _legend(figure, handles, theme)
    _heading(figure, "Where the time to the first token goes", "Medians of each part.", theme)


def _draw_growth(figure: Any, growth: dict[str, Any], theme: Theme) -> None:
    points = growth["points"]
    frames = [point["frames"] for point in points]
    left, right = figure.subplots(1, 2)
    seconds = [point["seconds"] for point in points]
    style = style_of("prunevid", theme)
    left.plot(frames, [1000 * s["median"] for s in seconds], **style)
    low, high = ([1000 * s[end] for s in seconds] for end in ("low", "high"))
    left.fill_between(frames, low, high, color=style["color"], alpha=0.15, linewidth=0)
    last = seconds[-1]["median"] * 1000
    left.plot(frames, [last * n / frames[-1] for n in frames], color=theme.quiet, linestyle=":", linewidth=1.2)
    left.set_title("time, ms (dotted: linear)", loc="left", fontsize=9.5)
    memory = [point["memory"]["above"] for point in points]
    if None not in memory:
        right.plot(frames, [n / 1e6 for n in memory], **style)
    right.plot(frames, [p["input_bytes"] / 1e6 for p in points], color=theme.quiet, linestyle=":", linewidth=1.2)
    right.set_title("peak above the features, MB (dotted: the features)", loc="left", fontsize=9.5)
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xticks(frames, [str(n) for n in frames])
        _plain_log(axes)
        axes.set_xlabel("frames")
        axes.grid(which="major")
    figure.subplots_adjust(left=0.07, right=0.985, bottom=0.12, top=0.78, wspace=0.18)
    said = f"Time grows with the length to the power of {growth['exponent']:.2f}; 1 is linear."
    _heading(figure, "Stage 1 up to an hour of video", said, theme)


def _plain_log(axes: Any) -> None:
    """Make the upright axis logarithmic, with numbers that read as such."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))


def _legend(figure: Any, handles: dict[str, Any], theme: Theme) -> None:
    top = 1 - 0.55 / figure.get_figheight()
    legend = figure.legend(
        handles.values(), handles.keys(), loc="upper left", bbox_to_anchor=(0.008, top), ncols=7, frameon=False,
        fontsize=8.5, columnspacing=1.2,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_color(theme.ink)


def _heading(figure: Any, title: str, below: str, theme: Theme) -> None:
    height = figure.get_figheight()
    figure.text(0.015, 1 - 0.22 / height, title, fontsize=14, fontweight="bold", color=theme.ink, va="center")
    figure.text(0.015, 1 - 0.46 / height, below, fontsize=9.5, color=theme.quiet, va="center")
