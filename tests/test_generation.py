"""Pruned generation in every mode that the stock `generate` has, and the modes that are refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import DynamicCache, StaticCache

from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import ConfigError, UnsupportedError
from prunevid_qwen.hooks import pruned
from prunevid_qwen.plan import compile_plan
from tests import flash_attention
from tests.masking import masked_logits, text_inputs
from tests.models import CASES, END, IMAGE, MIXED, ONE_VIDEO, PAD, RAGGED, VOCAB, make_inputs, tiny_model
from tests.test_pruning_equals_masking import TINY
from tests.tolerances import CLOSE, LOGITS

CONFIG = PruneVidConfig(**TINY)
OUT = {"return_dict_in_generate": True, "output_logits": True}


def oracle(samples: Any, sequences: torch.Tensor, trace: Any, config: PruneVidConfig = CONFIG) -> list[torch.Tensor]:
    model, inputs = tiny_model("eager"), make_inputs(samples)
    embeds, _ = text_inputs(model, make_inputs(samples))
    positions, _ = adapter_for(model).reference_positions(**inputs)
    return masked_logits(model, embeds, positions, inputs, sequences, trace, config.enable_cache_compression)


def close(got: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(got, wanted, **LOGITS[torch.float32])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_sampling(attention: str) -> None:
    model = tiny_model(attention)
    with pruned(model, CONFIG) as trace:
        torch.manual_seed(7)
        out = model.generate(**make_inputs(RAGGED), max_new_tokens=6, do_sample=True, top_k=0, **OUT)
    for b, wanted in enumerate(oracle(RAGGED, out.sequences, trace)):
        close(torch.stack(out.logits, 1)[b], wanted)


def skip_if_the_library_mixes_beams_up() -> None:
    """As 5.18.0 does with several videos: the rows of one sample's beams show another sample's video."""
    seen: list[torch.Tensor] = []
    handle = tiny_model().model.language_model.register_forward_pre_hook(
        lambda _m, _args, kwargs: seen.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    try:
        tiny_model().generate(**make_inputs(RAGGED), max_new_tokens=1, num_beams=2, do_sample=False)
    finally:
        handle.remove()
    if not torch.equal(seen[0][0::2], seen[0][1::2]):
        pytest.skip("this transformers gives the beams of one sample another one's video")


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_beams_keep_the_same_tokens_and_score_right(attention: str) -> None:
    skip_if_the_library_mixes_beams_up()
    model = tiny_model(attention)
    with pruned(model, CONFIG) as trace:
        model.generate(**make_inputs(RAGGED), max_new_tokens=2, do_sample=False)
        alone = trace.samples
        out = model.generate(
            **make_inputs(RAGGED), max_new_tokens=5, num_beams=3, num_return_sequences=2, do_sample=False,
            return_dict_in_generate=True, output_scores=True,
        )  # fmt: skip
    assert len(trace.samples) == 6
    for beam, sample in enumerate(trace.samples):
        assert torch.equal(sample.kept.rep, alone[beam // 3].kept.rep)
        assert torch.equal(sample.merged.target, alone[beam // 3].merged.target)
    prompt = make_inputs(RAGGED)["input_ids"].shape[1]
    trace.samples = alone
    for place in range(2):
        sequences = out.sequences[place::2]
        for b, logits in enumerate(oracle(RAGGED, sequences, trace)):
            log_p = logits.log_softmax(-1)[range(5), sequences[b, prompt:]]
            torch.testing.assert_close(log_p.mean(), out.sequences_scores[2 * b + place], **CLOSE[torch.float32])


def test_several_sequences_of_one_prompt() -> None:
    model = tiny_model()
    with pruned(model, CONFIG) as trace:
        torch.manual_seed(3)
        out = model.generate(**make_inputs(ONE_VIDEO), max_new_tokens=4, do_sample=True, num_return_sequences=3, **OUT)
    assert out.sequences.shape[0] == len(trace.samples) == 3
    assert all(torch.equal(s.kept.rep, trace.samples[0].kept.rep) for s in trace.samples)


@pytest.mark.parametrize("case", ["one_video", "ragged", "one_shrinks", "mixed"])
def test_flash_attention_path(monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    flash_attention.install(monkeypatch)
    model = flash_attention.flash_model(tiny_model("eager"))
    calls = dict.fromkeys(flash_attention.CALLS, 0)
    monkeypatch.setattr(flash_attention, "CALLS", calls)
    with pruned(model, CONFIG) as trace:
        out = model.generate(**make_inputs(CASES[case]), max_new_tokens=5, do_sample=False, **OUT)
    for b, wanted in enumerate(oracle(CASES[case], out.sequences, trace)):
        close(torch.stack(out.logits, 1)[b], wanted)
    if case == "one_video":
        # the one block of the vision tower packs its frames; in the decoder it would mean gaps in the text positions
        assert calls["varlen"] == model.config.vision_config.depth


def test_streamer_gets_every_token() -> None:
    class Streamer:
        seen: list[int]

        def put(self, value: torch.Tensor) -> None:
            self.seen.append(value.numel())

        def end(self) -> None:
            self.seen.append(-1)

    model, streamer, inputs = tiny_model(), Streamer(), make_inputs(ONE_VIDEO)
    streamer.seen = []
    with pruned(model, CONFIG):
        model.generate(**inputs, max_new_tokens=4, do_sample=False, streamer=streamer)
    assert streamer.seen == [inputs["input_ids"].numel(), 1, 1, 1, 1, -1]


@pytest.mark.parametrize("stages", [{}, {"enable_cache_compression": False}, {"enable_stage1": False}])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_prompt_lookup_is_greedy(attention: str, stages: dict[str, Any]) -> None:
    """Candidates stand behind the prompt in the first forward: they are no question, and come off the cache again."""
    model, config = tiny_model(attention), CONFIG.replace(**stages)
    samples = [[("text", 4), ("video", 4, 4, 5), ("text", 6)]]
    inputs = make_inputs(samples)
    # a question that repeats itself, so that candidates are found
    inputs["input_ids"][0, -6:] = inputs["input_ids"][0, -6:-3].repeat(2)
    with pruned(model, config) as trace:
        greedy = model.generate(**inputs, max_new_tokens=16, do_sample=False)
        kept = trace.samples[0].kept.rep
        lookup = model.generate(**inputs, max_new_tokens=16, do_sample=False, prompt_lookup_num_tokens=3)
        assert torch.equal(trace.samples[0].kept.rep, kept)
    assert torch.equal(lookup, greedy)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_batch_equals_its_members(attention: str) -> None:
    model = tiny_model(attention)
    with pruned(model, CONFIG) as trace:
        together = model.generate(**make_inputs(MIXED), max_new_tokens=6, do_sample=False, **OUT)
        samples = trace.samples
        kept = [None if s.kept is None else s.kept.rep for s in samples]
        embeds = make_inputs(MIXED)
        for b in range(3):
            alone = model.generate(**member(embeds, MIXED, b), max_new_tokens=6, do_sample=False, **OUT)
            one = trace.samples[0]
            assert (one.kept is None) == (kept[b] is None)
            if one.kept is not None:
                assert torch.equal(one.kept.rep, kept[b])
                assert torch.equal(one.merged.target, samples[b].merged.target)
            close(torch.stack(together.logits, 1)[b], torch.stack(alone.logits, 1)[0])


def test_rows_of_one_length_are_decided_one_by_one() -> None:
    """Beams are equal rows and are decided once; two videos of one size are not."""
    model, samples = tiny_model(), ONE_VIDEO * 2
    inputs = make_inputs(samples)
    assert bool(inputs["attention_mask"].all())
    with pruned(model, CONFIG) as trace:
        together = model.generate(**inputs, max_new_tokens=3, do_sample=False, **OUT)
        merged = [sample.merged.target for sample in trace.samples]
        for b in range(2):
            alone = model.generate(**member(inputs, samples, b), max_new_tokens=3, do_sample=False, **OUT)
            assert torch.equal(trace.samples[0].merged.target, merged[b])
            close(torch.stack(together.logits, 1)[b], torch.stack(alone.logits, 1)[0])
    assert not torch.equal(*merged), "both merge alike, so this proves nothing"


def test_beams_are_merged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    skip_if_the_library_mixes_beams_up()
    calls: list[int] = []
    method = type(compile_plan(CONFIG, 6).before)
    plan = method.plan
    monkeypatch.setattr(method, "plan", lambda self, seen: calls.append(seen.layout.length) or plan(self, seen))
    with pruned(tiny_model(), CONFIG):
        tiny_model().generate(**make_inputs(RAGGED), max_new_tokens=2, num_beams=3, do_sample=False)
    assert len(calls) == 2


@pytest.mark.parametrize("case", ["images", "one_video"])
def test_a_plain_forward_prunes_too(case: str) -> None:
    """Without `generate` the pixels arrive as they are, not encoded ahead."""
    with pruned(tiny_model(), CONFIG) as trace, torch.no_grad():
        tiny_model()(**make_inputs(CASES[case]))
    assert 0 < trace.samples[0].after_stage2 < trace.samples[0].tokens


def member(inputs: dict[str, Any], samples: Any, b: int) -> dict[str, Any]:
    """Cut one row, its pads and the pixels of others off."""
    valid = inputs["attention_mask"][b].bool()
    out = {k: inputs[k][b : b + 1, valid] for k in ("input_ids", "attention_mask", "mm_token_type_ids")}
    for kind, grid, pixels in (
        ("video", "video_grid_thw", "pixel_values_videos"), ("image", "image_grid_thw", "pixel_values"),
    ):  # fmt: skip
        counts = [sum(item[0] == kind for item in sample) for sample in samples]
        first, count = sum(counts[:b]), counts[b]
        if count:
            sizes = inputs[grid].prod(-1).tolist()
            out[grid] = inputs[grid][first : first + count]
            out[pixels] = inputs[pixels][sum(sizes[:first]) : sum(sizes[: first + count])]
            if kind == "video":
                out["second_per_grid_ts"] = inputs["second_per_grid_ts"][first : first + count]
    return out


@pytest.mark.parametrize("stages", [{}, {"enable_cache_compression": False}])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_text_follow_up_on_the_returned_cache(attention: str, stages: dict[str, Any]) -> None:
    model, config, inputs = tiny_model(attention), CONFIG.replace(**stages), make_inputs(ONE_VIDEO)
    with pruned(model, config) as trace:
        first = model.generate(**inputs, max_new_tokens=4, do_sample=False, **OUT)
        samples = trace.samples
        asked = torch.randint(10, VOCAB, (1, 5), generator=torch.Generator().manual_seed(3))
        ids = torch.cat([first.sequences, asked], 1)
        types = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, ids.shape[1] - inputs["input_ids"].shape[1]))
        second = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=types,
            past_key_values=first.past_key_values, max_new_tokens=4, do_sample=False, **OUT,
        )  # fmt: skip
        trace.samples = samples
    wanted = oracle(ONE_VIDEO, second.sequences, trace, config)[0]
    close(torch.stack(second.logits, 1)[0], wanted[-4:])


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
        close(out.logits[:, -1], auto.logits[0])
        for t in range(4):
            given: dict[str, Any] = {}
            if with_mask:
                mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
                place = (mask.sum(1, keepdim=True) - 1)[None].expand(3, -1, -1) + model.model.rope_deltas
                given = {"attention_mask": mask, "position_ids": place}
            token = auto.sequences[:, prompt + t : prompt + t + 1]
            out = model(input_ids=token, past_key_values=out.past_key_values, **given)
            close(out.logits[:, -1], auto.logits[t + 1])


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
            cache = copy.deepcopy(first.past_key_values)
            for layer in cache.layers:
                layer.values[0, :, -3:] += noise
            second = model.generate(
                input_ids=ids, attention_mask=mask, mm_token_type_ids=types, past_key_values=cache, max_new_tokens=3,
                do_sample=False, **OUT,
            )  # fmt: skip
            logits.append(torch.stack(second.logits))
    assert torch.equal(*logits)


@pytest.mark.parametrize("stages", [{}, {"enable_cache_compression": False}])
def test_what_generate_does_to_a_cache_moves_its_padding_along(stages: dict[str, Any]) -> None:
    """Rows repeated, chosen and reordered, tokens taken back: each step answers as the untouched rows do."""
    model, inputs = tiny_model(), make_inputs(RAGGED)
    config, tokens = CONFIG.replace(**stages), torch.tensor([[20], [30]])
    with pruned(model, config), torch.no_grad():
        held = model(**inputs).past_key_values
        length = inputs["input_ids"].shape[1]
        assert [held.get_seq_length(i) for i in range(6)] == [length] * 6
        grown = torch.nn.functional.pad(inputs["attention_mask"], (0, 1), value=1)
        place = (grown.sum(1, keepdim=True) - 1)[None].expand(3, -1, -1) + model.model.rope_deltas

        def step(cache: Any, rows: list[int]) -> torch.Tensor:
            given = {"attention_mask": grown[rows], "position_ids": place[:, rows]}
            logits: torch.Tensor = model(input_ids=tokens[rows], past_key_values=cache, **given).logits[:, -1]
            return logits

        def changed(name: str, *given: Any) -> Any:
            cache = copy.deepcopy(held)
            getattr(cache, name)(*given)
            return cache

        wanted = step(copy.deepcopy(held), [0, 1])
        assert held.valid[0] is not None, "no padding, so this proves nothing"
        for name, given, rows in (
            ("reorder_cache", torch.tensor([1, 0]), [1, 0]),
            ("batch_select_indices", torch.tensor([1]), [1]),
            ("batch_select_indices", torch.tensor([0]), [0]),
            ("batch_repeat_interleave", 2, [0, 0, 1, 1]),
            ("crop", 0, [0, 1]),
        ):
            close(step(changed(name, given), rows), wanted[rows])
        for back in (-1, length):  # since 5.18 a count to take back, before it the length to crop to
            cache = copy.deepcopy(held)
            step(cache, [0, 1])
            cache.crop(back)
            close(step(cache, [0, 1]), wanted)
        fresh = changed("reset")
        assert fresh.get_seq_length() == 0
        plain = changed("reset")
        model(**make_inputs([[("text", 9)]] * 2), past_key_values=plain)
        assert plain.get_seq_length() == 9
        again = model(**make_inputs(ONE_VIDEO), past_key_values=DynamicCache(config=model.config.get_text_config()))
        fresh.layers = DynamicCache(config=model.config.get_text_config()).layers
        close(model(**make_inputs(ONE_VIDEO), past_key_values=fresh).logits, again.logits)


def test_text_prefix_in_the_cache() -> None:
    model, inputs = tiny_model(), make_inputs(ONE_VIDEO)
    with pruned(model, CONFIG) as trace:
        whole = model.generate(**make_inputs(ONE_VIDEO), max_new_tokens=4, do_sample=False, **OUT)
        kept = trace.samples[0].kept.rep
        cache = DynamicCache(config=model.config.get_text_config())
        with torch.no_grad():
            model(input_ids=inputs["input_ids"][:, :4], past_key_values=cache)
        model.model.rope_deltas = None  # before 5.18 the library would go on from the last prompt's
        again = model.generate(**inputs, past_key_values=cache, max_new_tokens=4, do_sample=False, **OUT)
        assert torch.equal(trace.samples[0].kept.rep, kept)
    close(torch.stack(again.logits), torch.stack(whole.logits))


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
        model(input_ids=ids, attention_mask=mask, position_ids=places, past_key_values=cache)
        for layer in cache.layers:  # what stands under the padding must not matter
            for row in range(2):
                layer.keys[row, :, mask[row] == 0] = 9.0
                layer.values[row, :, mask[row] == 0] = 9.0
        model.model.rope_deltas = None  # before 5.18 the library would go on from the last prompt's
        again = model.generate(**inputs, past_key_values=cache, max_new_tokens=4, do_sample=False, **OUT)
        assert all(torch.equal(a, b) for a, b in zip(trace.kept, kept, strict=True))
    close(torch.stack(again.logits), torch.stack(whole.logits))


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


def test_a_prepared_mask_is_refused() -> None:
    model, inputs = tiny_model(), make_inputs(ONE_VIDEO)
    positions, _ = adapter_for(model).reference_positions(**inputs)
    length = inputs["input_ids"].shape[1]
    inputs["attention_mask"] = torch.zeros(1, 1, length, length)
    with pruned(model, CONFIG), pytest.raises(UnsupportedError, match="two-dimensional"), torch.no_grad():
        model(**inputs, position_ids=positions)


def test_a_cache_of_two_lengths_is_refused_under_another_layer() -> None:
    model = tiny_model()
    with pruned(model, CONFIG.replace(enable_cache_compression=False)), torch.no_grad():
        cache = model(**make_inputs(ONE_VIDEO)).past_key_values
    for other in ({"pruning_layer": 3}, {"enable_stage2": False}):
        with pruned(model, CONFIG.replace(**other)), torch.no_grad(), pytest.raises(UnsupportedError, match="same"):
            model(input_ids=torch.tensor([[20]]), past_key_values=cache)


def test_prompt_lookup_after_a_prefix_is_refused() -> None:
    """The library hands the whole prompt over again, and goes wrong without pruning as well."""
    model, inputs = tiny_model(), make_inputs(ONE_VIDEO)
    cache = DynamicCache(config=model.config.get_text_config())
    with pruned(model, CONFIG), torch.no_grad():
        model(input_ids=inputs["input_ids"][:, :4], past_key_values=cache)
        model.model.rope_deltas = None
        with pytest.raises(UnsupportedError, match="whole prompt arrives again"):
            model.generate(**inputs, past_key_values=cache, max_new_tokens=4, prompt_lookup_num_tokens=2)


def test_a_generated_placeholder_is_text() -> None:
    """A random model does answer with an image token; no pixels come with it."""
    model = tiny_model()
    with pruned(model, CONFIG), torch.no_grad():
        out = model(**make_inputs(ONE_VIDEO))
        length = make_inputs(ONE_VIDEO)["input_ids"].shape[1]
        step = model(input_ids=torch.tensor([[IMAGE]]), past_key_values=out.past_key_values)
    assert step.logits.shape[1] == 1
    assert step.past_key_values.get_seq_length() == length + 1


def test_text_only_prompts_pass_untouched() -> None:
    model, samples = tiny_model(), [[("text", 9)], [("text", 5)]]
    stock = model.generate(**make_inputs(samples), max_new_tokens=4, do_sample=False)
    with pruned(model, CONFIG) as trace:
        ours = model.generate(**make_inputs(samples), max_new_tokens=4, do_sample=False)
        static = model.generate(**make_inputs(samples), max_new_tokens=4, do_sample=False, use_cache=False)
    assert torch.equal(stock, ours)
    assert torch.equal(stock, static)
    assert [s.tokens for s in trace.samples] == [0, 0]


def test_bfloat16_runs() -> None:
    model = tiny_model(dtype=torch.bfloat16)
    with pruned(model, CONFIG) as trace:
        model.generate(**make_inputs(RAGGED), max_new_tokens=3)
    assert trace.samples[0].after_stage2 < trace.samples[0].tokens


def test_accelerate_offload_keeps_the_same_tokens() -> None:
    import accelerate

    model = copy.deepcopy(tiny_model())
    with pruned(tiny_model(), CONFIG) as trace:
        wanted = tiny_model().generate(**make_inputs(RAGGED), max_new_tokens=3, do_sample=False)
        kept = [s.kept.rep for s in trace.samples]
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    with pruned(model, CONFIG) as trace:
        got = model.generate(**make_inputs(RAGGED), max_new_tokens=3, do_sample=False)
    assert torch.equal(got, wanted)
    assert all(torch.equal(a, b.kept.rep) for a, b in zip(kept, trace.samples, strict=True))


REFUSED = {
    "use_cache=False": ({"use_cache": False}, "another function than cached decoding"),
    "static": ({"cache_implementation": "static"}, "StaticCache"),
    "offloaded": ({"cache_implementation": "offloaded"}, "offloaded"),
    "chunked": ({"prefill_chunk_size": 16}, "chunked prefill"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_modes(name: str) -> None:
    options, message = REFUSED[name]
    if name == "chunked":
        # newer releases refuse raw pixels in pieces themselves; ours has to hold where they do not
        message = r"(?i)chunked prefill"
        try:
            tiny_model().generate(**make_inputs(ONE_VIDEO), max_new_tokens=1, **options)
        except RuntimeError as error:
            pytest.skip(f"this transformers cannot prefill a video in pieces itself: {error}")
    with pruned(tiny_model(), CONFIG), pytest.raises((UnsupportedError, ValueError), match=message):
        tiny_model().generate(**make_inputs(ONE_VIDEO), max_new_tokens=3, **options)


def test_refused_caches() -> None:
    from transformers.cache_utils import DynamicSlidingWindowLayer

    text = tiny_model().config.get_text_config()
    sliding = DynamicCache()
    sliding.layers = [DynamicSlidingWindowLayer(sliding_window=8)]

    class Other(DynamicCache):
        """Somebody's own: nobody knows what it does with what it holds."""

    for cache in (StaticCache(config=text, max_cache_len=64), sliding, Other(config=text)):
        with pruned(tiny_model(), CONFIG), pytest.raises(UnsupportedError), torch.no_grad():
            tiny_model()(**make_inputs(ONE_VIDEO), past_key_values=cache)


