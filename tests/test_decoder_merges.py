"""Merging between layers: equal to recomputing without a cache, with means and with weights."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from prunevid_qwen.adapters.seams import cache_of
from prunevid_qwen.errors import ConfigError, UnsupportedError
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.forward.plan import Plan, Step
from prunevid_qwen.forward.prefill import SampleState
from prunevid_qwen.reducer import AttentionQuery, Evidence, Needs, VisionTaps
from prunevid_qwen.stage2_select.uniform import Uniform
from prunevid_qwen.tokens import Block, Mix, TokenLayout, TokenMap
from prunevid_qwen.tokens.trace import DOOR, Reduction
from tests import flash_attention
from tests.models import CACHE, CASES, MIXED, ONE_VIDEO, RAGGED, VOCAB, make_inputs, tiny_model
from tests.one_row import seen_by
from tests.pruned_generation import OUT, same_logits, skip_if_the_library_mixes_beams_up
from tests.recomputing import recomputed
from tests.step_plans import MERGE
from tests.test_generation import member
from tests.tolerances import close, tokens_apart

pytestmark = pytest.mark.usefixtures("scores_apart")


class Merging:
    """Puts every second token of a block into the group of the one before it."""

    merges = True
    needs = Needs()

    def plan(self, seen: Evidence) -> TokenMap:
        maps = [self.of(block.stop - block.start, seen) for block in seen.layout.blocks]
        return TokenMap.concat(maps)

    def of(self, n: int, _seen: Evidence) -> TokenMap:
        return TokenMap(torch.arange(n) // 2, torch.arange(0, n, 2))


class Undivided(Merging):
    """The kept tokens, and each one's neighbour on top, by a weight of its own: the sum is no mean."""

    def of(self, n: int, seen: Evidence) -> TokenMap:
        plain = super().of(n, seen)
        weight = torch.where(torch.arange(n) % 2 == 0, 1.0, 0.5)
        return TokenMap(plain.target, plain.rep, mix=Mix(torch.arange(n), plain.target, weight))


class Overlapping(Merging):
    """.6 of a kept token and .4 of its two neighbours, which stand in two groups each."""

    def of(self, n: int, seen: Evidence) -> TokenMap:
        rep = torch.arange(0, n, 2)
        group = torch.arange(rep.numel())
        source = torch.cat([rep, (rep - 1).clamp(min=0), (rep + 1).clamp(max=n - 1)])
        weight = torch.cat([torch.full((rep.numel(),), 0.6), torch.full((2 * rep.numel(),), 0.2)])
        target = torch.full((n,), -1).index_copy(0, rep, group)
        return TokenMap(target, rep, mix=Mix(source, group.repeat(3), weight))


class Recycling(Merging):
    """Keeps the half that the question attends to most; two groups of what is left stand behind them."""

    needs = Needs(AttentionQuery(rows="mean"))

    def plan(self, seen: Evidence) -> TokenMap:
        assert seen.attention is not None
        maps = []
        for block in seen.layout.blocks:
            order = seen.attention[block.start : block.stop].argsort(descending=True, stable=True)
            kept, rest = order[: max(1, order.numel() // 2)].sort().values, order[max(1, order.numel() // 2) :].sort()
            groups = [half for half in rest.values.chunk(2) if half.numel()]
            target = torch.empty(order.numel(), dtype=torch.long)
            target[kept] = torch.arange(kept.numel())
            for number, half in enumerate(groups):
                target[half] = kept.numel() + number
            maps.append(TokenMap(target, torch.cat([kept, *(half[:1] for half in groups)])))
        return TokenMap.concat(maps)


METHODS = {"mean": Merging(), "undivided": Undivided(), "overlapping": Overlapping(), "recycling": Recycling()}
PLANS = {
    **{name: Plan((Step(2, by),), compress=False) for name, by in METHODS.items()},
    "three": Plan((MERGE, Step(0, Recycling()), Step(2, Uniform(0.8)), Step(4, Overlapping())), compress=False),
    "last layer": Plan((Step(5, Undivided()),), compress=False),
    "mix at the door": Plan((Step(DOOR, Overlapping()), Step(2, Merging())), compress=False),
}
PLAN = PLANS["three"]


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_merging_is_recomputing(attention: str, plan: str) -> None:
    check(tiny_model(attention), RAGGED, PLANS[plan])


@pytest.mark.parametrize("case", [case for case in CASES if case != "ragged"])
def test_every_batch(case: str) -> None:
    check(tiny_model(), CASES[case], PLAN)


def test_flash_attention_path(monkeypatch: pytest.MonkeyPatch) -> None:
    flash_attention.install(monkeypatch)
    check(flash_attention.flash_model(tiny_model("eager")), MIXED, PLAN)


def check(model: Any, samples: Any, plan: Plan) -> None:
    with pruned(model, plan) as trace:
        out = model.generate(**make_inputs(samples), max_new_tokens=6, do_sample=False, **OUT)
    assert any(row.tokens and not each.map.is_selection for row in trace.samples for each in row.reductions)
    for b, wanted in enumerate(recomputed(samples, out.sequences, trace)):
        same_logits(torch.stack(out.logits, 1)[b], wanted)


def test_a_batch_equals_its_members() -> None:
    model, inputs = tiny_model(), make_inputs(MIXED)
    with pruned(model, PLAN):
        together = model.generate(**inputs, max_new_tokens=5, do_sample=False, **OUT)
        for b in range(3):
            alone = model.generate(**member(inputs, MIXED, b), max_new_tokens=5, do_sample=False, **OUT)
            same_logits(torch.stack(together.logits, 1)[b], torch.stack(alone.logits, 1)[0])


def test_beams_and_assisted_decoding() -> None:
    skip_if_the_library_mixes_beams_up()
    model, inputs = tiny_model(), make_inputs(ONE_VIDEO)
    inputs["input_ids"][0, -6:] = inputs["input_ids"][0, -6:-3].repeat(2)  # so that candidates are found
    with pruned(model, PLAN) as trace:
        greedy = model.generate(**inputs, max_new_tokens=10, do_sample=False, **OUT)
        tokens_apart(greedy.logits)
        kept = trace.kept[0]
        lookup = model.generate(**inputs, max_new_tokens=10, do_sample=False, prompt_lookup_num_tokens=3)
        assert torch.equal(lookup, greedy.sequences)
        model.generate(**inputs, max_new_tokens=3, do_sample=False, num_beams=3)
        assert len(trace.samples) == 3 and all(torch.equal(each, kept) for each in trace.kept)
    (sample, *_) = trace.samples
    assert sample.merged is not None and sample.kept is not None
    assert torch.equal(sample.kept.take(sample.merged.rep, 0), kept), "the steps together are one after the other"


def test_a_text_follow_up() -> None:
    model, inputs = tiny_model(), make_inputs(ONE_VIDEO)
    with pruned(model, PLAN) as trace:
        first = model.generate(**inputs, max_new_tokens=4, do_sample=False, **OUT)
        samples = trace.samples
        asked = torch.randint(10, VOCAB, (1, 5), generator=torch.Generator().manual_seed(3))
        ids = torch.cat([first.sequences, asked], 1)
        second = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), **{CACHE: cache_of(first)}, max_new_tokens=4,
            do_sample=False, **OUT,
        )  # fmt: skip
        trace.samples = samples
    (wanted,) = recomputed(ONE_VIDEO, second.sequences, trace)
    same_logits(torch.stack(second.logits, 1)[0], wanted[-4:])


