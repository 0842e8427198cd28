"""The search for `recommended`: its grid, its scores, whom it confirms, and how a confirmed row is paired."""

from __future__ import annotations

import json

import pytest

from prunevid_qwen.config import get_recommended_config
from prunevid_qwen.evaluation.shapes.accuracy_answers import Answers, CellName, MeanAnswer, QuestionName
from prunevid_qwen.evaluation.shapes.methods import Method, changes
from prunevid_qwen.moving_shapes.conditions import CONDITIONS
from research import search
from research.pages import ROOT
from research.search_run import best, confirmed, losses

pytestmark = pytest.mark.nightly
TOYS = ("one", "other")


def answers(right: dict[CellName, list[float]]) -> Answers:
    """Four questions about two videos; the share of each that is right."""
    names = [QuestionName("plain", k // 2, k % 2) for k in range(4)]
    word = ("count", True, "how many?", "2")
    found: Answers = {}
    for cell, own in right.items():
        given = [MeanAnswer(word, share, cell.budget or 1.0, 0.1, 0.5, 0.1, 1) for share in own]
        found[cell] = dict(zip(names, given, strict=True))
    return found


def test_the_grid_is_one_of_at_most_200_configs_with_names_of_their_own() -> None:
    grid = list(search.grid())
    assert len({method.name for method in grid}) == len(grid) <= search.MOST
    for method in grid:
        method.base_config(CONDITIONS["plain"])  # a config that none can be made of is refused
    seeds = {search.SEARCH_SEED, search.DRAFT_SEED, search.CONFIRM_SEED}
    assert len(seeds) == 3 and all(b - a > 200 for a, b in zip(sorted(seeds), sorted(seeds)[1:], strict=False))


def test_a_score_is_the_mean_of_the_cells_and_a_missed_budget_has_none() -> None:
    methods = [Method("good", {"merger": "rlt"}), Method("bad", {"merger": "pool"})]
    cells = {CellName("unpruned", None): [1.0] * 4}
    for budget in search.SEARCH_BUDGETS:
        cells |= {CellName("good", budget): [1.0, 1.0, 1.0, 0.0], CellName("bad", budget): [0.0] * 4}
    missed = {"cells": [{"method": "bad", "status": "unreachable", "why": "the nearest is"}]}
    found = losses(dict.fromkeys(TOYS, answers(cells)), {"one": {"cells": []}, "other": missed}, methods)
    assert [(row["config"], row["score"]) for row in found] == [("good", -25.0), ("bad", None)]


def test_one_of_each_door_selector_and_layer_is_confirmed() -> None:
    methods = [
        Method(f"{merger} {k}", {"merger": merger, "keep_ratio": 0.1 * k}) for merger in ("rlt", "pool") for k in (1, 2)
    ]
    rows = [{"config": method.name, "score": -float(number)} for number, method in enumerate(methods)]
    assert best(rows, methods) == ["rlt 1", "pool 1"]


def test_a_confirmed_row_is_paired_by_question_and_the_mean_of_both_budgets_decides() -> None:
    cells = {CellName("unpruned", None): [1.0] * 4}
    for budget in search.CONFIRM_BUDGETS:
        cells |= {CellName(name, budget): [0.0] * 4 for name in ("recommended", "random", "uniform")}
        cells[CellName("mine", budget)] = [1.0 if budget == 0.10 else 0.0] * 4
    rows = confirmed({"one": answers(cells)}, ["mine"])
    ahead = {row["budget"]: row["ahead"] for row in rows if row["config"] == "mine"}
    assert ahead == {0.25: 0.0, 0.10: 1.0, 0.05: 0.0, None: 0.5}


def test_recommended_is_what_the_committed_confirmation_says() -> None:
    summary = json.loads((ROOT / "eval/results/search/summary.json").read_text(encoding="utf-8"))
    decides = [row for row in summary["confirm"] if row["budget"] is None and row["config"] in summary["chosen"]]
    leads = {row["config"]: [] for row in decides}
    for row in decides:
        assert row["ahead_interval"][0] > 0
        leads[row["config"]].append(row["ahead"])
    winner = max(leads, key=lambda name: sum(leads[name]))
    chosen = next(method for method in search.grid() if method.name == winner)
    now = changes(get_recommended_config())
    assert {name: now[name] for name in chosen.options} == pytest.approx(dict(chosen.options))
