"""The plots of the accuracy benchmark, each as SVG and PNG, for light and for dark pages.

A curve is placed by its paired difference: unpruned accuracy of the whole run plus the difference to unpruned on the
questions that were asked. With all conditions reached that is plain accuracy; where some are out of reach (hollow
markers) it still compares like with like.
"""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from prunevid_qwen.bundled import BUNDLED
from prunevid_qwen.evaluation.report.page import Row
from prunevid_qwen.evaluation.report.plots import (
    HIGHLIGHTED,
    WINNING,
    Style,
    Theme,
    draw,
    heading,
    legend,
    spread,
    style_of,
)
from prunevid_qwen.evaluation.shapes.methods import JUDGED

_TICKS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.33, 0.25, 0.2, 0.16, 0.1, 0.05, 0.02, 0.01)
_SMALL = 0.25  # of the budgets by which methods are ranked
_LABEL_GAP = 11.5  # points between the baselines of two labels
_COLUMNS = 4  # of the plot by type
_RIGHT = "questions answered right, %"


class Point(NamedTuple):
    """A cell in a plot, in percent; hollow where some conditions are out of reach."""

    x: float
    y: float
    interval: list[float] | None
    hollow: bool


Curves = dict[str, list[Point]]
Levels = dict[str, Callable[[float], float]]
"""What curves are read against: a height, in percent, for each share of tokens."""


def draw_plots(summary: Row, folder: Path) -> list[Path]:
    """Draw a summary's accuracy, evidence recall and question types into ``<plot>_<theme>.svg`` and ``.png``.

    Accuracy at equal time too, if the run was timed. The controls, the judged methods and the best others have names;
    every other curve is grey.

    Raises:
        SetupError: matplotlib is not installed.
    """
    figures = summary["figures"]
    cells = [cell for cell in figures["cells"] if cell["budget"] is not None]
    least = {cell["method"]: cell["achieved"] for cell in sorted(cells, key=lambda cell: -cell["achieved"])}
    # a quiet curve that ends far from the others' end would lie across the plot
    early = sorted(name for name in least.keys() - HIGHLIGHTED.keys() if least[name] > 2.5 * min(least.values()))
    cells = [cell for cell in cells if cell["method"] not in early]
    notes = [f"Not drawn, since they reach large budgets alone: {', '.join(early)}."] if early else []
    if any(cell["unreached"] for cell in cells):
        notes.append("Hollow: some conditions out of reach; the others alone are compared.")
    run = summary["run"]
    first = run.get("options", {}).get("model", BUNDLED) == BUNDLED
    who = "Bundled toy model" if first else f"Toy model of {run.get('family', 'no known family')}"
    styles = {**HIGHLIGHTED, **dict(zip(winners(figures["cells"]), WINNING, strict=False))}
    notes.append("Grey: every other method.")
    levels = _levels(figures, lambda cell: cell["accuracy"])
    accuracy: dict[str, Any] = {
        "curves": _accuracy(cells, levels),
        "levels": levels,
        "styles": styles,
        "x": "visual tokens, averaged over the decoder's layers, share of the whole video's (log; fewer →)",
        "y": _RIGHT,
        "title": "How many answers survive pruning?",
        "below": f"{who}, {figures['videos']} held-out videos, {figures['questions']} questions. "
        "Bands, bars: 95 % of the paired difference to unpruned, bootstrap over videos.",
    }
    evidence: dict[str, Any] = {
        "curves": _curves((cell, *_shares(cell["evidence"])) for cell in cells if cell["evidence"]),
        "levels": {"as everything else": lambda kept: kept},
        "styles": styles,
        "x": "all visual tokens that survive, % (log; fewer →)",
        "y": "tokens on the asked-about object that survive, %",
        "title": "Do the tokens that matter survive?",
        "below": "Above the dotted line a method keeps the asked-about object rather than the rest. Bands, bars: 95 %.",
    }
    by_time = summary.get("by_time", {"cells": []})
    in_time = [{**cell, "achieved": cell["budget"]} for cell in by_time["cells"]]
    time: dict[str, Any] = {
        **accuracy,
        "curves": _accuracy(in_time, levels),
        "styles": {**HIGHLIGHTED, **dict(zip(winners(in_time), WINNING, strict=False))},
        "x": "mean time to the first token, share of the unpruned model's (log; faster →)",
        "title": "How many answers survive in less time?",
    }
    return [
        *(draw(folder / "time", (10.0, 6.0), partial(_draw_one, notes[-1:], **time)) if in_time else ()),
        *draw(folder / "accuracy", (10.0, 6.0), partial(_draw_one, notes, **accuracy)),
        *draw(folder / "evidence", (10.0, 6.0), partial(_draw_one, notes, **evidence)),
        *draw(folder / "types", (10.0, 5.6), partial(_draw_types, figures, cells)),
    ]


