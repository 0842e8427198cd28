"""The cache of a pruned prompt: follow-ups, hand-written loops, prefixes, and what `generate` does to its rows."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.adapters.seams import cache_of
from prunevid_qwen.forward.hooks import pruned
from tests.models import CACHE, ONE_VIDEO, RAGGED, VOCAB, make_inputs, tiny_model
from tests.pruned_generation import CONFIG, OUT, one_more_token, oracle, same_logits, text_follow_up

pytestmark = pytest.mark.usefixtures("scores_apart")


@pytest.mark.parametrize("stages", [{}, {"enable_cache_compression": False}])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_text_follow_up_on_the_returned_cache(attention: str, stages: dict[str, Any]) -> None:
    model, config, inputs = tiny_model(attention), CONFIG.replace(**stages), make_inputs(ONE_VIDEO)
    second, trace = text_follow_up(model, inputs, config)
    wanted = oracle(ONE_VIDEO, second.sequences, trace, config)[0]
    same_logits(torch.stack(second.logits, 1)[0], wanted[-4:])


@pytest.mark.parametrize("with_mask", [True, False])
def test_hand_written_loop(with_mask: bool) -> None:
    model, samples = tiny_model(), RAGGED if with_mask else ONE_VIDEO
    inputs = make_inputs(samples)
    prompt = inputs["input_ids"].shape[1]
    with pruned(model, CONFIG), torch.no_grad():
        auto = model.generate(**make_inputs(samples), max_new_tokens=5, do_sample=False, **OUT)
        mask = inputs["attention_mask"]
        if not with_mask:
            inputs.pop("attention_mask")
        out = model(**inputs)
        same_logits(out.logits[:, -1], auto.logits[0])
        for t in range(4):
            given: dict[str, Any] = {}
            if with_mask:
                mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
                place = (mask.sum(1, keepdim=True) - 1)[None].expand(3, -1, -1) + model.model.rope_deltas
                given = {"attention_mask": mask, "position_ids": place}
            token = auto.sequences[:, prompt + t : prompt + t + 1]
            out = model(input_ids=token, **{CACHE: cache_of(out)}, **given)
            same_logits(out.logits[:, -1], auto.logits[t + 1])


@pytest.mark.parametrize("stages", [{}, {"enable_cache_compression": False}])
def test_a_follow_up_may_mask_what_was_generated(stages: dict[str, Any]) -> None:
    """As padding between the turns of a batch: what is masked must not matter, whatever the cache holds there."""
    model, config, inputs = tiny_model(), CONFIG.replace(**stages), make_inputs(RAGGED)
    prompt = inputs["input_ids"].shape[1]
    with pruned(model, config):
        first = model.generate(**inputs, max_new_tokens=5, do_sample=False, **OUT)
        asked = torch.randint(10, VOCAB, (2, 5), generator=torch.Generator().manual_seed(3))
        ids = torch.cat([first.sequences, asked], 1)
        mask = torch.cat([inputs["attention_mask"], torch.ones(2, 10, dtype=torch.long)], 1)
        mask[0, prompt + 1 : prompt + 4] = 0  # entries are held of four of the five tokens, these are the last three
        types = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, 10))
        logits = []
        for noise in (0.0, 1.0):
            cache = copy.deepcopy(cache_of(first))
            for layer in cache.layers:
                layer.values[0, :, -3:] += noise
            second = model.generate(
                input_ids=ids, attention_mask=mask, mm_token_type_ids=types, **{CACHE: cache}, max_new_tokens=3,
                do_sample=False, **OUT,
            )  # fmt: skip
            logits.append(torch.stack(second.logits))
    assert torch.equal(*logits)


@pytest.mark.parametrize("stages", [{}, {"enable_cache_compression": False}])
def test_what_generate_does_to_a_cache_moves_its_padding_along(stages: dict[str, Any]) -> None:
    """Rows repeated, chosen and reordered, tokens taken back: each step answers as the untouched rows do."""
    model, inputs = tiny_model(), make_inputs(RAGGED)
    config = CONFIG.replace(**stages)
    with pruned(model, config), torch.no_grad():
        held = cache_of(model(**inputs))
        length = inputs["input_ids"].shape[1]
        assert [held.get_seq_length(i) for i in range(6)] == [length] * 6
        step = one_more_token(model, inputs)

        def changed(name: str, *given: Any) -> Any:
            cache = copy.deepcopy(held)
            getattr(cache, name)(*given)
            return cache

        wanted = step(copy.deepcopy(held), [0, 1])
        assert held.spans[0].valid is not None, "no padding, so this proves nothing"
        for name, given, rows in (
            ("reorder_cache", torch.tensor([1, 0]), [1, 0]),
            ("batch_select_indices", torch.tensor([1]), [1]),
            ("batch_select_indices", torch.tensor([0]), [0]),
            ("batch_repeat_interleave", 2, [0, 0, 1, 1]),
            ("crop", 0, [0, 1]),
        ):
            same_logits(step(changed(name, given), rows), wanted[rows])
        for back in (-1, length):  # since 5.18 a count to take back, before it the length to crop to
            cache = copy.deepcopy(held)
            step(cache, [0, 1])
            cache.crop(back)
            same_logits(step(cache, [0, 1]), wanted)
        fresh = changed("reset")
        assert fresh.get_seq_length() == 0
        plain = changed("reset")
        model(**make_inputs([[("text", 9)]] * 2), **{CACHE: plain})
        assert plain.get_seq_length() == 9
        again = model(**make_inputs(ONE_VIDEO), **{CACHE: DynamicCache(config=model.config.get_text_config())})
        fresh.layers = DynamicCache(config=model.config.get_text_config()).layers
        same_logits(model(**make_inputs(ONE_VIDEO), **{CACHE: fresh}).logits, again.logits)


def test_text_prefix_in_the_cache() -> None:
    model, inputs = tiny_model(), make_inputs(ONE_VIDEO)
    with pruned(model, CONFIG) as trace:
        whole = model.generate(**make_inputs(ONE_VIDEO), max_new_tokens=4, do_sample=False, **OUT)
        kept = trace.samples[0].kept.rep
        cache = DynamicCache(config=model.config.get_text_config())
        with torch.no_grad():
            model(input_ids=inputs["input_ids"][:, :4], **{CACHE: cache})
        model.model.rope_deltas = None  # before 5.18 the library would go on from the last prompt's
        again = model.generate(**inputs, **{CACHE: cache}, max_new_tokens=4, do_sample=False, **OUT)
        assert torch.equal(trace.samples[0].kept.rep, kept)
    same_logits(torch.stack(again.logits), torch.stack(whole.logits))


def test_a_padded_text_prefix_in_the_cache() -> None:
    """Padding of the prefix is no key, neither of the scores nor of the answer."""
    model, inputs = tiny_model(), make_inputs(RAGGED)
    with pruned(model, CONFIG) as trace, torch.no_grad():
        whole = model.generate(**make_inputs(RAGGED), max_new_tokens=4, do_sample=False, **OUT)
        kept = trace.kept
        ids, mask = inputs["input_ids"][:, :4], inputs["attention_mask"][:, :4]
        assert not mask[0].any() or not mask[1].any(), "no padding in the prefix, so this proves nothing"
        cache = DynamicCache(config=model.config.get_text_config())
        places = (mask.cumsum(1) - 1).clamp(min=0).expand(3, -1, -1)
        model(input_ids=ids, attention_mask=mask, position_ids=places, **{CACHE: cache})
        for layer in cache.layers:  # what stands under the padding must not matter
            for row in range(2):
                layer.keys[row, :, mask[row] == 0] = 9.0
                layer.values[row, :, mask[row] == 0] = 9.0
        model.model.rope_deltas = None  # before 5.18 the library would go on from the last prompt's
        again = model.generate(**inputs, **{CACHE: cache}, max_new_tokens=4, do_sample=False, **OUT)
        assert all(torch.equal(a, b) for a, b in zip(trace.kept, kept, strict=True))
    same_logits(torch.stack(again.logits), torch.stack(whole.logits))


def test_a_prompt_with_positions_of_its_own_after_another_prompt() -> None:
    """Its end is not that of the prompt before it, even if it begins alike."""
    model, long = tiny_model(), make_inputs([[("text", 4), ("video", 4, 4, 5), ("text", 9)]])
    positions, _ = adapter_for(model).reference_positions(**long)
    short = {name: x[:, :-5] if name in ("input_ids", "attention_mask", "mm_token_type_ids") else x
             for name, x in long.items()}  # fmt: skip
    with pruned(model, CONFIG.replace(enable_stage1=False)) as trace, torch.no_grad():
        model(**long)
        kept = trace.kept[0]
        model(**short)
        assert not torch.equal(trace.kept[0], kept), "both keep the same, so this proves nothing"
        model(**long, position_ids=positions)
    assert torch.equal(trace.kept[0], kept)


def test_one_prompt_needs_no_mask() -> None:
    """Nothing is padding, so the fast paths of sdpa and flash-attention stay open, in prefill and decoding."""
    model, masks = tiny_model(), []
    attention = model.model.language_model.layers[5].self_attn
    handle = attention.register_forward_pre_hook(
        lambda _module, _args, kwargs: masks.append(kwargs["attention_mask"]), with_kwargs=True
    )
    try:
        for stages in ({}, {"enable_cache_compression": False}):
            with pruned(model, CONFIG.replace(**stages)):
                model.generate(**make_inputs(ONE_VIDEO), max_new_tokens=3)
    finally:
        handle.remove()
    assert masks == [None] * 6
