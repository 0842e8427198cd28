"""The plot of a glimpse training: what was lost and what was found, against steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prunevid_qwen.evaluation.report.plots import HIGHLIGHTED, LIGHT, load_matplotlib, settings

CurveLine = dict[str, Any]

_PANELS = (
    ("lost, mean over samples", {"lm": "prunevid", "dice": "recommended", "bce": "uniform"}),
    ("share of tokens", {"recall": "prunevid", "precision": "recommended", "iou": "uniform", "kept": "random"}),
)
"""Of each panel its axis, and for each figure the method whose colour it has."""


def draw_curve(training: Sequence[CurveLine], evaluation: Sequence[CurveLine], path: Path) -> Path:
    """Draw both curves into one SVG: lines are training, dots are the held-out records.

    Args:
        training: lines of ``curve.jsonl``, at least one.
        evaluation: lines of ``evaluation.jsonl``, perhaps none.
        path: of the SVG.

    Returns: the path.

    Raises:
        SetupError: matplotlib is not installed.
    """
    matplotlib = load_matplotlib()
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **settings(LIGHT)}):
        figure = Figure(figsize=(10.0, 4.2), layout="constrained")
        for axes, (said, shown) in zip(figure.subplots(1, len(_PANELS)), _PANELS, strict=True):
            for name, colour_of in shown.items():
                colour = HIGHLIGHTED[colour_of].light
                axes.plot([line["step"] for line in training], [line[name] for line in training], color=colour,
                          linewidth=1.6, label=name)  # fmt: skip
                axes.plot([line["step"] for line in evaluation], [line[name] for line in evaluation], color=colour,
                          linestyle="", marker="o", markersize=5)  # fmt: skip
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.set_xlabel("step")
            axes.set_ylabel(said)
            axes.set_ylim(bottom=0)
            axes.grid(axis="y")
            axes.legend(frameon=False, ncols=len(shown), loc="lower right", bbox_to_anchor=(1.0, 1.0))
        note = "; dots: held-out records" if evaluation else ""
        figure.suptitle(f"Training a glimpse predictor (lines: training{note})", fontsize=10.5)
        figure.savefig(path, metadata={"Date": None, "Creator": None})
    return path
