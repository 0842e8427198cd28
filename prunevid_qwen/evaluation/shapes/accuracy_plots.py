"""The plots of the accuracy benchmark, each as SVG and PNG, for light and for dark pages.

A curve is placed by its paired difference: unpruned accuracy of the whole run plus the difference to unpruned on the
questions that were asked. With all conditions reached that is plain accuracy; where some are out of reach (hollow
markers) it still compares like with like.
"""

from __future__ import annotations

import textwrap
from functools import partial
from pathlib import Path
from typing import Any

from prunevid_qwen.evaluation.report.page import Row
from prunevid_qwen.evaluation.report.plots import HIGHLIGHTED, Theme, draw, heading, legend, spread, style_of
from prunevid_qwen.evaluation.shapes.accuracy_tables import in_order
from prunevid_qwen.evaluation.shapes.methods import JUDGED

TYPES_SHOWN = ("recommended", "prunevid", "uniform", "random", "fewer frames", "smaller frames")
_TICKS = (1.0, 0.5, 0.33, 0.25, 0.2, 0.16, 0.1, 0.05, 0.02, 0.01)
_LABEL_GAP = 11.5  # points between the baselines of two labels
_COLUMNS = 4  # of the plot by type

End = tuple[str, float | None, float]
"""A label, and the end of its curve; None is the right edge of the plot."""


def draw_plots(summary: Row, folder: Path) -> list[Path]:
    """Draw a summary's accuracy, evidence recall and question types into ``<plot>_<theme>.svg`` and ``.png``.

    Raises:
        SetupError: matplotlib is not installed.
    """
    figures = summary["figures"]
    return [
        *draw(folder / "accuracy", (10.0, 6.0), partial(_draw_accuracy, figures)),
        *draw(folder / "evidence", (8.0, 5.4), partial(_draw_evidence, figures)),
        *draw(folder / "types", (10.0, 5.6), partial(_draw_types, figures)),
    ]


def _methods(figures: Row) -> list[str]:
    return in_order({cell["method"] for cell in figures["cells"] if cell["budget"] is not None})


def _cells(figures: Row, method: str) -> list[Row]:
    cells = [cell for cell in figures["cells"] if cell["method"] == method and cell["budget"] is not None]
    return sorted(cells, key=lambda cell: -cell["achieved"])


def _draw_accuracy(figures: Row, figure: Any, theme: Theme) -> None:
    axes = figure.add_axes((0.07, 0.16, 0.70, 0.68))
    unpruned = 100 * figures["unpruned"]["accuracy"]
    ends: list[End] = []
    short = []
    for method in _methods(figures):
        cells = _cells(figures, method)
        xs = [100 * cell["achieved"] for cell in cells]
        ys = [unpruned + 100 * cell["difference"] for cell in cells]
        spans = [cell["difference_interval"] for cell in cells]
        _curve(axes, method, cells, xs, ys, theme, spans, unpruned)
        if _ends_early(figures, method):
            short.append(method)
        else:
            ends.append((method, xs[-1], ys[-1]))
    axes.axhline(unpruned, color=theme.ink, linewidth=1.1, zorder=3)
    references: list[End] = [("unpruned", None, unpruned)]
    if figures["blank"]:
        floor = 100 * figures["blank"]["accuracy"]
        axes.axhline(floor, color=theme.ink, linewidth=1.1, linestyle=":", zorder=3)
        references.append(("no video", None, floor))
    achieved = [cell["achieved"] for cell in figures["cells"] if cell["budget"] is not None]
    _token_axis(axes, achieved)
    lowest = min((min(line.get_ydata()) for line in axes.get_lines() if len(line.get_ydata())), default=0)
    axes.set_ylim(max(0, lowest - 4), min(101.5, unpruned + 6))
    axes.set_xlabel("visual tokens, averaged over the decoder's layers, share of the whole video's (log; fewer →)")
    axes.set_ylabel("questions answered right, %")
    axes.grid(axis="y")
    _label_ends(axes, [*references, *ends], theme)
    heading(
        figure,
        theme,
        "How many answers survive pruning?",
        f"Bundled toy model, {figures['videos']} held-out videos, {figures['questions']} questions. "
        "Bands, bars: 95 % of the paired difference to unpruned, bootstrap over videos.",
    )
    names = ", ".join(f"{method} ({100 * _cells(figures, method)[-1]['achieved']:.0f} %)" for method in short)
    notes = [f"Grey without a label, with the least tokens each can reach: {names}."] if short else []
    _note(figure, theme, [*notes, *_hollow_note(figures, "placed by the difference to unpruned on the others")])


