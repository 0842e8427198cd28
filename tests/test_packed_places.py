"""Packed places: after each step positions are counted anew. The oracle recomputes without a cache and counts, too."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch

from prunevid_qwen.adapters.seams import cache_of
from prunevid_qwen.errors import ConfigError, UnsupportedError
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.forward.plan import Plan, Step
from prunevid_qwen.needs import Evidence, Needs
from prunevid_qwen.stage2_select import Uniform
from prunevid_qwen.tokens import TokenMap
from prunevid_qwen.tokens.trace import DOOR
from tests import flash_attention
from tests.families import FAMILIES, family_inputs, family_model, member
from tests.looking import NextLayer, Rated
from tests.models import CACHE, VOCAB, tiny_model
from tests.recomputing import recomputed
from tests.tolerances import LOGITS, close, tokens_apart

FAMILY = "llava"
OUT: dict[str, Any] = {"return_dict_in_generate": True, "output_logits": True}


class Pairs:
    """Puts every second token of a block into the group of the one before it."""

    merges = True
    needs = Needs()

    def plan(self, seen: Evidence) -> TokenMap:
        sizes = [block.stop - block.start for block in seen.layout.blocks]
        return TokenMap.concat([TokenMap(torch.arange(n) // 2, torch.arange(0, n, 2)) for n in sizes])


CUTS = (Step(0, NextLayer(0.8)), Step(2, Rated(0.7)), Step(4, Uniform(0.6)))
PLANS = {
    "cuts": Plan(CUTS, places="packed"),
    "cuts, whole caches": Plan(CUTS, compress=False, places="packed"),
    "door": Plan((Step(DOOR, NextLayer(0.6)),), places="packed"),
    "door and cuts": Plan((Step(DOOR, NextLayer(0.8)), *CUTS), places="packed"),
    "merges": Plan((Step(DOOR, Pairs()), Step(1, Pairs()), Step(3, NextLayer(0.7))), compress=False, places="packed"),
    "last layer": Plan((Step(1, Uniform(0.7)), Step(5, Uniform(0.7))), compress=False, places="packed"),
}
EVERY = pytest.mark.parametrize("plan", PLANS)
TWO = pytest.mark.parametrize("plan", ["door and cuts", "merges"])


def right(samples: Any, out: Any, trace: Any, plan: Plan) -> None:
    assert any(each.map.n_out < each.map.n_in for row in trace.samples for each in row.reductions)
    for b, wanted in enumerate(recomputed(samples, out.sequences, trace, FAMILY, plan)):
        close(torch.stack(out.logits, 1)[b], wanted, LOGITS)


@EVERY
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_it_is_recomputing_with_places_counted_anew(plan: str, attention: str) -> None:
    with pruned(family_model(FAMILY, attention), PLANS[plan]) as trace:
        out = family_model(FAMILY, attention).generate(
            **family_inputs(FAMILY, "batch"), max_new_tokens=5, do_sample=False, **OUT
        )
    right(FAMILIES[FAMILY].cases["batch"], out, trace, PLANS[plan])


def test_places_make_a_difference() -> None:
    logits = []
    for places in ("kept", "packed"):
        with pruned(family_model(FAMILY), replace(PLANS["cuts"], places=places)), torch.no_grad():
            logits.append(family_model(FAMILY)(**family_inputs(FAMILY, "one")).logits[:, -1])
    assert not torch.allclose(*logits, atol=1e-4)


@TWO
def test_flash_attention_path(monkeypatch: pytest.MonkeyPatch, plan: str) -> None:
    flash_attention.install(monkeypatch)
    model = flash_attention.flash_model(family_model(FAMILY, "eager"))
    with pruned(model, PLANS[plan]) as trace:
        out = model.generate(**family_inputs(FAMILY, "one"), max_new_tokens=4, do_sample=False, **OUT)
    right(FAMILIES[FAMILY].cases["one"], out, trace, PLANS[plan])


@TWO
def test_a_batch_equals_its_members(plan: str) -> None:
    with pruned(family_model(FAMILY), PLANS[plan]):
        together = family_model(FAMILY).generate(
            **family_inputs(FAMILY, "batch"), max_new_tokens=4, do_sample=False, **OUT
        )
        for b in range(3):
            alone = family_model(FAMILY).generate(
                **member(FAMILY, "batch", b), max_new_tokens=4, do_sample=False, **OUT
            )
            close(torch.stack(together.logits, 1)[b], torch.stack(alone.logits, 1)[0], LOGITS)


@TWO
def test_beams(plan: str) -> None:
    """Of one image: before 5.18 the library gives beams of a prompt with two the first one twice."""
    model = family_model(FAMILY)
    with pruned(model, PLANS[plan]) as trace:
        model.generate(**family_inputs(FAMILY, "one"), max_new_tokens=2, do_sample=False)
        alone = trace.samples
        out = model.generate(
            **family_inputs(FAMILY, "one"), max_new_tokens=4, num_beams=3, do_sample=False, output_scores=True,
            return_dict_in_generate=True,
        )  # fmt: skip
    prompt = family_inputs(FAMILY, "one")["input_ids"].shape[1]
    trace.samples = alone
    for b, logits in enumerate(recomputed(FAMILIES[FAMILY].cases["one"], out.sequences, trace, FAMILY, PLANS[plan])):
        log_p = logits.log_softmax(-1)[range(4), out.sequences[b, prompt:]]
        close(log_p.mean(), out.sequences_scores[b])


@TWO
def test_sampling_and_assisted_decoding(plan: str) -> None:
    model, inputs = family_model(FAMILY), family_inputs(FAMILY, "one")
    inputs["input_ids"][0, -6:] = inputs["input_ids"][0, -6:-3].repeat(2)  # so that candidates are found
    with pruned(model, PLANS[plan]) as trace:
        torch.manual_seed(3)
        out = model.generate(
            **family_inputs(FAMILY, "one"), max_new_tokens=4, do_sample=True, num_return_sequences=2, **OUT
        )
        trace.samples = trace.samples[:1]
        for row in range(2):
            (wanted,) = recomputed(
                FAMILIES[FAMILY].cases["one"], out.sequences[row : row + 1], trace, FAMILY, PLANS[plan]
            )
            close(torch.stack(out.logits, 1)[row], wanted, LOGITS)
        greedy = model.generate(**inputs, max_new_tokens=10, do_sample=False, **OUT)
        tokens_apart(greedy.logits)
        lookup = model.generate(**inputs, max_new_tokens=10, do_sample=False, prompt_lookup_num_tokens=3)
    assert torch.equal(lookup, greedy.sequences)


@EVERY
def test_a_text_follow_up_and_calls_by_hand(plan: str) -> None:
    """The second turn goes on from the packed cache, by `generate` and by hand, where nobody passes positions."""
    model, inputs = family_model(FAMILY), family_inputs(FAMILY, "one")
    with pruned(model, PLANS[plan]) as trace, torch.no_grad():
        first = model.generate(**inputs, max_new_tokens=3, do_sample=False, **OUT)
        samples = trace.samples
        asked = torch.randint(10, VOCAB, (1, 4), generator=torch.Generator().manual_seed(3))
        ids = torch.cat([first.sequences, asked], 1)
        second = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), **{CACHE: copy.deepcopy(cache_of(first))},
            max_new_tokens=3, do_sample=False, **OUT,
        )  # fmt: skip
        new = ids[:, cache_of(first).get_seq_length() :]
        by_hand = model(input_ids=new, **{CACHE: cache_of(first)}).logits[:, -1]
        trace.samples = samples
    (wanted,) = recomputed(FAMILIES[FAMILY].cases["one"], second.sequences, trace, FAMILY, PLANS[plan])
    close(torch.stack(second.logits, 1)[0], wanted[-3:], LOGITS)
    close(by_hand, second.logits[0], LOGITS)


def test_rows_of_a_cache_take_their_places_along() -> None:
    model, inputs = family_model(FAMILY), family_inputs(FAMILY, "batch")
    grown = torch.nn.functional.pad(inputs["attention_mask"], (0, 1), value=1)
    tokens, positions = torch.tensor([[20], [30], [40]]), grown.sum(1, keepdim=True) - 1
    with pruned(model, PLANS["door and cuts"]), torch.no_grad():
        held = cache_of(model(**inputs))

        def step(cache: Any, rows: list[int]) -> torch.Tensor:
            given = {"attention_mask": grown[rows], "position_ids": positions[rows]}
            return model(input_ids=tokens[rows], **{CACHE: cache}, **given).logits[:, -1]  # type: ignore[no-any-return]

        wanted = step(copy.deepcopy(held), [0, 1, 2])
        for name, given, rows in (
            ("reorder_cache", torch.tensor([2, 0, 1]), [2, 0, 1]), ("batch_select_indices", torch.tensor([1]), [1]),
            ("batch_repeat_interleave", 2, [0, 0, 1, 1, 2, 2]),
        ):  # fmt: skip
            cache = copy.deepcopy(held)
            getattr(cache, name)(given)
            close(step(cache, rows), wanted[rows], LOGITS)
        cache = copy.deepcopy(held)
        step(cache, [0, 1, 2])
        cache.crop(-1)
        close(step(cache, [0, 1, 2]), wanted, LOGITS)


def test_after_a_cached_prefix_it_is_counted_on() -> None:
    """The prefix keeps its places, and the prompt behind it is counted from where it begins."""
    model, inputs = family_model(FAMILY), family_inputs(FAMILY, "one")
    whole = torch.cat([torch.tensor([[20, 21, 22]]), inputs["input_ids"]], 1)
    logits = []
    for split in (False, True):
        with pruned(model, PLANS["door and cuts"]), torch.no_grad():
            cache = cache_of(model(input_ids=whole[:, :3])) if split else None
            given = {"input_ids": whole[:, 3:] if split else whole, "attention_mask": torch.ones_like(whole)}
            out = model(**{**inputs, **given}, **({CACHE: cache} if split else {}))
            more = model(input_ids=torch.tensor([[30]]), **{CACHE: cache_of(out)})
            logits += [out.logits[:, -1], more.logits[:, -1]]
    close(logits[2], logits[0], LOGITS)
    close(logits[3], logits[1], LOGITS)


def test_rows_of_unlike_length_behind_a_prefix() -> None:
    model, prefix = family_model(FAMILY), torch.tensor([[20, 21, 22]])

    def answer(inputs: dict[str, Any]) -> torch.Tensor:
        mask = torch.nn.functional.pad(inputs["attention_mask"], (3, 0), value=1)
        rows = len(mask)
        with pruned(model, PLANS["door and cuts"]), torch.no_grad():
            cache = cache_of(model(input_ids=prefix.expand(rows, -1)))
            given = {"attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).masked_fill(mask == 0, 0)[:, 3:]}
            logits: torch.Tensor = model(**{**inputs, **given, CACHE: cache}).logits[:, -1]
        return logits

    together = answer(family_inputs(FAMILY, "batch"))
    for b in range(3):
        close(together[b], answer(member(FAMILY, "batch", b))[0], LOGITS)


def test_keeping_everything_is_the_stock_model() -> None:
    model, given = family_model(FAMILY), {"max_new_tokens": 5, "do_sample": False, **OUT}
    stock = model.generate(**family_inputs(FAMILY, "batch"), **given)
    plan = Plan((Step(DOOR, Uniform(1.0)), Step(1, NextLayer(1.0)), Step(3, Uniform(1.0))), places="packed")
    with pruned(model, plan):
        ours = model.generate(**family_inputs(FAMILY, "batch"), **given)
    assert all(torch.equal(a, b) for a, b in zip(stock.logits, ours.logits, strict=True))


def test_a_cache_goes_on_under_its_own_plan_alone() -> None:
    model = family_model(FAMILY)
    with torch.no_grad():
        with pruned(model, PLANS["cuts"]):
            cache = cache_of(model(**family_inputs(FAMILY, "one")))
        with pruned(model, Plan(CUTS[:2])), pytest.raises(UnsupportedError, match="4"):
            model(input_ids=torch.tensor([[20]]), **{CACHE: cache})


def test_positions_that_tell_more_are_not_packed() -> None:
    with pytest.raises(ConfigError, match="packed"), pruned(tiny_model(), Plan(CUTS, places="packed")):
        pass
    with pytest.raises(ConfigError, match="'close'"):
        Plan(places="close")
