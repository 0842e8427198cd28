"""Chance places spans as long as those that were told; rates are counted by hand; the stored record is its lines."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pytest

from prunevid_qwen import PruneVidQwen25VL, get_baseline_config
from prunevid_qwen.evaluation.shapes.videos import ShapesVideo
from prunevid_qwen.moving_shapes.conditions import CONDITIONS
from prunevid_qwen.receipt.looked_at import MORE_THAN_SHARE
from research.looked_at import PRESETS, TUNED_ON, ask, at_random, evidence, looked, summarise
from research.shapes_run import RESULTS

pytestmark = pytest.mark.nightly

FIGURES = ("hit_rate", "chance_rate", "precision")
SECONDS = [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0), (3.0, 4.0)]


def runs(found: np.ndarray) -> list[int]:
    return sorted(len(each) for each in "".join("#" if each else " " for each in found).split())


def test_positions_of_spans_and_of_evidence() -> None:
    assert looked([[1.0, 3.0]], SECONDS).tolist() == [False, True, True, False]
    assert not looked([], SECONDS).any()
    shows = np.zeros((2, 8), dtype=bool)
    shows[0, 1] = shows[1, 6] = True
    assert evidence(shows, 4).tolist() == [True, False, False, True]


def test_chance_keeps_the_lengths_and_reaches_every_place() -> None:
    rng = np.random.default_rng(0)
    found = np.array([True, True, False, True, False, False])
    placed = [at_random(found, rng) for _ in range(400)]
    assert {tuple(runs(each)) for each in placed} == {(1, 2)}
    assert len({each.tobytes() for each in placed}) == 12  # 2 orders, and 2 of 4 gaps around the 3 positions outside
    alone = Counter(int(np.flatnonzero(at_random(SECOND, rng))[0]) for _ in range(4000))
    assert sorted(alone) == [0, 1, 2, 3] and all(850 < each < 1150 for each in alone.values())
    for same in (np.zeros(4, dtype=bool), np.ones(4, dtype=bool)):
        assert at_random(same, rng).tolist() == same.tolist()


SECOND = np.array([False, True, False, False])


def line(seed: int, hit: bool, chance: float, right: int, told: int) -> dict[str, Any]:
    return {
        "condition": "plain", "seed": seed, "hit": hit, "chance": chance,
        "right": right, "looked": told, "shown": 2, "positions": 8,
    }  # fmt: skip


def test_rates_by_hand() -> None:
    found = summarise([line(1, True, 0.5, 1, 2), line(1, False, 0.0, 0, 0), line(2, True, 0.25, 1, 1)])
    assert (found["n"], found["videos"]) == (3, 2)
    assert found["hit_rate"] == round(2 / 3, 4) and found["chance_rate"] == 0.25 and found["with_a_span"] == 0.6667
    assert found["over_chance"] == round(2 / 3 - 0.25, 4)
    assert found["precision"] == 0.75 and found["shown"] == 0.25 and found["precision_over_shown"] == 0.5
    assert found["looked_share"] == 0.1875  # 3 of 16


def test_a_clip_is_asked_and_again_the_same() -> None:
    model = PruneVidQwen25VL("bundled", get_baseline_config(), device="cpu", dtype="float32")
    video = ShapesVideo(CONDITIONS["plain"], TUNED_ON)
    lines = ask(model, video, PRESETS)
    assert {each["preset"] for each in lines} == set(PRESETS)
    for each in lines:
        assert each["hit"] == (each["right"] > 0) and each["right"] <= each["looked"] <= each["positions"]
        assert 0 < 2 * each["shown"] <= each["positions"]
    assert lines == ask(model, video, PRESETS)


def test_the_record_is_its_lines() -> None:
    record = json.loads((RESULTS / "looked_at.json").read_text(encoding="utf-8"))
    assert record["more_than_share"] == MORE_THAN_SHARE and not record["uncommitted_changes"]
    for preset in PRESETS:
        assert record["rows"][preset] == summarise([each for each in record["lines"] if each["preset"] == preset])


def test_the_page_tells_the_record() -> None:
    record = json.loads((RESULTS / "looked_at.json").read_text(encoding="utf-8"))
    page = (RESULTS.parents[1] / "docs" / "receipt.md").read_text(encoding="utf-8")
    told = page.split("## LookedAt")[1].split("\n## ")[0]
    for row in record["rows"].values():
        low, high = (f"{100 * end:.0f}" for end in row["hit_rate_interval"])
        for figure in (f"{low} to {high}", *(f"{100 * row[name]:.0f} %" for name in FIGURES)):
            assert figure in told, figure