def test_a_pruned_cache_outside_the_context_is_refused() -> None:
    model = tiny_model()
    with pruned(model, CONFIG), torch.no_grad():
        out = model(**make_inputs(ONE_VIDEO))
    with pytest.raises(UnsupportedError, match="outside"), torch.no_grad():
        model(input_ids=torch.tensor([[20]]), past_key_values=out.past_key_values)


def test_a_second_visual_prompt_on_a_pruned_cache_is_refused() -> None:
    model = tiny_model()
    with pruned(model, CONFIG), torch.no_grad():
        out = model(**make_inputs(ONE_VIDEO))
        with pytest.raises(UnsupportedError, match="second prompt"):
            model(**make_inputs(ONE_VIDEO), past_key_values=out.past_key_values)


def test_pre_rope_after_a_prefix_is_refused() -> None:
    model, inputs = tiny_model(), make_inputs(ONE_VIDEO)
    cache = DynamicCache(config=model.config.get_text_config())
    with pruned(model, CONFIG.replace(attention_source="pre_rope")), torch.no_grad():
        model(input_ids=inputs["input_ids"][:, :4], past_key_values=cache)
        model.model.rope_deltas = None  # before 5.18 the library would go on from the last prompt's
        with pytest.raises(UnsupportedError, match="post_rope"):
            model.generate(**inputs, past_key_values=cache, max_new_tokens=1)


