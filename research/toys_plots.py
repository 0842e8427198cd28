"""The plot of docs/toys.md: accuracy against tokens, a panel for each toy."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from prunevid_qwen.evaluation.report.plots import HIGHLIGHTED, Theme, draw, legend, style_of
from research.toys import summaries

_TICKS = (0.5, 0.25, 0.16, 0.1, 0.05)


def draw_toys(results: Path, folder: Path) -> list[Path]:
    """Draw ``accuracy_<theme>.svg`` for light and for dark pages.

    Args:
        results: the folder ``eval/results``, with the summaries of both runs.
        folder: exists already.

    Raises:
        SetupError: matplotlib is not installed.
    """
    read = [json.loads(path.read_text(encoding="utf-8")) for path in summaries(results)]
    return draw(folder / "accuracy", (10.0, 4.6), partial(_panels, read), endings=("svg",))


def _panels(read: list[dict[str, Any]], figure: Any, theme: Theme) -> None:
    panels = figure.subplots(1, 2, sharey=True)
    figure.subplots_adjust(left=0.065, right=0.985, bottom=0.13, top=0.83, wspace=0.06)
    handles: dict[str, Any] = {}
    for axes, summary in zip(panels, read, strict=True):
        figures = summary["figures"]
        for name, dash in (("unpruned", "-"), ("blank", ":")):
            if figures[name]:
                axes.axhline(100 * figures[name]["accuracy"], color=theme.ink, linewidth=1.1, linestyle=dash, zorder=3)
        for method in HIGHLIGHTED:
            cells = [cell for cell in figures["cells"] if cell["method"] == method and cell["budget"] is not None]
            cells.sort(key=lambda cell: -cell["achieved"])
            if not cells:
                continue
            # where some kinds of video are out of reach, the difference still compares the same questions
            whole = figures["unpruned"]["accuracy"]
            x, y = [100 * cell["achieved"] for cell in cells], [100 * (whole + cell["difference"]) for cell in cells]
            style = style_of(method, theme)
            handles[method] = axes.plot(x, y, **style)[0]
            if all(cell["difference_interval"] for cell in cells):
                low, high = ([100 * (whole + cell["difference_interval"][end]) for cell in cells] for end in (0, 1))
                axes.vlines(x, low, high, color=style["color"], linewidth=1.1, alpha=0.55, zorder=3)
        axes.set_xscale("log")
        axes.set_xticks([100 * share for share in _TICKS], [f"{100 * share:g}" for share in _TICKS])
        axes.minorticks_off()
        axes.set_xlim(56, 4.2)
        axes.grid(axis="y")
        axes.set_title(summary["run"].get("family", "Qwen2.5-VL"), fontsize=10.5, loc="left", color=theme.ink)
    panels[0].set_ylabel("questions answered right, %")
    figure.supxlabel("visual tokens, averaged over the decoder's layers, % (log; fewer →)", fontsize=9.5, y=0.02)
    legend(figure, handles, theme, (0.055, 0.985), ncols=len(handles))
