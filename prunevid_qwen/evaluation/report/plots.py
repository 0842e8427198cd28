"""The one style of all plots: two themes, a colour, marker and dash for each method that matters, labels kept apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunevid_qwen.errors import SetupError


@dataclass(frozen=True)
class Theme:
    """Colours of a plot on a light or a dark page: ``ink`` for text, ``quiet`` for all that stands back."""

    name: str
    page: str
    ink: str
    quiet: str
    grid: str


LIGHT = Theme("light", "#ffffff", "#1f2328", "#8c959f", "#e7eaee")
DARK = Theme("dark", "#0d1117", "#e6edf3", "#7d8590", "#21262d")


@dataclass(frozen=True)
class Style:
    """How one method is drawn; colours are apart for colour-blind eyes too. Dashes are solid for methods alone."""

    light: str
    dark: str
    marker: str
    dash: str
    width: float

    def colour(self, theme: Theme) -> str:
        """Return the colour on this page."""
        return self.light if theme is LIGHT else self.dark


HIGHLIGHTED: dict[str, Style] = {
    "prunevid": Style("#0072b2", "#4c9bff", "o", "-", 2.6),
    "recommended": Style("#d55e00", "#ff8a4c", "D", "-", 2.6),
    "random": Style("#555b63", "#b7bfc8", "X", "--", 1.7),
    "uniform": Style("#008f68", "#2fc79a", "s", "--", 1.7),
    "pool": Style("#c0609a", "#e79cc8", "P", "--", 1.7),
    "fewer frames": Style("#b07a00", "#f0b429", "v", "-.", 1.7),
    "smaller frames": Style("#35a0d8", "#a5e3f9", "^", "-.", 1.7),
}
"""The methods that a plot is read for; every other one is a thin quiet line."""


WINNING: tuple[Style, ...] = (
    Style("#8a3ffc", "#be95ff", "h", "-", 2.0),
    Style("#a8123e", "#ff7eb6", "d", "-", 2.0),
    Style("#5c7c00", "#b5d334", "p", "-", 2.0),
)
"""Of the best methods in a plot that are not highlighted already."""


def style_of(method: str, theme: Theme, styles: Mapping[str, Style] = HIGHLIGHTED) -> dict[str, Any]:
    """Return matplotlib's arguments for the line of a method."""
    if method not in styles:
        return {"color": theme.quiet, "linewidth": 0.9, "linestyle": "-", "marker": ".", "markersize": 3.5, "zorder": 2}
    style = styles[method]
    return {
        "color": style.colour(theme),
        "linewidth": style.width,
        "linestyle": style.dash,
        "marker": style.marker,
        "markersize": 6,
        "markeredgewidth": 0.8,
        "markeredgecolor": theme.page,
        "zorder": 5 if style.dash == "-" else 4,
    }


def settings(theme: Theme) -> dict[str, Any]:
    """Return matplotlib's rc settings: the theme, and everything that makes the same figures give the same bytes."""
    return {
        "svg.hashsalt": "prunevid_qwen",
        "svg.fonttype": "path",
        "font.family": "DejaVu Sans",  # comes with matplotlib
        "font.size": 9.5,
        "figure.facecolor": theme.page,
        "savefig.facecolor": theme.page,
        "axes.facecolor": theme.page,
        "axes.edgecolor": theme.grid,
        "axes.labelcolor": theme.ink,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.unicode_minus": True,
        "text.color": theme.ink,
        "xtick.color": theme.ink,
        "ytick.color": theme.ink,
        "xtick.minor.size": 0,
        "grid.color": theme.grid,
        "grid.linewidth": 0.8,
        "path.simplify": False,
    }


def load_matplotlib() -> Any:
    """Return matplotlib, which only plots need; a `SetupError` says which extra brings it."""
    try:
        import matplotlib
    except ImportError as error:
        raise SetupError(
            f"plots need matplotlib ({error}): pip install 'prunevid_qwen[bench]'. What was measured is kept; the same "
            "command draws it later, and measures nothing again"
        ) from None
    return matplotlib


def draw(
    path: Path,
    size: tuple[float, float],
    fill: Callable[[Any, Theme], None],
    endings: Sequence[str] = ("svg", "png"),
    layout: Any = None,
    names_its_maker: bool = False,
) -> list[Path]:
    """Draw a plot into ``<path>_<theme>.<ending>``, light and dark; the same figures give the same bytes.

    Args:
        size: width and height in inches.
        fill: puts the plot into an empty figure, in the colours of a theme.
        layout: matplotlib's layout engine, such as "constrained".
        names_its_maker: leave matplotlib's name and version in the files.
    """
    matplotlib = load_matplotlib()
    from matplotlib.figure import Figure

    about = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}
    if names_its_maker:
        about = {"svg": {"Date": None}, "png": {}}
    written = []
    for theme in (LIGHT, DARK):
        with matplotlib.rc_context({**matplotlib.rcParamsDefault, **settings(theme)}):
            figure = Figure(figsize=size, layout=layout)
            fill(figure, theme)
            for ending in endings:
                file = path.with_name(f"{path.name}_{theme.name}.{ending}")
                figure.savefig(file, dpi=160, metadata=about[ending])
                written.append(file)
    return written


def heading(figure: Any, theme: Theme, title: str, below: str, places: tuple[float, float] = (0.955, 0.905)) -> None:
    """Write a title over a plot and a line below it; ``places`` of both are shares of the figure's height."""
    figure.text(0.015, places[0], title, fontsize=14, fontweight="bold", color=theme.ink, va="center")
    figure.text(0.015, places[1], below, fontsize=9.5, color=theme.quiet, va="center")


def legend(figure: Any, handles: dict[str, Any], theme: Theme, place: tuple[float, float], **look: Any) -> None:
    """Write a legend without a frame, its upper left corner at ``place`` in shares of the figure."""
    look = {"loc": "upper left", "bbox_to_anchor": place, "frameon": False, **look}
    for text in figure.legend(handles.values(), handles.keys(), **look).get_texts():
        text.set_color(theme.ink)


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Place labels in their order, as near to where they belong as a gap allows; where not all fit, it shrinks."""
    if not wanted:
        return []
    gap = min(gap, (high - low) / max(1, len(wanted) - 1))
    order = sorted(range(len(wanted)), key=lambda k: (wanted[k], k))
    blocks: list[tuple[float, int]] = []  # mean wish of the first label, labels: neighbours that touch move as one
    for rank, k in enumerate(order):
        block = (wanted[k] - rank * gap, 1)
        while blocks and blocks[-1][0] >= block[0]:
            (mean, count), before = block, blocks.pop()
            block = (before[0] * before[1] + mean * count) / (before[1] + count), before[1] + count
        blocks.append(block)
    starts = [min(max(mean, low), high - (len(wanted) - 1) * gap) for mean, count in blocks for _ in range(count)]
    places = {k: starts[rank] + rank * gap for rank, k in enumerate(order)}
    return [places[k] for k in range(len(wanted))]