def test_no_question_after_the_video_is_refused() -> None:
    inputs = make_inputs([[("text", 3), ("video", 2, 2, 2)]])
    inputs = {k: v[:, :-1] if v.ndim == 2 and k in ("input_ids", "attention_mask", "mm_token_type_ids") else v
              for k, v in inputs.items()}  # fmt: skip
    assert inputs["input_ids"][0, -1] not in (END, PAD)
    with pruned(tiny_model(), CONFIG), pytest.raises(ConfigError, match="question"), torch.no_grad():
        tiny_model()(**inputs)


def test_padding_on_the_right_is_refused() -> None:
    """The answer would go on from a padding token's position, and nobody would be told."""
    inputs = make_inputs(RAGGED)
    pads = int((inputs["attention_mask"][0] == 0).sum())
    for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
        inputs[name][0] = inputs[name][0].roll(-pads)
    with pruned(tiny_model(), CONFIG), pytest.raises(UnsupportedError, match="padding_side = 'left'"):
        tiny_model().generate(**inputs, max_new_tokens=1)


def test_a_forward_without_positions_says_what_is_missing() -> None:
    model, inputs = copy.deepcopy(tiny_model()), make_inputs(ONE_VIDEO)
    model.model.rope_deltas = None
    del inputs["mm_token_type_ids"]
    with pruned(model, CONFIG), pytest.raises(UnsupportedError, match="mm_token_type_ids"), torch.no_grad():
        model(**inputs)


