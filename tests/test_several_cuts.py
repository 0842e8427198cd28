"""PyramidDrop, SparseVLM, SparseVLM+ in a model: equal to recomputing without a cache, masking, and the stock model."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from prunevid_qwen.cli.report import tokens_table
from prunevid_qwen.config import FastVOptions, PruneVidConfig, PyramidDropOptions, SparseVLMOptions
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.forward.plan import compile_plan
from prunevid_qwen.model import PruneVidQwen25VL
from prunevid_qwen.needs import Evidence
from prunevid_qwen.stage2_select import PyramidDrop, SparseVLM, SparseVLMPlus
from prunevid_qwen.tokens import TokenMap
from tests.families import ATTENDING, FAMILIES, crossed, family_inputs, family_model, member
from tests.models import CASES, MIXED, ONE_VIDEO, RAGGED, make_inputs, tiny_model
from tests.pruned_generation import OUT, same_logits, text_follow_up
from tests.recomputing import recomputed
from tests.step_plans import oracle
from tests.test_family_oracles import identical
from tests.tolerances import LOGITS, spacing


def config(selector: str, **options: Any) -> PruneVidConfig:
    return PruneVidConfig(**{"merger": None, "selector": selector, **options})


RECYCLES = {"kept": (0.6, 0.4, 0.2)}
WHOLE = {
    "pyramiddrop": config("pyramiddrop", compress_cache=False),
    "pyramiddrop, behind stage 1": config("pyramiddrop", merger="uniform", compress_cache=False),
    "pyramiddrop, by average": config("pyramiddrop", keep_ratio=0.7, compress_cache=False),
    "sparsevlm": config("sparsevlm", **RECYCLES),
    "sparsevlm, behind stage 1": config("sparsevlm", merger="uniform", **RECYCLES),
    "sparsevlm, table": config("sparsevlm"),
    "sparsevlm, rank": config("sparsevlm", schedule="rank", layers=(1, 2, 4)),
    "sparsevlm, one cut": config("sparsevlm", keep_ratio=0.6, layers=3),
    "sparsevlm_plus": config("sparsevlm_plus", compress_cache=False, **RECYCLES),
    "sparsevlm, last layer": config("sparsevlm", kept=(0.6, 0.3), layers=(1, 6)),
}
CUT = {
    "pyramiddrop": config("pyramiddrop"),
    "sparsevlm without recycling": config("sparsevlm", recycle=0.0, **RECYCLES),
    "sparsevlm_plus, cut": config("sparsevlm_plus", retained_tokens=64),
}
ATTENTION = pytest.mark.parametrize("attention", ["sdpa", "eager"])


@pytest.fixture
def decisions_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """No decision may hang on rounding: evidence that is off as two routes may differ leads to the same map."""
    numbers = torch.Generator().manual_seed(0)

    def near(x: Tensor) -> Tensor:
        finite = x.isfinite()
        step = LOGITS[x.dtype] * spacing(float(x[finite].abs().max()), x.dtype)
        return torch.where(finite, x + step * (2 * torch.rand(x.shape, generator=numbers) - 1), x)

    def apart(real: Any) -> Any:
        def plan(self: Any, seen: Evidence) -> TokenMap:
            done = real(self, seen)
            for _ in range(3):
                assert seen.attention is not None
                other = real(self, replace(seen, attention=near(seen.attention), hidden=near(seen.hidden)))
                assert torch.equal(done.target, other.target), "evidence is too near for what follows to be compared"
            return done

        return plan

    for method in (PyramidDrop, SparseVLM, SparseVLMPlus):
        monkeypatch.setattr(method, "plan", apart(method.plan))


def cuts(trace: Any, count: int) -> bool:
    rows = [row for row in trace.samples if row.tokens]
    acted = all(sum(each.at >= 0 for each in row.reductions) == count for row in rows)
    return acted and all(row.after_stage2 < row.after_stage1 for row in rows if row.after_stage1 > len(row.blocks))


# ---- caches that stay whole


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("what", WHOLE)
def test_decoding_is_recomputing(what: str, case: str) -> None:
    with pruned(tiny_model(), WHOLE[what]) as trace:
        out = tiny_model().generate(**make_inputs(CASES[case]), max_new_tokens=4, do_sample=False, **OUT)
    assert cuts(trace, len(WHOLE[what].selector.layers_for(6))) or case == "one_shrinks"
    for b, wanted in enumerate(recomputed(CASES[case], out.sequences, trace)):
        same_logits(torch.stack(out.logits, 1)[b], wanted)


@pytest.mark.parametrize(
    ("what", "family"),
    crossed(
        ["pyramiddrop", "sparsevlm", "sparsevlm, behind stage 1", "sparsevlm_plus"],
        "sparsevlm, behind stage 1",
        ATTENDING[1:],
    ),
)
def test_decoding_is_recomputing_in_every_family(what: str, family: str) -> None:
    model, samples = family_model(family), FAMILIES[family].cases["batch"]
    with pruned(model, WHOLE[what].replace(**({} if WHOLE[what].merger is None else merging(family)))) as trace:
        out = model.generate(**family_inputs(family, "batch"), max_new_tokens=4, do_sample=False, **OUT)
    assert cuts(trace, 3)
    for b, wanted in enumerate(recomputed(samples, out.sequences, trace, family)):
        same_logits(torch.stack(out.logits, 1)[b], wanted)


@pytest.mark.parametrize("what", ["pyramiddrop", "pyramiddrop, by average", "sparsevlm", "sparsevlm_plus"])
def test_places_may_be_packed_as_in_the_authors_code(what: str) -> None:
    model, plan = family_model("llava"), replace(compile_plan(WHOLE[what], 6), places="packed")
    with pruned(model, plan) as trace:
        out = model.generate(**family_inputs("llava", "batch"), max_new_tokens=4, do_sample=False, **OUT)
    assert cuts(trace, 3)
    for b, wanted in enumerate(recomputed(FAMILIES["llava"].cases["batch"], out.sequences, trace, "llava", plan)):
        same_logits(torch.stack(out.logits, 1)[b], wanted)


def merging(family: str) -> dict[str, Any]:
    return {name: value for name, value in FAMILIES[family].options.items() if name == "merge_images"}


@pytest.mark.parametrize("what", ["pyramiddrop", "sparsevlm"])
def test_decoding_is_recomputing_under_the_eager_kernel(what: str) -> None:
    with pruned(tiny_model("eager"), WHOLE[what]) as trace:
        out = tiny_model("eager").generate(**make_inputs(MIXED), max_new_tokens=4, do_sample=False, **OUT)
    for b, wanted in enumerate(recomputed(MIXED, out.sequences, trace)):
        same_logits(torch.stack(out.logits, 1)[b], wanted)


@pytest.mark.parametrize("what", ["pyramiddrop", "sparsevlm"])
def test_a_text_follow_up_goes_on(what: str) -> None:
    second, trace = text_follow_up(tiny_model(), make_inputs(ONE_VIDEO), WHOLE[what])
    (wanted,) = recomputed(ONE_VIDEO, second.sequences, trace)
    same_logits(torch.stack(second.logits, 1)[0], wanted[-4:])


def test_recycled_tokens_are_in_the_model() -> None:
    with torch.no_grad(), pruned(tiny_model(), WHOLE["sparsevlm"]) as trace:
        tiny_model()(**make_inputs(RAGGED))
    for row in trace.samples:
        for each in row.reductions:
            assert not each.map.is_selection and int((each.map.target >= 0).sum()) > each.map.n_out
    assert [each.at for each in trace.samples[0].reductions] == [0, 1, 2]


# ---- caches that are cut


@ATTENTION
@pytest.mark.parametrize("what", CUT)
def test_dropping_is_masking(what: str, attention: str) -> None:
    for case in (RAGGED, MIXED):
        with pruned(tiny_model(attention), CUT[what]) as trace:
            out = tiny_model(attention).generate(**make_inputs(case), max_new_tokens=4, do_sample=False, **OUT)
        assert cuts(trace, 3)
        for b, wanted in enumerate(oracle(case, out.sequences, trace, compile_plan(CUT[what], 6))):
            same_logits(torch.stack(out.logits, 1)[b], wanted)


# ---- batches


@pytest.mark.parametrize(
    ("what", "family"),
    crossed(
        ["pyramiddrop", "sparsevlm", "sparsevlm, rank", "sparsevlm without recycling", "sparsevlm_plus, cut"],
        "sparsevlm",
        ATTENDING,
    ),
)
def test_a_batch_equals_its_members(what: str, family: str, decisions_apart: None) -> None:
    model, asked = family_model(family), {**WHOLE, **CUT}[what]
    with pruned(model, asked) as trace:
        together = model.generate(**family_inputs(family, "batch"), max_new_tokens=4, do_sample=False, **OUT)
        samples = trace.samples
        for b, row in enumerate(samples):
            alone = model.generate(**member(family, "batch", b), max_new_tokens=4, do_sample=False, **OUT)
            for one, other in zip(row.reductions, trace.samples[0].reductions, strict=True):
                assert torch.equal(one.map.target, other.map.target) and torch.equal(one.map.rep, other.map.rep)
            same_logits(torch.stack(together.logits, 1)[b], torch.stack(alone.logits, 1)[0])


@pytest.mark.parametrize("what", ["pyramiddrop", "sparsevlm"])
def test_copies_of_a_row_are_cut_alike(what: str) -> None:
    with pruned(tiny_model(), WHOLE[what]) as trace:
        tiny_model().generate(**make_inputs(ONE_VIDEO), max_new_tokens=1, do_sample=False)
        alone = trace.samples[0]
        tiny_model().generate(**make_inputs(ONE_VIDEO), max_new_tokens=3, num_beams=2, do_sample=False)
    assert len(trace.samples) == 2
    for row in trace.samples:
        for one, other in zip(row.reductions, alone.reductions, strict=True):
            assert torch.equal(one.map.target, other.map.target)


# ---- nothing dropped


WHOLE_SHARES: list[tuple[str, dict[str, Any]]] = [
    ("pyramiddrop", {"ratios": (1.0, 1.0, 1.0)}), ("pyramiddrop", {"keep_ratio": 1.0}),
    ("sparsevlm_plus", {"keep_tokens": 999}), ("sparsevlm_plus", {"keep_ratio": 1.0}),
    ("sparsevlm", {"keep_tokens": 999}), ("sparsevlm", {"keep_ratio": 1.0}),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "family"), crossed(WHOLE_SHARES, WHOLE_SHARES[-1], ATTENDING), ids=str)
def test_three_steps_that_keep_everything_are_the_stock_model(asked: tuple[str, dict[str, Any]], family: str) -> None:
    plan = compile_plan(config(asked[0], position_scheme="hf", **asked[1]), 6)
    assert len(plan.steps) == 3
    identical(family, "batch", "greedy", plan, family_model(family))


# ---- what a receipt says


def test_a_receipt_has_a_row_for_each_cut() -> None:
    video = np.random.default_rng(0).integers(0, 255, (8, 56, 56, 3), dtype=np.uint8)
    for what, at in ((WHOLE["sparsevlm"], [0, 1, 3]), (config("pyramiddrop", keep_ratio=0.6), [1, 3, 5])):
        model = PruneVidQwen25VL("bundled", what, device="cpu", dtype="float32")
        stats = model.generate(video, "what color is the circle ?", max_new_tokens=1, return_stats=True)["stats"]
        rows = [(row["name"], row["where"]) for row in stats["steps"]]
        assert rows == [(what.selector_name, f"layer {layer}") for layer in at]
        assert all(one["tokens_out"] == other["tokens_in"] for one, other in pairwise(stats["steps"]))
        table = Console(file=io.StringIO(), width=200)
        table.print(tokens_table(stats))
        shown = table.file.getvalue()
        assert all(
            re.search(rf"layer {row['where'][6:]}\b.*\b{row['tokens_out']}\b", shown) for row in stats["steps"][:-1]
        )
        last, two = stats["steps"][-1], stats["stage2"]
        assert (two["layer"], two["original_tokens"], two["kept_tokens"]) == (
            at[-1],
            last["tokens_in"],
            last["tokens_out"],
        )
        assert two["applied"] and two["requested_ratio"] is None and two["requested_tokens"] is None
        assert stats["stage3"]["applied"] == what.compress_cache == (what.selector_name == "pyramiddrop")
        assert what.compress_cache or "sparsevlm" in stats["stage3"]["note"]
        if what.selector.keep_ratio is not None:
            share = stats["tokens"]["layer_average"] / stats["tokens"]["after_stage1"]
            assert 0 <= what.selector.keep_ratio - share < 3 / stats["tokens"]["after_stage1"]


def test_a_last_cut_that_dropped_nothing_does_not_speak_for_those_before_it() -> None:
    video = np.zeros((4, 112, 112, 3), dtype=np.uint8)
    for selector, n, left, words in (
        (PyramidDropOptions(ratios=(0.5, 0.25, 0.25)), 3, 8, ("3 cuts",)),
        (PyramidDropOptions(keep_tokens=99), 3, 32, ("keep_tokens=99",)),
        (SparseVLMOptions(keep_tokens=99), 3, 32, ("keep_tokens=99",)),
    ):
        model = PruneVidQwen25VL("bundled", PruneVidConfig(merger=None, selector=selector), device="cpu")
        stats = model.generate(video, "what color is the circle ?", max_new_tokens=1)["stats"]
        assert (len(stats["steps"]), stats["steps"][-1]["tokens_out"]) == (n, left)
        assert not stats["stage2"]["applied"] and all(word in stats["stage2"]["note"] for word in words)


def test_a_cut_that_another_method_left_nothing_to_do_is_no_failure() -> None:
    video = np.zeros((16, 112, 112, 3), dtype=np.uint8)
    methods = [PyramidDropOptions(), FastVOptions(keep_ratio=0.25, layers=5)]  # of 128 tokens 16 may be left at last
    stats = PruneVidQwen25VL("bundled", methods, device="cpu").generate(video, "what ?", max_new_tokens=1)["stats"]
    assert [row["tokens_out"] for row in stats["steps"]] == [64, 32, 8, 8]