def _draw_evidence(figures: Row, figure: Any, theme: Theme) -> None:
    axes = figure.add_axes((0.09, 0.16, 0.66, 0.68))
    ends: list[End] = []
    kept, short = [], []
    for method in _methods(figures):
        cells = [cell for cell in _cells(figures, method) if cell["evidence"]]
        if not cells:
            continue
        if _ends_early(figures, method):  # alone far out on the axis: the table has it
            short.append(method)
            continue
        cells.sort(key=lambda cell: -cell["evidence"]["kept"])
        xs = [100 * cell["evidence"]["kept"] for cell in cells]
        ys = [100 * cell["evidence"]["recall"] for cell in cells]
        _curve(axes, method, cells, xs, ys, theme, [cell["evidence"]["recall_interval"] for cell in cells])
        kept += xs
        ends.append((method, xs[-1], ys[-1]))
    if kept:
        ratio = max(kept) / min(kept)
        same = [max(kept) / ratio ** (step / 60) for step in range(61)]  # a curve: one axis is logarithmic
        axes.plot(same, same, color=theme.ink, linewidth=1.0, linestyle=":", zorder=3)
        ends.append(("as everything else", same[-1], same[-1]))
    _token_axis(axes, [share / 100 for share in kept])
    axes.set_ylim(0, 102)
    axes.set_xlabel("all visual tokens that survive, % (log; fewer →)")
    axes.set_ylabel("tokens on the asked-about object that survive, %")
    axes.grid(axis="y")
    _label_ends(axes, ends, theme)
    heading(
        figure,
        theme,
        "Do the tokens that matter survive?",
        "Above the dotted line a method keeps the asked-about object rather than the rest. Bands, bars: 95 %.",
    )
    notes = [f"Not drawn, since they reach large budgets alone: {', '.join(short)}."] if short else []
    _note(figure, theme, [*notes, *_hollow_note(figures, "the others alone are shown")])


