"""Positions in pairs, and candidates beside the controls that take as long."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from prunevid_qwen import PruneVidQwen25VL, get_baseline_config
from prunevid_qwen.evaluation.shapes.videos import ShapesVideo
from research.moving_camera import DRIFT, FIRST_SEED, STOCK, MovingAsker, beside, rows, summarise
from research.position_pairs import pairs_merged, pairs_of, segments
from research.vision_page import MOVING, vision_tables
from tests.tolerances import LOGITS, close

pytestmark = pytest.mark.nightly


def turned(*degrees: float) -> torch.Tensor:
    """Positions of one patch each, whose cosines are those of the angles between them: [T, 1, 2]."""
    angles = torch.tensor(degrees).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], dim=1)[:, None]


def test_a_segment_ends_where_it_no_longer_looks_like_its_first_or_is_long() -> None:
    assert segments(turned(0, 5, 80, 82)) == [range(0, 2), range(2, 4)]
    assert segments(turned(*[0] * 11)) == [range(0, 8), range(8, 11)]


def test_pairs_by_hand() -> None:
    # 0 and 5 stay; 1 and 2 are nearer than 2 and 3 and than the ends; 3 and 4 are nearer than 4 and 5
    target, weights = pairs_of(turned(0, 10, 12, 25, 28, 45))
    assert target.tolist() == [0, 1, 1, 2, 2, 3]
    own, after = torch.tensor([2.0, 13.0]).deg2rad().cos()
    assert weights[1].item() == pytest.approx((own / (own + after)).item())
    assert (weights[1] + weights[2]).item() == pytest.approx(1)
    assert weights[0] == weights[5] == 1


def test_the_ends_of_a_segment_and_even_steps_stay() -> None:
    assert pairs_of(turned(0, 1))[0].tolist() == [0, 1]
    assert pairs_of(turned(0, 0, 0))[0].tolist() == [0, 1, 2]  # one in the middle has no partner


@pytest.fixture(scope="module")
def asker() -> MovingAsker:
    model = PruneVidQwen25VL("bundled", get_baseline_config(), device="cpu", dtype="float32")
    return MovingAsker(model, ShapesVideo(DRIFT, FIRST_SEED), [])


def features(asker: MovingAsker, pixels: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        out = asker.adapter.parts.vision(pixels, grid)
    return getattr(out, "pooler_output", out)


def test_nothing_merged_is_the_stock_tower(asker: MovingAsker, monkeypatch: pytest.MonkeyPatch) -> None:
    medium = asker.medium(rows()[0])
    stock = features(asker, medium.pixels, medium.grid)
    alone = torch.arange(DRIFT.frames // 2), torch.ones(DRIFT.frames // 2)
    monkeypatch.setattr("research.position_pairs.pairs_of", lambda _states: alone)
    with pairs_merged(asker.adapter.parts.vision, 0) as shares:
        assert torch.equal(features(asker, medium.pixels, medium.grid), stock)
    assert shares == [1.0]
    assert torch.equal(features(asker, medium.pixels, medium.grid), stock)  # no trace


def test_equal_positions_merged_are_the_stock_tower(asker: MovingAsker) -> None:
    medium = asker.medium(rows()[0])
    pixels = medium.pixels.view(DRIFT.frames // 2, -1, medium.pixels.shape[-1]).clone()
    pixels[3] = pixels[2]
    stock = features(asker, pixels.flatten(0, 1), medium.grid)
    with pairs_merged(asker.adapter.parts.vision, 1) as shares:
        own = features(asker, pixels.flatten(0, 1), medium.grid)
    assert shares[0] < 1
    split = own.view(DRIFT.frames // 2, -1, own.shape[-1])
    assert torch.equal(split[2], split[3])
    close(split[2:4], stock.view_as(split)[2:4], LOGITS)


def test_each_row_takes_what_it_says(asker: MovingAsker) -> None:
    tokens = {row.name: asker.medium(row).pixels.shape[0] for row in rows()}
    whole = tokens[STOCK]
    assert tokens["8 frames"] == whole // 2
    assert tokens["140 x 140 pixels"] * 36 == whole * 25
    assert len({row.name for row in rows()}) == len(rows())
    assert all(asker.seconds(row, asker.medium(row)) > 0 for row in rows()[:1])


def test_a_candidate_stands_beside_the_fastest_control_that_takes_as_long() -> None:
    kinds = {"a": "candidate", "b": "candidate", "slow": "control", "near": "control", "quick": "control"}
    seconds = {"a": 5.0, "b": 9.0, "slow": 8.0, "near": 5.0, "quick": 4.0}
    assert beside(seconds, kinds) == {"a": "near", "b": None}


def test_the_page_shows_the_record(tmp_path: Path) -> None:
    right: dict[str, Any] = {row.name: {"1": [True, True], "2": [True, row.kind != "control"]} for row in rows()}
    seconds = {row.name: 1.0 if row.kind == "base" else 0.5 for row in rows()}
    found = summarise(seconds, right)
    ours = next(each for each in found if each["kind"] == "candidate")
    assert ours["over_control"] == 0.25
    assert ours["points"] == 0
    record = {"rows": found, "videos": 2, "questions": 4, "seeds": [1, 2], "command": "c", "commit": "d" * 40,
              "milliseconds": {name: 1000 * each for name, each in seconds.items()}, "timed": {"clips": 1, "rounds": 1,
              "threads": 1}, "agreement": {"early": [], "reuse_threshold": []}}  # fmt: skip
    (tmp_path / MOVING).write_text(json.dumps(record))
    table = vision_tables(tmp_path)["moving camera"]
    assert all(row.name in table for row in rows())
    shutil.rmtree(tmp_path)
    assert "research.moving_camera" in vision_tables(tmp_path)["moving camera"]
