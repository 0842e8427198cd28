"""The plots of the glimpse: accuracy against tokens kept, and how many tokens it keeps of its own accord."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prunevid_qwen.config.amounts import percent
from prunevid_qwen.evaluation.report.plots import Theme, draw
from research.glimpse import SELECTORS, SHARES, THRESHOLDS, TYPES, method_name

_CURVES = {
    "glimpse": ("glimpse, fixed share", "#d55e00", "#ff8a4c", "D", "-"),
    "prunevid": ("max-max attention", "#0072b2", "#4c9bff", "o", "-"),
    "oracle": ("true boxes", "#008f68", "#2fc79a", "s", ":"),
    "random": ("random", "#555b63", "#b7bfc8", "X", "--"),
    "uniform": ("uniform", "#b07a00", "#f0b429", "v", "--"),
}
_ADAPTIVE = ("glimpse, by threshold", "#c0609a", "#e79cc8", "P", "-")
_BINS = 24


def draw_glimpse(summary: dict[str, Any], folder: Path) -> list[Path]:
    """Draw ``accuracy_<theme>`` and ``adaptive_<theme>``, each as SVG, for light and for dark pages.

    Args:
        summary: as `summarise_glimpse` returns it.
        folder: exists already.

    Raises:
        SetupError: matplotlib is not installed.
    """
    figures, written = summary["figures"], []
    for name, size, fill in (("accuracy", (8.6, 5.2), _accuracy), ("adaptive", (8.6, 6.4), _histograms)):
        written += draw(
            folder / name,
            size,
            lambda figure, theme, fill=fill: fill(figure, figures, theme),  # type: ignore[misc]
            endings=("svg",),
            layout="constrained",
        )
    return written


def _accuracy(figure: Any, figures: dict[str, Any], theme: Theme) -> None:
    axes, methods = figure.add_subplot(), figures["methods"]
    points = {selector: [method_name(selector, share) for share in SHARES] for selector in SELECTORS}
    curves = [(_CURVES[selector], names) for selector, names in points.items()]
    curves.append((_ADAPTIVE, [method_name("glimpse", threshold=t) for t in THRESHOLDS]))
    for (label, light, dark, marker, dash), names in curves:
        cells = sorted((methods[name] for name in names if name in methods), key=lambda cell: -cell["kept"])
        colour = light if theme.name == "light" else dark
        x, y = [100 * cell["kept"] for cell in cells], [100 * cell["accuracy"]["value"] for cell in cells]
        axes.plot(x, y, color=colour, marker=marker, linestyle=dash, linewidth=2, markersize=6, label=label)
        spans = [cell["accuracy"]["interval"] or [cell["accuracy"]["value"]] * 2 for cell in cells]
        axes.vlines(x, [100 * low for low, _ in spans], [100 * high for _, high in spans], color=colour, alpha=0.35)
    axes.axhline(100 * figures["unpruned"]["value"], color=theme.quiet, linewidth=1)
    axes.annotate("unpruned", (0.99, 100 * figures["unpruned"]["value"]), xycoords=("axes fraction", "data"),
                  color=theme.quiet, ha="right", va="bottom", fontsize=8.5)  # fmt: skip
    axes.set_xscale("log")
    axes.set_xticks([100 * share for share in SHARES], [f"{share:.0%}" for share in SHARES])
    axes.minorticks_off()
    axes.invert_xaxis()
    axes.set_xlabel("visual tokens kept after the layer (log scale)")
    axes.set_ylabel("answers right, %")
    axes.grid(True)
    axes.legend(frameon=False)


def _histograms(figure: Any, figures: dict[str, Any], theme: Theme) -> None:
    adaptive = figures["adaptive"]
    types = [name for name in TYPES if name in adaptive]
    colour = _ADAPTIVE[1] if theme.name == "light" else _ADAPTIVE[2]
    top = max(max(adaptive[name]["shares"]) for name in types)
    panels = figure.subplots(len(types), 1, sharex=True)
    for axes, name in zip(panels if len(types) > 1 else [panels], types, strict=True):
        shares = [100 * share for share in adaptive[name]["shares"]]
        axes.hist(shares, bins=_BINS, range=(0, 100 * top), color=colour)
        axes.axvline(100 * adaptive[name]["mean"], color=theme.ink, linewidth=1.2)
        axes.set_ylabel(name, rotation=0, ha="right", va="center")
        axes.set_yticks([])
        axes.annotate(f"mean {percent(adaptive[name]['mean'], 1)}", (0.99, 0.72), xycoords="axes fraction", ha="right",
                      fontsize=8.5)  # fmt: skip
    figure.supxlabel("visual tokens that the glimpse keeps at a threshold of 0.5, % of the video")