def _draw_types(figures: Row, figure: Any, theme: Theme) -> None:
    types = sorted(figures["unpruned"]["by_type"])
    methods = [method for method in TYPES_SHOWN if _cells(figures, method)]
    rows = max(1, -(-len(types) // _COLUMNS))
    grid = figure.subplots(rows, _COLUMNS, sharex=True, sharey=True, squeeze=False)
    figure.subplots_adjust(left=0.065, right=0.985, bottom=0.11, top=0.78, wspace=0.08, hspace=0.26)
    achieved = [cell["achieved"] for method in methods for cell in _cells(figures, method)]
    handles = {}
    for place, axes in enumerate(grid.flat):
        if place >= len(types):
            axes.set_visible(False)
            continue
        kind = types[place]
        unpruned = figures["unpruned"]["by_type"][kind]
        before = 100 * unpruned["accuracy"]
        for method in methods:
            cells = [cell for cell in _cells(figures, method) if kind in cell["by_type"]]
            xs = [100 * cell["achieved"] for cell in cells]
            ys = [before + 100 * cell["by_type"][kind]["difference"] for cell in cells]
            handles[method] = _curve(axes, method, cells, xs, ys, theme, markersize=4)
        axes.axhline(before, color=theme.ink, linewidth=1.0, zorder=3)
        if figures["blank"]:
            floor = 100 * figures["blank"]["by_type"][kind]["accuracy"]
            axes.axhline(floor, color=theme.ink, linewidth=1.0, linestyle=":", zorder=3)
        axes.set_title(f"{kind}  ({unpruned['n']} questions)", fontsize=9.5, loc="left", color=theme.ink)
        _token_axis(axes, achieved, (0.5, 0.25, 0.1, 0.05))
        axes.grid(axis="y")
    grid.flat[0].set_ylim(0, 106)
    figure.supxlabel("visual tokens, averaged over the decoder's layers, % (log; fewer →)", fontsize=9.5, y=0.02)
    figure.supylabel("questions answered right, %", fontsize=9.5, x=0.012)
    legend(figure, handles, theme, (0.055, 0.885), ncols=6)
    heading(
        figure,
        theme,
        "Which questions suffer?",
        "Thin straight line: unpruned; dotted: no video. Every method at equal cost, as in the first plot.",
    )


def _curve(
    axes: Any,
    method: str,
    cells: list[Row],
    xs: list[float],
    ys: list[float],
    theme: Theme,
    spans: list[list[float] | None] | None = None,
    start: float = 0.0,
    **look: Any,
) -> Any:
    """Draw a method's curve, a point for each cell, in percent: hollow markers where some conditions are out of reach.

    Intervals (``spans``, as shares counted from ``start`` percent, where all cells have one) are a band for the judged
    methods, bars for the other highlighted ones.
    """
    style = {**style_of(method, theme), **look}
    line = axes.plot(xs, ys, **style)[0]
    partial_ones = [k for k, cell in enumerate(cells) if cell["unreached"]]
    if partial_ones:
        shape = {"marker": style["marker"], "markersize": style["markersize"], "zorder": style["zorder"] + 1}
        edge = {"markerfacecolor": theme.page, "markeredgecolor": style["color"], "markeredgewidth": 1.2}
        axes.plot([xs[k] for k in partial_ones], [ys[k] for k in partial_ones], linestyle="none", **shape, **edge)
    known = [span for span in spans or () if span]
    if spans and len(known) == len(spans):
        low, high = ([start + 100 * span[end] for span in known] for end in (0, 1))
        if method in JUDGED:
            axes.fill_between(xs, low, high, color=style["color"], alpha=0.15, linewidth=0, zorder=1)
        elif method in HIGHLIGHTED:
            axes.vlines(xs, low, high, color=style["color"], linewidth=1.1, alpha=0.55, zorder=3)
    return line


def _ends_early(figures: Row, method: str) -> bool:
    """Whether a quiet curve ends far from the others' end: it is named below the plot, not across it."""
    smallest = min(cell["achieved"] for cell in figures["cells"] if cell["budget"] is not None)
    return method not in HIGHLIGHTED and min(cell["achieved"] for cell in _cells(figures, method)) > 2.5 * smallest


def _hollow_note(figures: Row, others: str) -> list[str]:
    hollow = any(cell["unreached"] for cell in figures["cells"])
    return [f"Hollow: some conditions out of reach; {others}."] if hollow else []


def _token_axis(axes: Any, achieved: list[float], ticks: tuple[float, ...] = _TICKS) -> None:
    """Set a logarithmic axis of shares in percent that runs from many tokens to few."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_xscale("log")
    smallest, largest = min(achieved, default=1.0), max(achieved, default=1.0)
    axes.xaxis.set_major_locator(FixedLocator([100 * t for t in ticks if smallest / 1.1 <= t <= largest * 1.1]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    axes.set_xlim(108 * largest, 95 * smallest)


def _label_ends(axes: Any, ends: list[End], theme: Theme) -> None:
    """Write each method's name beside the plot, as near to the end of its curve as the others leave room."""
    low, high = axes.get_ylim()
    height = 72 * axes.figure.get_figheight() * axes.get_position().height  # points
    places = spread([end for _, _, end in ends], _LABEL_GAP * (high - low) / height, low, high)
    edge = axes.get_xlim()[1]
    for (name, x, y), place in zip(ends, places, strict=True):
        loud = name in HIGHLIGHTED
        ink = HIGHLIGHTED[name].colour(theme) if loud else theme.ink if x is None else theme.quiet
        beside = (place - low) / (high - low)
        axes.annotate(  # a thin line from the label to its curve
            "",
            xy=(edge if x is None else x, y),
            xytext=(1.03, beside),
            textcoords="axes fraction",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": ink, "linewidth": 0.6, "alpha": 0.6, "shrinkA": 0, "shrinkB": 4},
        )
        axes.text(
            1.037,
            beside,
            name,
            transform=axes.transAxes,
            color=ink,
            fontsize=9.5 if loud or x is None else 8,
            fontweight="bold" if loud else "normal",
            va="center_baseline",
        )


def _note(figure: Any, theme: Theme, notes: list[str]) -> None:
    width = int(15.5 * figure.get_figwidth())  # letters of this size that fit beside each other
    text = "\n".join(line for note in notes for line in textwrap.wrap(note, width))
    figure.text(0.015, 0.012, text, fontsize=8, color=theme.quiet, va="bottom", linespacing=1.4)
