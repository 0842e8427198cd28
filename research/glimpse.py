"""The glimpse beside attention, controls and true boxes: accuracy against the tokens that selection leaves.

All of them drop after the same layer, the one the glimpse was trained for, without stage 1; so a share of tokens is the
same cost for all. Answers are those of the accuracy benchmark's own run, on its own videos.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from prunevid_qwen.config.option_classes import options_class
from prunevid_qwen.evaluation.report.intervals import Estimate, clustered_mean, paired_difference
from prunevid_qwen.evaluation.shapes.accuracy_summary import Answered, Answers, CellName, clusters
from prunevid_qwen.evaluation.shapes.methods import UNPRUNED, AccuracyRun, Method
from prunevid_qwen.reducer import says

SHARES = (0.50, 0.25, 0.15, 0.10, 0.05, 0.02)
"""Tokens kept after the layer, of those of the video."""

SELECTORS = ("glimpse", "prunevid", "oracle", "random", "uniform")
"""Fixed shares; "prunevid" is max-max attention, "oracle" knows which tokens show what is asked about."""

THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Of the glimpse where it decides itself how many tokens it keeps; 0.5 is the default."""

TYPES = ("exists", "color", "shape", "direction", "first", "last", "brief", "count")
"""Types of question, in the order of tables and plots."""

VIDEOS, QUICK_VIDEOS = 60, 8
_SCHEMA = 1


def method_name(selector: str, share: float | None = None, threshold: float | None = None) -> str:
    """Name a curve's point: "glimpse 10%", or "glimpse above 0.5" where a threshold decides."""
    return f"{selector} {share:.0%}" if share is not None else f"{selector} above {threshold:g}"


def glimpse_methods(layer: int) -> tuple[Method, ...]:
    """List the points of all curves.

    Args:
        layer: after which all of them drop.
    """
    start: dict[str, Any] = {"enable_stage1": False, "pruning_layer": layer}
    fixed = [
        Method(
            method_name(selector, share),
            {
                **start,
                "selector": selector,
                "keep_ratio": share,
                **says(options_class("selector", selector)(), 2).lever_needs,
            },
            levers=(),
        )
        for selector in SELECTORS
        for share in SHARES
    ]
    adaptive = [
        Method(
            method_name("glimpse", threshold=threshold),
            {**start, "selector": "glimpse", "keep_threshold": threshold},
            levers=(),
        )
        for threshold in THRESHOLDS
    ]
    true = Method(method_name("oracle", threshold=0.5), {**start, "selector": "oracle"}, levers=())
    return (*fixed, *adaptive, true)


def glimpse_run(layer: int, videos: int = VIDEOS, model: str = "bundled") -> AccuracyRun:
    """Return the run that asks about all of it."""
    methods = glimpse_methods(layer)  # shares are fixed: nothing is fitted
    return AccuracyRun(methods, budgets=(), videos=videos, model=model, random_seeds=1, calibration_videos=1)


def summarise_glimpse(answers: Answers, run: dict[str, Any]) -> dict[str, Any]:
    """Return every figure: of each method accuracy, loss to unpruned, share kept; how the glimpse adapts to questions.

    Args:
        answers: of a run of `glimpse_run`.
        run: what ``run.json`` says.
    """
    unpruned = answers[CellName(UNPRUNED, None)]
    videos = clusters(unpruned)

    def correct(name: str) -> list[float]:
        return [each.correct for each in answers[CellName(name, None)].values()]

    def judged(name: str) -> dict[str, Any]:
        own, shares = correct(name), answers[CellName(name, None)].values()
        return {
            "accuracy": _written(clustered_mean(own, videos)),
            "lost": _written(paired_difference(own, correct(UNPRUNED), videos)),
            "kept": round(float(np.mean([each.kept for each in shares])), 6),
            "evidence_kept": round(float(np.nanmean([each.evidence_kept for each in shares])), 6),
        }

    names = [cell.method for cell in answers if cell.method != UNPRUNED]
    against = {
        f"{share:.0%}": {
            other: _written(
                paired_difference(correct(method_name("glimpse", share)), correct(method_name(other, share)), videos)
            )
            for other in SELECTORS
            if other != "glimpse"
        }
        for share in SHARES
    }
    kept = ("command", "commit", "uncommitted_changes", "versions", "machine", "options")
    return {
        "schema": _SCHEMA,
        "run": {name: run[name] for name in kept if name in run},
        "figures": {
            "unpruned": _written(clustered_mean(correct(UNPRUNED), videos)),
            "methods": {name: judged(name) for name in sorted(names)},
            "glimpse_against": against,
            "adaptive": _adaptive(answers[CellName(method_name("glimpse", threshold=0.5), None)]),
        },
    }


def _adaptive(answers: Answered) -> dict[str, Any]:
    """How many tokens the threshold keeps, by what is asked and by how many objects a count has to find."""
    shares = defaultdict(list)
    for question, answer in answers.items():
        kind, *_ = answer.wording
        shares[kind].append(answer.kept)
        shares[f"{question.condition} {kind}"].append(answer.kept)
    return {
        name: {
            "n": len(values),
            "mean": round(float(np.mean(values)), 6),
            "quartiles": [round(float(q), 6) for q in np.quantile(values, (0.25, 0.5, 0.75))],
            "shares": [round(value, 4) for value in values] if " " not in name else None,
        }
        for name, values in sorted(shares.items())
    }


def _written(estimate: Estimate) -> dict[str, Any]:
    interval = None if estimate.interval is None else [round(x, 6) for x in estimate.interval]
    return {"value": round(estimate.value, 6), "interval": interval, "n": estimate.n, "videos": estimate.videos}
