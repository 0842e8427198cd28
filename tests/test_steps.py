"""A plan of several steps: every oracle of one cut holds for three, with a step at the door and without one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.adapters.seams import cache_of
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.forward.plan import Plan, Step, compile_plan
from prunevid_qwen.reducer import AttentionQuery, Evidence, Needs, Probe, VisionTaps
from prunevid_qwen.stage2_select import Uniform
from prunevid_qwen.tokens import TokenMap
from prunevid_qwen.tokens.trace import SampleTrace
from tests import flash_attention
from tests.models import CASES, MIXED, ONE_VIDEO, RAGGED, make_inputs, tiny_model
from tests.pruned_generation import OUT, same_logits
from tests.step_plans import ATTENTION, BOTH, CUTS, PLANS, Notes, oracle, shrinks
from tests.test_keep_everything import KEEP, MODES, generate

pytestmark = pytest.mark.usefixtures("scores_apart")


def check(plan: Plan, case: str, attention: str) -> None:
    model = tiny_model(attention)
    with pruned(model, plan) as trace:
        out = model.generate(**make_inputs(CASES[case]), max_new_tokens=8, do_sample=False, **OUT)
    assert shrinks(trace, plan), "the case prunes nothing, so it proves nothing"
    for b, wanted in enumerate(oracle(CASES[case], out.sequences, trace, plan)):
        same_logits(torch.stack(out.logits, 1)[b], wanted)


@pytest.mark.parametrize("plan", PLANS)
@ATTENTION
def test_dropping_is_masking(attention: str, plan: str) -> None:
    check(PLANS[plan], "ragged", attention)


@BOTH
@pytest.mark.parametrize("case", [case for case in CASES if case != "ragged"])
def test_dropping_is_masking_in_every_batch(plan: Plan, case: str) -> None:
    check(plan, case, "sdpa")


@BOTH
def test_flash_attention_path(monkeypatch: pytest.MonkeyPatch, plan: Plan) -> None:
    flash_attention.install(monkeypatch)
    model = flash_attention.flash_model(tiny_model("eager"))
    for case in (ONE_VIDEO, MIXED):
        with pruned(model, plan) as trace:
            out = model.generate(**make_inputs(case), max_new_tokens=4, do_sample=False, **OUT)
        for b, wanted in enumerate(oracle(case, out.sequences, trace, plan)):
            same_logits(torch.stack(out.logits, 1)[b], wanted)


# ---- nothing dropped


def all_kept(compress: bool) -> Plan:
    steps = compile_plan(PruneVidConfig(**KEEP), 6).steps
    return Plan((*steps, Step(3, AsksAndKeeps()), Step(4, Uniform(1.0))), compress, "hf")


class AsksAndKeeps:
    """Has its evidence gathered, and keeps everything."""

    needs = Needs(AttentionQuery(), question=True)

    def plan(self, seen: Evidence) -> TokenMap:
        assert seen.attention is not None and seen.question.shape[0]
        return TokenMap.identity(seen.hidden.shape[0])


def same(model: Any, case: str, mode: str, plan: Plan, family: str = "qwen2_5_vl") -> None:
    stock = generate(model, make_inputs(CASES[case], family=family), mode)
    with pruned(model, plan) as trace:
        ours = generate(model, make_inputs(CASES[case], family=family), mode)
    assert torch.equal(stock.sequences, ours.sequences)
    assert all(torch.equal(a, b) for a, b in zip(stock.logits, ours.logits, strict=True))
    assert all(len(row.reductions) == len(plan.steps) for row in trace.samples if row.tokens), "a step did not act"


@pytest.mark.parametrize("mode", MODES)
@ATTENTION
def test_keeping_everything_is_the_stock_model(attention: str, mode: str) -> None:
    same(tiny_model(attention), "mixed", mode, all_kept(compress=True))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen2_vl"])
def test_keeping_everything_of_every_batch(family: str, case: str) -> None:
    same(tiny_model(family=family), case, "greedy", all_kept(compress=False), family)


def test_keeping_everything_on_the_flash_attention_path(monkeypatch: pytest.MonkeyPatch) -> None:
    flash_attention.install(monkeypatch)
    same(flash_attention.flash_model(tiny_model("eager")), "mixed", "greedy", all_kept(compress=True))


def test_a_step_that_keeps_everything_between_two_that_do_not() -> None:
    steps = (CUTS[0], Step(2, Uniform(1.0)), CUTS[2])
    with pruned(tiny_model(), Plan(steps, compress=False)) as trace:
        three = generate(tiny_model(), make_inputs(RAGGED), "greedy")
    assert [span.first for span in cache_of(three).spans] == [0, 2, 5]
    assert [each.at for each in trace.samples[0].reductions] == [1, 2, 4]
    with pruned(tiny_model(), Plan((CUTS[0], CUTS[2]), compress=False)):
        two = generate(tiny_model(), make_inputs(RAGGED), "greedy")
    assert all(torch.equal(a, b) for a, b in zip(three.logits, two.logits, strict=True))


# ---- evidence


@pytest.fixture
def evidence() -> Iterator[Any]:
    model = tiny_model()
    probe = Probe(torch.randn(6, 2, 64, generator=torch.Generator().manual_seed(1)), (0, 1), adapter_for(model).heads)
    needs = Needs(probe=probe, taps=VisionTaps((0,), model.config.vision_config.hidden_size), marks=True)
    marks = [torch.rand(80, generator=torch.Generator().manual_seed(2))]

    def gather(*before: Step) -> tuple[Evidence, SampleTrace]:
        last = Notes(needs, 0.5)
        with torch.no_grad(), pruned(model, Plan((*before, Step(3, last))), marks) as trace:
            model(**make_inputs(ONE_VIDEO))
        return last.seen[0], trace.samples[0]

    yield gather


def test_evidence_from_outside_the_layers_passes_the_steps_before(evidence: Any) -> None:
    whole, _ = evidence()
    cut, sample = evidence(Step(1, Uniform(0.7)), Step(2, Uniform(0.6)))
    kept = sample.reductions[0].map.then(sample.reductions[1].map).rep
    assert kept.numel() < 80
    assert torch.equal(cut.probe, whole.probe[..., kept])
    assert torch.equal(cut.taps, whole.taps[:, kept])
    assert torch.equal(cut.marks, whole.marks[kept])


def test_who_does_not_ask_is_not_told(evidence: Any) -> None:
    before = Notes(Needs(), 0.7)
    evidence(Step(1, before))
    (seen,) = before.seen
    assert seen.probe is None and seen.taps is None and seen.marks is None and seen.attention is None