def winners(cells: Sequence[Row]) -> list[str]:
    """Name the best methods that are not highlighted already: by their mean loss at budgets of at most a quarter.

    Where no budget is that small, all count. Only methods that reach each of them in each condition count.
    """
    budgets = {cell["budget"] for cell in cells if cell["budget"] is not None}
    small = {budget for budget in budgets if budget <= _SMALL} or budgets
    lost: dict[str, dict[float, float]] = defaultdict(dict)
    for cell in cells:
        if cell["budget"] in small and not cell["unreached"] and cell["method"] not in HIGHLIGHTED:
            lost[cell["method"]][cell["budget"]] = cell["difference"]
    whole = {method: sum(own.values()) for method, own in lost.items() if own.keys() == small}
    return sorted(whole, key=lambda method: (-whole[method], method))[: len(WINNING)]


def _levels(figures: Row, share: Callable[[Row], float]) -> Levels:
    """The unpruned model's accuracy, and the floor."""
    known = {"unpruned": figures["unpruned"], "no video": figures["blank"]}
    return {name: partial(lambda height, _: height, 100 * share(cell)) for name, cell in known.items() if cell}


def _accuracy(cells: Iterable[Row], levels: Levels) -> Curves:
    def placed(cell: Row) -> tuple[Any, ...]:
        unpruned, ends = levels["unpruned"](0), cell["difference_interval"]
        y = unpruned + 100 * cell["difference"]
        return cell, 100 * cell["achieved"], y, ends and [unpruned + 100 * end for end in ends]

    return _curves(map(placed, cells))


def _shares(evidence: Row) -> tuple[Any, ...]:
    ends = evidence["recall_interval"]
    return 100 * evidence["kept"], 100 * evidence["recall"], ends and [100 * end for end in ends]


def _curves(placed: Iterable[tuple[Any, ...]]) -> Curves:
    """Gather cells into curves, from many tokens to few; methods that the plots highlight come first."""
    found: Curves = {name: [] for name in HIGHLIGHTED}
    for cell, *place in sorted(placed, key=lambda each: (each[0]["method"], -each[1])):
        found.setdefault(cell["method"], []).append(Point._make([*place, bool(cell["unreached"])]))
    return {name: points for name, points in found.items() if points}


def _draw_one(
    notes: list[str],
    figure: Any,
    theme: Theme,
    *,
    curves: Curves,
    levels: Levels,
    styles: Mapping[str, Style],
    x: str,
    y: str,
    title: str,
    below: str,
) -> None:
    """Fill a figure with one plot, whose curves are labelled at their ends."""
    axes = figure.add_axes((0.07, 0.16, 0.70, 0.68))
    _token_axis(axes, (point.x for points in curves.values() for point in points), _TICKS)
    _draw_curves(axes, theme, curves, levels, styles)
    low, high = axes.get_ylim()
    axes.set_ylim(max(0, low), min(102, high))
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    edge = axes.get_xlim()[1]
    ends = [(name, edge, level(edge)) for name, level in levels.items()]
    named = ((name, *points[-1][:2]) for name, points in curves.items() if name in styles)
    _label_ends(axes, [*ends, *named], theme, styles)
    heading(figure, theme, title, below)
    width = int(15.5 * figure.get_figwidth())  # letters of this size that fit beside each other
    text = "\n".join(line for note in notes for line in textwrap.wrap(note, width))
    figure.text(0.015, 0.012, text, fontsize=8, color=theme.quiet, va="bottom", linespacing=1.4)


