"""Calls inside `pruned` that are not `generate`'s: what the stock model takes, and hides nothing, is no error."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from prunevid_qwen.adapters.seams import cache_of
from prunevid_qwen.config import PruneVidConfig, get_baseline_config
from prunevid_qwen.errors import UnsupportedError
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.receipt import check_applied
from tests import glimpse
from tests.models import CACHE, ONE_VIDEO, RAGGED, VIDEO, make_inputs, tiny_model
from tests.test_pruning_equals_masking import TINY

CONFIG = PruneVidConfig(**TINY)
STAGE1 = CONFIG.replace(enable_stage2=False, enable_cache_compression=False)
STAGE2 = CONFIG.replace(selector="uniform", enable_cache_compression=False)
TEXT = [[("text", 9)]]


@pytest.mark.parametrize("more", ["nothing", "mask", "cache"])
def test_the_decoder_called_alone_with_what_it_needs(more: str) -> None:
    model = tiny_model()
    given: dict[str, Any] = {"inputs_embeds": model.get_input_embeddings()(make_inputs(TEXT)["input_ids"])}
    if more != "nothing":
        given["attention_mask"] = torch.ones(1, 9)
    if more == "cache":
        given[CACHE] = DynamicCache(config=model.config.text_config)
    with torch.no_grad():
        stock = model.model.language_model(**{**given, CACHE: None})[0]
        with pruned(model, CONFIG):
            ours = model.model.language_model(**given)[0]
    assert torch.equal(ours, stock)


def test_the_decoder_called_alone_on_a_pruned_cache() -> None:
    """As a hand-written decode step does that leaves the mask out; the same as through the model."""
    model, step = tiny_model(), torch.tensor([[11]])
    place = torch.full((3, 1, 1), 40)
    with torch.no_grad(), pruned(model, CONFIG):
        caches = [getattr(model(**make_inputs(ONE_VIDEO)), CACHE) for _ in range(2)]
        whole = model.model(input_ids=step, position_ids=place, **{CACHE: caches[0]})[0]
        embeds = model.get_input_embeddings()(step)
        alone = model.model.language_model(inputs_embeds=embeds, position_ids=place, **{CACHE: caches[1]})[0]
    assert torch.equal(alone, whole)


def test_the_decoder_called_alone_with_ids() -> None:
    with pruned(tiny_model(), CONFIG), pytest.raises(UnsupportedError, match="inputs_embeds"):
        tiny_model().model.language_model(input_ids=make_inputs(TEXT)["input_ids"])


@pytest.mark.parametrize("config", [CONFIG, get_baseline_config()], ids=["all", "baseline"])
def test_a_placeholder_in_a_text_is_text(config: PruneVidConfig) -> None:
    """Nothing was shown, under whatever name: the stock model reads it as any other token."""
    model, inputs = tiny_model(), make_inputs(TEXT)
    inputs["input_ids"][0, 3] = VIDEO
    with torch.no_grad():
        stock = model(**inputs).logits
        with pruned(model, config) as trace:
            assert torch.equal(model(**inputs).logits, stock)
            model.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert [sample.tokens for sample in trace.samples] == [0]


@pytest.mark.parametrize("given", [None, {}, {"image": None, "video": None}], ids=["none", "empty", "nothing"])
def test_a_text_as_embeddings(given: dict[str, Any] | None) -> None:
    """`generate` hands on an empty dict of what it encoded: nothing is shown."""
    model = tiny_model()
    embeds = model.get_input_embeddings()(make_inputs(TEXT)["input_ids"]).detach()
    more = {} if given is None or "mm_encoder_outputs" not in inspect.signature(model.forward).parameters else {
        "mm_encoder_outputs": given
    }  # fmt: skip
    with torch.no_grad():
        stock = model.generate(inputs_embeds=embeds, **copy.deepcopy(more), max_new_tokens=4, do_sample=False)
        forward = model(inputs_embeds=embeds, **copy.deepcopy(more)).logits
        with pruned(model, CONFIG) as trace:
            ours = model.generate(inputs_embeds=embeds, **copy.deepcopy(more), max_new_tokens=4, do_sample=False)
            assert torch.equal(model(inputs_embeds=embeds, **more).logits, forward)
    assert torch.equal(ours, stock) and [sample.tokens for sample in trace.samples] == [0]


def trained(
    config: PruneVidConfig, checkpointing: bool, case: Any, **options: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and the gradient of the embeddings of a training step."""
    model = copy.deepcopy(tiny_model()).train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    with pruned(model, config) as trace:
        logits = model(**make_inputs(case), **options).logits
        logits[:, -1].logsumexp(-1).sum().backward()
    assert len(trace.samples) == len(case) and all(sample.tokens for sample in trace.samples)
    return logits, model.get_input_embeddings().weight.grad


@pytest.mark.parametrize("config", [STAGE1, get_baseline_config()], ids=["stage1", "baseline"])
@pytest.mark.parametrize("case", [ONE_VIDEO, RAGGED], ids=["one_video", "ragged"])
def test_training_with_gradient_checkpointing(config: PruneVidConfig, case: Any) -> None:
    """Its layers keep no cache, and stage 1 needs none."""
    for options in ({}, {"use_cache": False}):
        for ours, plain in zip(trained(config, True, case, **options), trained(config, False, case), strict=True):
            assert torch.equal(ours, plain)


