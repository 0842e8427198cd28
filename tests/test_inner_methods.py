"""VScan, HoliTom and DART in a model: equal to masking or recomputing, to each row alone, and to the stock model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.forward.plan import Plan, compile_plan
from prunevid_qwen.needs import Evidence
from prunevid_qwen.stage2_select import DART, HoliTom, VScan
from prunevid_qwen.tokens import TokenMap
from tests.families import ATTENDING, FAMILIES, crossed, family_inputs, family_model, member
from tests.models import CASES, make_inputs, tiny_model
from tests.pruned_generation import OUT, same_logits
from tests.recomputing import recomputed
from tests.step_plans import oracle
from tests.test_family_oracles import identical
from tests.tolerances import CLOSE, spacing

METHODS: dict[str, PruneVidConfig] = {
    name: PruneVidConfig(**{"merger": None, **options})
    for name, options in {
        "vscan": {"selector": "vscan"},
        "vscan with rotary embedding": {"selector": "vscan", "attention_source": "post_rope", "compress_cache": False},
        "holitom": {"selector": "holitom"},
        "holitom, behind stage 1": {"merger": "uniform", "selector": "holitom", "layers": 1, "keep_ratio": 0.3},
        "dart": {"selector": "dart"},
        "dart, last layer": {"selector": "dart", "layers": 6, "keep_tokens": 8, "compress_cache": False},
    }.items()
}


def merging(what: str, family: str) -> PruneVidConfig:
    config, options = METHODS[what], FAMILIES[family].options
    return config.replace(merge_images=True) if config.merger is not None and "merge_images" in options else config


@pytest.fixture
def decisions_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """No decision may hang on rounding: evidence that is off as two routes may differ leads to the same map."""
    numbers = torch.Generator().manual_seed(0)

    def near(x: Tensor | None) -> Tensor | None:
        if x is None or not x.numel():
            return x
        step = CLOSE[x.dtype] * spacing(float(x.abs().max()), x.dtype)
        return x + step * (2 * torch.rand(x.shape, generator=numbers) - 1)

    def apart(real: Any) -> Any:
        def plan(self: Any, seen: Evidence) -> TokenMap:
            done = real(self, seen)
            for _ in range(3):
                moved = {name: near(getattr(seen, name)) for name in ("attention", "hidden", "keys", "question_keys")}
                other = real(self, replace(seen, **moved))
                assert torch.equal(done.target, other.target), "evidence is too near for what follows to be compared"
            return done

        return plan

    for method in (VScan, HoliTom, DART):
        monkeypatch.setattr(method, "plan", apart(method.plan))


def acts(trace: Any) -> bool:
    rows = [row for row in trace.samples if row.tokens]
    return bool(rows) and all(row.after_stage2 < row.after_stage1 for row in rows)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("what", METHODS)
def test_decoding_is_masking_or_recomputing(what: str, case: str) -> None:
    plan = compile_plan(METHODS[what], 6)
    with pruned(tiny_model(), METHODS[what]) as trace:
        out = tiny_model().generate(**make_inputs(CASES[case]), max_new_tokens=4, do_sample=False, **OUT)
    law = oracle(CASES[case], out.sequences, trace, plan) if plan.compress else recomputed(
        CASES[case], out.sequences, trace, plan=plan
    )  # fmt: skip
    for b, wanted in enumerate(law):
        same_logits(torch.stack(out.logits, 1)[b], wanted)
    merged = [each.map for row in trace.samples for each in row.reductions if each.at >= 0]
    assert any(not each.is_selection for each in merged) == (METHODS[what].selector_name == "holitom")


@pytest.mark.parametrize(("what", "family"), crossed(METHODS, "holitom", ATTENDING[1:]))
def test_decoding_is_recomputing_in_every_family(what: str, family: str) -> None:
    model, config = family_model(family), merging(what, family)
    plan = Plan(compress=config.compress_cache)
    with pruned(model, config) as trace:
        out = model.generate(**family_inputs(family, "batch"), max_new_tokens=4, do_sample=False, **OUT)
    assert acts(trace)
    for b, wanted in enumerate(recomputed(FAMILIES[family].cases["batch"], out.sequences, trace, family, plan)):
        same_logits(torch.stack(out.logits, 1)[b], wanted)


@pytest.mark.parametrize(("what", "family"), crossed(METHODS, "dart", ATTENDING))
def test_a_batch_equals_its_members(what: str, family: str, decisions_apart: None) -> None:
    model, config = family_model(family), merging(what, family)
    with pruned(model, config) as trace:
        together = model.generate(**family_inputs(family, "batch"), max_new_tokens=4, do_sample=False, **OUT)
        samples = trace.samples
        for b, row in enumerate(samples):
            alone = model.generate(**member(family, "batch", b), max_new_tokens=4, do_sample=False, **OUT)
            for one, other in zip(row.reductions, trace.samples[0].reductions, strict=True):
                assert torch.equal(one.map.target, other.map.target) and torch.equal(one.map.rep, other.map.rep)
            same_logits(torch.stack(together.logits, 1)[b], torch.stack(alone.logits, 1)[0])


@pytest.mark.parametrize(("selector", "family"), crossed(["vscan", "holitom", "dart"], "dart", ATTENDING))
@pytest.mark.parametrize("options", [{"keep_ratio": 1.0}, {"keep_tokens": 999}], ids=str)
def test_all_kept_is_the_stock_model(selector: str, options: dict[str, Any], family: str) -> None:
    plan = compile_plan(PruneVidConfig(merger=None, selector=selector, position_scheme="hf", **options), 6)
    identical(family, "batch", "greedy", plan, family_model(family))