def _draw_types(figures: Row, cells: list[Row], figure: Any, theme: Theme) -> None:
    types = figures["unpruned"]["by_type"]
    shown = [cell for cell in cells if cell["method"] in HIGHLIGHTED]
    grid = figure.subplots(-(-len(types) // _COLUMNS), _COLUMNS, sharex=True, sharey=True, squeeze=False)
    figure.subplots_adjust(left=0.065, right=0.985, bottom=0.11, top=0.78, wspace=0.08, hspace=0.26)
    _token_axis(grid.flat[0], (100 * cell["achieved"] for cell in shown), (0.5, 0.25, 0.1, 0.05))
    handles: dict[str, Any] = {}
    for axes, kind in zip(grid.flat, sorted(types), strict=False):
        levels = _levels(figures, lambda cell, kind=kind: cell["by_type"][kind]["accuracy"])  # type: ignore[misc]
        of_kind = [
            {**cell, **cell["by_type"][kind], "difference_interval": None} for cell in shown if kind in cell["by_type"]
        ]
        handles |= _draw_curves(axes, theme, _accuracy(of_kind, levels), levels, HIGHLIGHTED, markersize=4)
        axes.set_title(f"{kind}  ({types[kind]['n']} questions)", fontsize=9.5, loc="left", color=theme.ink)
    for axes in grid.flat[len(types) :]:
        axes.set_visible(False)
    grid.flat[0].set_ylim(0, 106)
    figure.supxlabel("visual tokens, averaged over the decoder's layers, % (log; fewer →)", fontsize=9.5, y=0.02)
    figure.supylabel(_RIGHT, fontsize=9.5, x=0.012)
    legend(figure, handles, theme, (0.055, 0.885), ncols=len(handles))
    below = "Thin straight line: unpruned; dotted: no video. Every method at equal cost, as in the first plot."
    heading(figure, theme, "Which questions suffer?", below)


def _draw_curves(
    axes: Any, theme: Theme, curves: Curves, levels: Levels, styles: Mapping[str, Style], **look: Any
) -> dict[str, Any]:
    """Draw curves, and levels from edge to edge; returns the line of each curve.

    Intervals, where all points of a curve have one, are a band for the judged methods, bars for other highlighted ones.
    """
    lines = {}
    for method, points in curves.items():
        style = {**style_of(method, theme, styles), **look}
        xs = [point.x for point in points]
        lines[method] = axes.plot(xs, [point.y for point in points], **style)[0]
        hollow = [point[:2] for point in points if point.hollow]
        shape = {"marker": style["marker"], "markersize": style["markersize"], "zorder": style["zorder"] + 1}
        edge = {"markerfacecolor": theme.page, "markeredgecolor": style["color"], "markeredgewidth": 1.2}
        axes.plot([x for x, _ in hollow], [y for _, y in hollow], linestyle="none", **shape, **edge)
        spans = [point.interval for point in points if point.interval]
        if len(spans) == len(points) and method in JUDGED:
            axes.fill_between(xs, *zip(*spans, strict=True), color=style["color"], alpha=0.15, linewidth=0, zorder=1)
        elif len(spans) == len(points) and method in styles:
            axes.vlines(xs, *zip(*spans, strict=True), color=style["color"], linewidth=1.1, alpha=0.55, zorder=3)
    first, last = axes.get_xlim()
    across = [first * (last / first) ** (step / 30) for step in range(31)]  # one axis is logarithmic
    for name, level in levels.items():
        dash = "-" if name == "unpruned" else ":"
        axes.plot(across, [level(x) for x in across], color=theme.ink, linewidth=1.1, linestyle=dash, zorder=3)
    axes.grid(axis="y")
    return lines


def _token_axis(axes: Any, tokens: Iterable[float], ticks: Iterable[float]) -> None:
    """Set a logarithmic axis of shares in percent that runs from many tokens to few."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    shares = list(tokens) or [100.0]
    smallest, largest = min(shares), max(shares)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator([100 * t for t in ticks if smallest <= 110 * t <= 1.21 * largest]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    axes.set_xlim(1.08 * largest, 0.95 * smallest)


def _label_ends(axes: Any, ends: list[tuple[str, float, float]], theme: Theme, styles: Mapping[str, Style]) -> None:
    """Write names beside the plot, as near to the end of each curve as the others leave room, and a line from each."""
    low, high = axes.get_ylim()
    height = 72 * axes.figure.get_figheight() * axes.get_position().height  # points
    places = spread([end for _, _, end in ends], _LABEL_GAP * (high - low) / height, low, high)
    for (name, x, y), place in zip(ends, places, strict=True):
        loud, level = name in styles, x == axes.get_xlim()[1]
        ink = styles[name].colour(theme) if loud else theme.ink if level else theme.quiet
        line = {"arrowstyle": "-", "color": ink, "linewidth": 0.6, "alpha": 0.6, "relpos": (0, 0.5), "shrinkB": 4}
        look = {"color": ink, "fontsize": 9.5 if loud or level else 8, "fontweight": "bold" if loud else "normal"}
        beside = {"textcoords": "axes fraction", "annotation_clip": False, "va": "center_baseline"}
        axes.annotate(name, (x, y), (1.037, (place - low) / (high - low)), arrowprops=line, **look, **beside)