@pytest.mark.parametrize("config", [CONFIG, CONFIG.replace(selector="uniform"), STAGE2, glimpse.config()],
                         ids=["attention", "uniform", "no cache needed", "glimpse"])  # fmt: skip
def test_gradient_checkpointing_keeps_stage_2_and_3_from_the_layers(config: PruneVidConfig) -> None:
    with pytest.raises(UnsupportedError, match="gradient_checkpointing_disable"):
        trained(config, True, ONE_VIDEO)


def test_a_model_in_training_answers_with_gradient_checkpointing_on() -> None:
    """As for rewards: without gradients newer releases run each layer once and fill its cache."""
    model, given = copy.deepcopy(tiny_model()), {"max_new_tokens": 3, "do_sample": False}
    with pruned(model, CONFIG):
        wanted = model.generate(**make_inputs(RAGGED), **given)
    model.train().gradient_checkpointing_enable()
    with torch.no_grad():
        cache = cache_of(model(**make_inputs(TEXT), use_cache=True))  # None where the library unsets it
    with pruned(model, CONFIG) as trace:
        if cache is not None and cache.get_seq_length():
            assert torch.equal(model.generate(**make_inputs(RAGGED), **given), wanted)
            assert all(sample.after_stage2 < sample.tokens for sample in trace.samples)
        else:
            with pytest.raises(UnsupportedError, match="gradient_checkpointing_disable"):
                model.generate(**make_inputs(RAGGED), **given)


# ---- without a cache


NO_CACHE = {
    "all": CONFIG, "stage1": STAGE1, "stage2": CONFIG.replace(enable_stage1=False), "no stage3": STAGE2,
    "keep": PruneVidConfig(tau=1.0, cluster_ratio=1.0, keep_ratio=1.0, pruning_layer=1), "glimpse": glimpse.config(),
}  # fmt: skip


@pytest.mark.parametrize("options", [
    {}, {"labels": make_inputs(RAGGED)["input_ids"]}, {"logits_to_keep": 3}, {"return_dict": False},
    {"output_hidden_states": True},
], ids=["plain", "labels", "last", "tuple", "states"])  # fmt: skip
@pytest.mark.parametrize("name", NO_CACHE)
def test_a_forward_without_a_cache(name: str, options: dict[str, Any]) -> None:
    """As trainers call a model: what it gives with one, but the cache."""
    outs: list[list[Any]] = []
    for use_cache in (True, False):
        with torch.no_grad(), pruned(tiny_model(), NO_CACHE[name]) as trace:
            out = tiny_model()(**make_inputs(RAGGED), **options, use_cache=use_cache)
        caches = [each for each in (out if isinstance(out, tuple) else out.values()) if hasattr(each, "layers")]
        assert len(caches) == use_cache and bool(trace.cache_bytes) == use_cache
        values = out if isinstance(out, tuple) else out.values()
        outs.append([each for each in values if not hasattr(each, "layers")])
        outs[-1].append([(sample.after_stage1, sample.after_stage2) for sample in trace.samples])
    torch.testing.assert_close(outs[1], outs[0], rtol=0, atol=0)


def test_a_config_without_a_cache() -> None:
    model = copy.deepcopy(tiny_model())
    with torch.no_grad(), pruned(model, CONFIG):
        wanted = model(**make_inputs(ONE_VIDEO)).logits
        model.config.text_config.use_cache = model.model.language_model.config.use_cache = False
        out = model(**make_inputs(ONE_VIDEO))
    assert torch.equal(out.logits, wanted) and cache_of(out) is None


def test_a_cache_of_ones_own_is_filled_all_the_same() -> None:
    """As the library does, whatever `use_cache` says."""
    model, own = tiny_model(), DynamicCache(config=tiny_model().config.text_config)
    with torch.no_grad(), pruned(model, CONFIG):
        out = model(**make_inputs(ONE_VIDEO), **{CACHE: own}, use_cache=False)
    assert cache_of(out) is own and own.get_seq_length() == make_inputs(ONE_VIDEO)["input_ids"].shape[1]


def test_somebody_elses_positions_may_name_what_they_use() -> None:
    """They replace the library's on this very model, and hand on what they do not know."""
    model = copy.deepcopy(tiny_model())
    stock = model.model.get_rope_index
    model.model.get_rope_index = lambda input_ids, **others: stock(input_ids, **others)
    with torch.no_grad(), pruned(model, CONFIG.replace(position_scheme="hf")) as trace:
        model(**make_inputs(ONE_VIDEO))
    assert trace.samples[0].after_stage2 < trace.samples[0].tokens


def test_a_text_that_goes_on_from_another_contexts_cache_is_a_prompt_of_its_own() -> None:
    model, text = tiny_model(), torch.tensor([[20, 21, 22]])
    with torch.no_grad():
        with pruned(model, CONFIG):
            cache = cache_of(model(**make_inputs(ONE_VIDEO)))
        with pruned(model, CONFIG) as trace:
            model(input_ids=text, **{CACHE: cache})
    check_applied(trace, CONFIG, [0])
    assert [(sample.tokens, sample.length) for sample in trace.samples] == [(0, 3)]
