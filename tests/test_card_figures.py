"""Figures in the cards of the bundled toys are those of the committed raw results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prunevid_qwen.bundled import TOYS, bundled_model

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "eval" / "results"

KINDS = ("all", "color", "shape", "direction", "first", "last", "brief", "count", "exists")


def load(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    return loaded


@pytest.mark.parametrize("condition", ["plain", "clutter", "shake"])
@pytest.mark.parametrize("toy", TOYS)
def test_the_table_of_a_toys_card_is_the_measured_one(toy: str, condition: str) -> None:
    card = (Path(bundled_model(toy)) / "README.md").read_text(encoding="utf-8")
    both = load(f"{toy.replace('-', '_')}_accuracy_{condition}.json")["accuracy"]["both"]
    shares = [f"{100 * both[kind]['accuracy']:.1f}" for kind in KINDS]
    blank = f"{100 * both['all']['blank']:.1f}"
    low, high = both["all"]["interval"]
    assert f"| {condition} | {' | '.join(shares)} | {blank} |" in card
    assert f"{condition} {both['all']['n']} questions, {100 * low:.1f} to {100 * high:.1f}" in card


@pytest.mark.parametrize("toy", TOYS)
def test_no_place_of_a_card_is_left_to_be_filled(toy: str) -> None:
    assert "{{" not in (Path(bundled_model(toy)) / "README.md").read_text(encoding="utf-8")


def test_a_prefill_reaches_most_of_what_its_flops_predict() -> None:
    """Acceptance of the speed issue, as measured and committed: no test times anything."""
    rows = load("efficiency_cpu/efficiency.json")["rows"]
    assert next(r for r in rows if (r["frames"], r["variant"]) == (32, "paper"))["reached"] >= 0.85
