"""A receipt has exactly the keys and types that are described, whatever was shown and however it was pruned."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prunevid_qwen import Plan, PruneVidConfig, PruneVidQwen25VL, Step, get_baseline_config
from prunevid_qwen.answers.stage_log import stage_lines
from prunevid_qwen.cli.report import comparison_table, details, times_line, tokens_table
from prunevid_qwen.config import FastVOptions
from prunevid_qwen.inputs.qwen.media import MediaReader
from prunevid_qwen.inputs.qwen.pixels import PixelOptions
from prunevid_qwen.moving_shapes import make_scene
from prunevid_qwen.moving_shapes.drawing import render
from prunevid_qwen.receipt.keys import SCHEMA, TABLES
from prunevid_qwen.stage1_merge import Pool
from prunevid_qwen.stage2_select import Uniform
from research.pages import block_names
from tests.receipts import differences

PAGE = Path(__file__).parents[1] / "docs" / "receipt.md"
ASKED = "what color is the circle ?"
THREE = Plan((Step(-1, Pool(0.5)), Step(1, Uniform(0.8)), Step(3, Uniform(0.5), "last")))
METHODS: dict[str, Any] = {
    "config": PruneVidConfig(min_cluster_tokens=1),
    "off": get_baseline_config(),
    "threshold": PruneVidConfig(merger="rlt", selector="glimpse"),
    "count": PruneVidConfig(enable_stage1=False, keep_tokens=9),
    "plan": THREE,
    "list": [FastVOptions()],
}


@pytest.fixture(scope="module")
def clip() -> np.ndarray[Any, Any]:
    return np.stack(render(make_scene(1), 8))


@pytest.fixture(scope="module")
def model() -> PruneVidQwen25VL:
    made = PruneVidQwen25VL("bundled", device="cpu")
    small = PixelOptions(min_pixels=56 * 56, max_pixels=112 * 112)
    made.preprocessor.media = MediaReader(small, small)
    return made


@pytest.mark.parametrize("method", METHODS)
def test_keys_and_types_whatever_prunes(model: PruneVidQwen25VL, clip: Any, method: str) -> None:
    stats = model.with_config(METHODS[method]).generate(clip, ASKED, max_new_tokens=1)["stats"]
    assert list(differences(stats)) == []
    assert stats["schema"] == SCHEMA == 2
    assert (stats["config"] is None) == (stats["methods"] is None)
    assert (stats["config"] is None) == (stats["plan"] is not None) == (method in ("plan", "list"))
    assert json.loads(json.dumps(stats)) == stats


@pytest.mark.parametrize("shown", ["text", "images", "several", "batch", "prepared", "follow-up"])
def test_keys_and_types_whatever_is_shown(model: PruneVidQwen25VL, clip: Any, shown: str) -> None:
    given: dict[str, Any] = {"max_new_tokens": 2}
    if shown == "text":
        results = [model.generate(None, ASKED, **given)]
    elif shown == "images":
        results = [model.generate(None, ASKED, images=[clip[0], clip[1]], **given)]
    elif shown == "several":
        results = [model.generate([clip, clip], ASKED, images=clip[0], **given)]
    elif shown == "batch":
        results = model.generate(clip, [ASKED, "how many shapes are there ?"], **given)
    elif shown == "prepared":
        results = [model.answer(model.prepare(clip, ASKED), **given)]
    else:
        first = {"role": "user", "content": [{"type": "video", "video": clip}, {"type": "text", "text": ASKED}]}
        result = model.generate(messages=[first], return_dict_in_generate=True, **given)
        talk = [first, {"role": "assistant", "content": result["answer"]}, {"role": "user", "content": ASKED}]
        results = [model.generate(messages=talk, past_key_values=result["past_key_values"], **given)]
    for result in results:
        assert list(differences(result["stats"])) == []


def test_several_steps_all_stand_there_and_stage_2_is_the_last(model: PruneVidQwen25VL, clip: Any) -> None:
    stats = model.with_config(THREE).generate(clip, ASKED, max_new_tokens=1)["stats"]
    rows = stats["steps"]
    assert [(row["name"], row["where"]) for row in rows] == [
        ("Pool", "door"), ("Uniform", "layer 1"), ("last", "layer 3"),
    ]  # fmt: skip
    assert [row["tokens_out"] for row in rows[:-1]] == [row["tokens_in"] for row in rows[1:]]
    last = rows[-1]
    assert (stats["stage2"]["selector"], stats["stage2"]["layer"]) == ("last", 3)
    two = stats["stage2"]
    assert (two["original_tokens"], two["kept_tokens"]) == (last["tokens_in"], last["tokens_out"])
    assert stats["stage1"]["merger"] == "Pool" and stats["stage1"]["requested_ratio"] == 0.5
    assert stats["plan"]["steps"][1] == {
        "name": "Uniform", "at": 1, "options": {"keep_ratio": 0.8, "layers": None, "keep_tokens": None},
    }  # fmt: skip


def test_a_difference_is_found() -> None:
    for wrong, where in (({"schema": "2"}, "schema"), ({"steps": {}}, "steps"), ({"config": 3}, "config")):
        assert any(where in each for each in differences(wrong))
    assert len(list(differences({}))) == 19


def test_receipts_of_01_are_still_read(model: PruneVidQwen25VL, clip: Any) -> None:
    old = copy.deepcopy(model.generate(clip, ASKED, max_new_tokens=1)["stats"])
    for name in ("schema", "steps", "plan", "methods"):
        del old[name]
    del old["stage1"]["requested_tokens"], old["stage2"]["requested_tokens"]
    assert len(stage_lines(old)) == 3
    assert tokens_table(old).row_count and comparison_table(old, old).row_count and times_line(old) and details(old)


def test_a_plans_receipt_is_shown_too(model: PruneVidQwen25VL, clip: Any) -> None:
    stats = model.with_config(THREE).generate(clip, ASKED, max_new_tokens=1)["stats"]
    assert tokens_table(stats).row_count and "Uniform" in details(stats)
    assert len(stage_lines(stats)) == len(stats["steps"]) + 1, "a line for each step, and one for the cache"


def test_the_page_is_made_from_the_types() -> None:
    assert block_names(PAGE.read_text(encoding="utf-8")) == [table.__name__.lower() for table in TABLES]
