"""From the raw answers of a choices run to its figures: every value tried against its base, question by question.

The same answers give the same bytes: rounded, no times.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.evaluation.shapes.accuracy_summary import Answers, CellName, clusters, paired
from prunevid_qwen.evaluation.shapes.methods import UNPRUNED
from research.choices import PAPER, RECOMMENDED, Variant, base_methods

SCHEMA = 1
_OF_THE_RUN = ("command", "commit", "uncommitted_changes", "versions", "machine", "conditions", "seeds")
_OF_THE_OPTIONS = ("model", "model_sha256", "questions", "random_seeds", "calibration_videos")


def summarise_choices(answers: Answers, run: dict[str, Any], variants: Sequence[Variant]) -> dict[str, Any]:
    """Return every figure of a choices run.

    Args:
        answers: of the unpruned model, the bases and all variants.
        run: what ``run.json`` says.
        variants: what was tried.

    Returns:
        ``run``: what it was; ``figures``: "unpruned"; "bases" (against unpruned, with the keep_ratio and
        cluster_ratio that reach the budget in each condition); "recommended_against_paper"; "rows",
        one for each variant and budget: n and videos of the questions that both it and its base were asked, accuracy
        and the paired difference to the base over these with intervals, the layer-averaged tokens of both, and by
        condition why the variant or its base is out of reach. A row with no question has no figures.

    Raises:
        ConfigError: an answer is missing that the run calls reached.
    """
    budgets = [float(budget) for budget in run["options"]["budgets"]]
    unpruned = answers[CellName(UNPRUNED, None)]
    videos = len(set(clusters(unpruned)))
    if videos != run["options"]["videos"]:
        raise ConfigError(
            f"{videos} of {run['options']['videos']} videos are answered: run the same command "
            "again, it goes on where it was"
        )
    unreached = _unreached(run, answers)
    whole = paired(unpruned, unpruned) or {}
    bases = [
        {"base": name, "budget": budget, "unreached": unreached.get(CellName(name, budget), {})}
        | {"ratios": _ratios(run, CellName(name, budget))}
        | _against(answers, CellName(name, budget), CellName(UNPRUNED, None))
        for name in base_methods()
        for budget in budgets
    ]
    return {
        "schema": SCHEMA,
        "run": {name: run[name] for name in _OF_THE_RUN if name in run}
        | {name: run["options"][name] for name in _OF_THE_OPTIONS if name in run["options"]},
        "figures": {
            "questions": len(unpruned),
            "videos": videos,
            "unpruned": {name: whole[name] for name in ("n", "videos", "accuracy", "accuracy_interval")},
            "bases": bases,
            "recommended_against_paper": [
                {"budget": budget} | _against(answers, CellName(RECOMMENDED, budget), CellName(PAPER, budget))
                for budget in budgets
            ],
            "rows": [_row(answers, unreached, variant, budget) for variant in variants for budget in budgets],
        },
    }


Unreached = dict[CellName, dict[str, str]]  # by condition, why


def _unreached(run: dict[str, Any], answers: Answers) -> Unreached:
    found: Unreached = {}
    conditions = {question.condition for question in answers[CellName(UNPRUNED, None)]}
    for cell in run["cells"]:
        name = CellName(cell["method"], None if cell["budget"] is None else float(cell["budget"]))
        if cell["status"] != "ok":
            found.setdefault(name, {})[cell["condition"]] = cell["why"]
        elif name not in answers and cell["condition"] in conditions:
            raise ConfigError(f"{name} was not asked on {cell['condition']}: run the same command again")
    return found


def _ratios(run: dict[str, Any], name: CellName) -> dict[str, list[float]]:
    """By condition, [keep_ratio, cluster_ratio] of a cell."""
    configs = {
        cell["condition"]: PruneVidConfig.from_record(cell["config"])
        for cell in run["cells"]
        if (cell["method"], cell["budget"]) == name and cell["status"] == "ok"
    }
    return {condition: [config.keep_ratio, config.cluster_ratio] for condition, config in configs.items()}


def _row(answers: Answers, unreached: Unreached, variant: Variant, budget: float) -> dict[str, Any]:
    own, base = CellName(variant.method.name, budget), CellName(variant.base, budget)
    stand_in_the_way = {**unreached.get(own, {})}
    for condition, why in unreached.get(base, {}).items():
        stand_in_the_way.setdefault(condition, f"the base: {why}")
    return {
        "base": variant.base,
        "option": variant.option,
        "value": variant.value,
        "is_base": variant.is_base,
        "budget": budget,
        "unreached": stand_in_the_way,
        **_against(answers, own, base),
    }


def _against(answers: Answers, own: CellName, other: CellName) -> dict[str, Any]:
    """Figures over the questions that both were asked; none where there is no such question."""
    found = paired(answers.get(own, {}), answers.get(other, {}))
    if found is None:
        return {"n": 0}
    now, then = (round(share, 4) for share in found.pop("tokens"))
    return {"tokens": now, "other_tokens": then, **found}
