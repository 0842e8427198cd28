"""What a GlimpsePrune+ run comes to: did the reward rise, in training and on held-out records; and its plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prunevid_qwen.evaluation.report.intervals import clustered_mean, paired_difference
from prunevid_qwen.evaluation.report.plots import HIGHLIGHTED, LIGHT, load_matplotlib, settings

CurveLine = Mapping[str, Any]

_SOURCES = {"boxes": "from the boxes", "whole": "from the whole"}
_ENDS = 0.2  # share of the steps that are its beginning, and its end


def summarise(curve: Sequence[CurveLine], held_out: Sequence[CurveLine], answers: int) -> dict[str, Any]:
    """Compare the beginning of a run with its end, and held-out records before with after.

    Args:
        curve: lines of ``curve.jsonl``, in order.
        held_out: lines of ``held_out.jsonl``, perhaps none.
        answers: drawn in a step.

    Returns: "training" (None with fewer than 10 lines): mean reward of the first and the last fifth of the lines with
        standard errors over lines, each a draw of other questions; "held_out": for each entry of the data and source
        ("boxes", "whole") the mean reward before and after and their difference, with 95 % intervals over records,
        paired.
    """
    return {
        "training": _ends(curve, answers) if len(curve) >= 10 else None,
        "held_out": [
            found
            for entry in sorted({line["entry"] for line in held_out})
            for source in _SOURCES
            if (found := _pairs(held_out, entry, source))
        ],
        "largest_policy_gap": max((line["policy_gap"] or 0.0 for line in curve), default=None),
    }


def said(summary: Mapping[str, Any]) -> list[str]:
    """Return the summary as sentences."""
    out = []
    if summary["training"]:
        t = summary["training"]
        out.append(
            f"reward in training: {t['first']['mean']:.3f} in the first {t['lines']} lines of the curve, "
            f"{t['last']['mean']:.3f} in the last: {t['rise']:+.3f}, {t['rise_in_errors']:.1f} standard errors"
        )
    for found in summary["held_out"]:
        low, high = found["difference"]["interval"] or (float("nan"),) * 2
        before, after, difference = (found[name]["mean"] for name in ("before", "after", "difference"))
        out.append(
            f"held out, entry {found['entry']}, {_SOURCES[found['from']]}: {before:.3f} before, {after:.3f} after: "
            f"{difference:+.3f} ({low:+.3f} to {high:+.3f}), {found['records']} records"
        )
    return out


def draw_plus(curve: Sequence[CurveLine], summary: Mapping[str, Any], path: Path) -> Path:
    """Draw the reward and the divergence of each step; dots are held-out records, before and after.

    Raises:
        SetupError: matplotlib is not installed.
    """
    matplotlib = load_matplotlib()
    from matplotlib.figure import Figure

    steps, reward = [line["step"] for line in curve], np.array([line["reward"] for line in curve], float)
    width = max(1, len(curve) // 8)
    kernel = np.ones(width) / width
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **settings(LIGHT)}):
        figure = Figure(figsize=(10.0, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.plot(steps, reward, color=LIGHT.quiet, linewidth=0.9, label="each step")
        if len(curve) > width:
            left.plot(steps[width - 1 :], np.convolve(reward, kernel, "valid"), linewidth=2.2,
                      color=HIGHLIGHTED["prunevid"].light, label=f"mean of {width} lines")  # fmt: skip
        for found in (each for each in summary["held_out"] if each["entry"] == 0):
            style = HIGHLIGHTED["recommended" if found["from"] == "boxes" else "uniform"]
            left.errorbar(
                [0, steps[-1]], [found["before"]["mean"], found["after"]["mean"]], linestyle="", capsize=3,
                marker=style.marker, color=style.light, label=f"held out, {_SOURCES[found['from']]}",
                yerr=np.array([_whiskers(found[when]) for when in ("before", "after")]).T,
            )  # fmt: skip
        left.set_ylabel("mean reward of drawn answers")
        left.set_ylim(0, 1.03)
        left.legend(frameon=False, loc="lower right")
        right.plot(steps, [line["kl"] for line in curve], color=HIGHLIGHTED["prunevid"].light, label="KL to the base")
        right.plot(steps, [line["entropy"] for line in curve], color=HIGHLIGHTED["recommended"].light, label="entropy")
        right.set_ylabel("nats a token")
        right.set_yscale("symlog", linthresh=1.0)  # k3 explodes where the base alone finds an answer likely
        right.set_ylim(bottom=0)
        right.legend(frameon=False)
        for axes in (left, right):
            axes.set_xlabel("step")
            axes.grid(axis="y")
        figure.suptitle("GlimpsePrune+: reinforcement on answers from the boxes alone", fontsize=10.5)
        figure.savefig(path, metadata={"Date": None, "Creator": None})
    return path


def _ends(curve: Sequence[CurveLine], answers: int) -> dict[str, Any]:
    count = max(2, round(len(curve) * _ENDS))
    first, last = (np.array([line["reward"] for line in part], float) for part in (curve[:count], curve[-count:]))
    errors = [float(part.std(ddof=1) / len(part) ** 0.5) for part in (first, last)]
    rise = float(last.mean() - first.mean())
    spread = float(np.hypot(errors[0], errors[1]))
    return {
        "lines": count,
        "answers_a_step": answers,
        "first": {"mean": round(float(first.mean()), 6), "standard_error": round(errors[0], 6)},
        "last": {"mean": round(float(last.mean()), 6), "standard_error": round(errors[1], 6)},
        "rise": round(rise, 6),
        "rise_in_errors": round(rise / spread, 3) if spread else None,
    }


def _pairs(held_out: Sequence[CurveLine], entry: int, source: str) -> dict[str, Any] | None:
    worth: dict[str, dict[int, float]] = {"before": {}, "after": {}}
    for line in held_out:
        if (line["entry"], line["from"]) == (entry, source) and line["reward"] is not None:
            worth[line["when"]][line["record"]] = line["reward"]
    both = sorted(set(worth["before"]) & set(worth["after"]))
    if not both:
        return None
    before, after = ([worth[when][record] for record in both] for when in ("before", "after"))
    return {
        "entry": entry,
        "from": source,
        "records": len(both),
        "before": _estimate(clustered_mean(before, both)),
        "after": _estimate(clustered_mean(after, both)),
        "difference": _estimate(paired_difference(after, before, both)),
    }


def _estimate(found: Any) -> dict[str, Any]:
    interval = None if found.interval is None else [round(each, 6) for each in found.interval]
    return {"mean": round(found.value, 6), "interval": interval}


def _whiskers(found: Mapping[str, Any]) -> tuple[float, float]:
    low, high = found["interval"] or (found["mean"], found["mean"])
    return max(0.0, found["mean"] - low), max(0.0, high - found["mean"])