def test_places_of_what_was_merged_are_gone() -> None:
    inputs = make_inputs(ONE_VIDEO)
    visual = inputs["mm_token_type_ids"][0].nonzero()[:, 0]
    with torch.no_grad():
        for by in (Merging(), Overlapping()):
            with pruned(tiny_model(), Plan((Step(2, by),), compress=False)):
                text = tiny_model()(**inputs, logits_to_keep=torch.tensor([0, -1])).logits
                assert bool(text.isfinite().all())
                with pytest.raises(UnsupportedError, match=str(int(visual[0]))):
                    tiny_model()(**inputs, logits_to_keep=visual[:1])


def test_gradients_pass_a_mix() -> None:
    """Every entry gets its share, those of a token in two groups together."""
    x = torch.ones(5, 3, requires_grad=True)
    chosen = Overlapping().of(5, None)  # type: ignore[arg-type]
    chosen.mean(x).sum().backward()
    assert x.grad is not None
    close(x.grad[:, 0], torch.tensor([0.8, 0.4, 0.6, 0.4, 0.8]))
    model = copy.deepcopy(tiny_model())
    with pruned(model, Plan((Step(2, Undivided()), Step(3, Overlapping())), compress=False)):
        model(**make_inputs(ONE_VIDEO)).logits[0, -1].square().sum().backward()
    assert all(bool(layer.mlp.down_proj.weight.grad.any()) for layer in model.model.language_model.layers)


def test_what_the_vision_tower_made_is_averaged() -> None:
    """The weights are for states: what the tower made of a token is no state of the decoder."""
    places = torch.arange(8)
    layout = TokenLayout(
        8, places[:6], places[6:], (Block("image", (1, 2, 3), 0, 6),), torch.zeros(6, dtype=torch.long)
    )
    done = Undivided().of(6, None)  # type: ignore[arg-type]
    left, _ = layout.apply(done)
    row = SampleState(layout, 8, left, [Reduction(2, "", done)], taps=torch.arange(6.0).view(6, 1, 1))
    seen = seen_by(Needs(taps=VisionTaps((0,), 1)), row, torch.zeros(left.length, 4), 1)
    assert seen.taps is not None and seen.taps.flatten().tolist() == [0.5, 2.5, 4.5]


def test_caches_that_are_to_be_cut_are_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="Merging"), pruned(tiny_model(), Plan((Step(2, Merging()),))):
        pass


def test_a_mix_is_checked() -> None:
    rep, target = torch.tensor([0]), torch.tensor([0, -1])
    ones = torch.ones(1)
    for source, group, weight in (([2], [0], ones), ([0], [1], ones), ([0], [0], ones.double()), ([0, 1], [0], ones)):
        with pytest.raises((ValueError, RuntimeError)):
            TokenMap(target, rep, mix=Mix(torch.tensor(source), torch.tensor(group), weight))
    with pytest.raises(ValueError, match="unmixed"):
        TokenMap(target, rep, mix=Mix(rep, rep, ones)).then(TokenMap.identity(1))


def test_maps_with_and_without_a_mix_stand_side_by_side() -> None:
    one, other = TokenMap(torch.tensor([0, 0]), torch.tensor([0])), TokenMap.keep(torch.tensor([1]), 2)
    mixed = TokenMap(torch.tensor([0, -1]), torch.tensor([0]), mix=Mix(torch.tensor([0, 1]), torch.tensor([0, 0]),
                                                                       torch.tensor([1.0, 2.0])))  # fmt: skip
    x = torch.tensor([[1.0], [3.0], [5.0], [7.0], [9.0], [11.0]])
    assert TokenMap.concat([one, mixed, other]).mean(x).flatten().tolist() == [2.0, 19.0, 11.0]
    assert TokenMap.concat([one, mixed, other]).alone.tolist() == [False, False, True]