def test_embeddings_that_hold_a_video_are_refused_not_left_whole() -> None:
    """Without ids and pixels only the positions tell that some of the tokens are visual."""
    model, inputs = tiny_model(), make_inputs(ONE_VIDEO)
    embeds, positions = text_inputs(model, inputs)
    with pruned(model, CONFIG), torch.no_grad():
        with pytest.raises(UnsupportedError, match="input_ids"):
            model(inputs_embeds=embeds, position_ids=positions)
        plain = torch.arange(embeds.shape[1]).expand(3, 1, -1)
        assert model(inputs_embeds=embeds, position_ids=plain).logits.shape[1] == embeds.shape[1]


def test_gradients_reach_every_layer() -> None:
    """The decision is taken without gradients; what is kept passes them on."""
    model = copy.deepcopy(tiny_model())
    with pruned(model, CONFIG):
        model(**make_inputs(ONE_VIDEO)).logits[0, -1].square().sum().backward()
    layers = [layer.mlp.down_proj.weight.grad for layer in model.model.language_model.layers]
    assert all(grad is not None and bool(grad.any()) for grad in [*layers, model.get_input_embeddings().weight.grad])


def test_an_assistant_model_changes_nothing() -> None:
    with pruned(tiny_model(), CONFIG) as trace:
        greedy = tiny_model().generate(**make_inputs(ONE_VIDEO), max_new_tokens=8, do_sample=False)
        kept = trace.kept[0]
        assisted = tiny_model().generate(
            **make_inputs(ONE_VIDEO), max_new_tokens=8, do_sample=False, assistant_model=tiny_model(layers=3)
        )
        assert torch.equal(trace.kept[0], kept)
    assert torch.equal(assisted, greedy)


def test_embeddings_instead_of_ids_are_refused() -> None:
    model, inputs = tiny_model(), make_inputs(ONE_VIDEO)
    inputs["inputs_embeds"] = model.get_input_embeddings()(inputs.pop("input_ids"))
    with pruned(model, CONFIG), pytest.raises(UnsupportedError, match="input_ids"), torch.no_grad():
        model.model(**inputs)
