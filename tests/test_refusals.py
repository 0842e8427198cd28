"""What pruning cannot serve rightly is refused, with what came, what was expected and what to do."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import DynamicCache, StaticCache

from prunevid_qwen.adapters.seams import cache_of
from prunevid_qwen.errors import ConfigError, UnsupportedError
from prunevid_qwen.forward.hooks import pruned
from tests.masking import text_inputs
from tests.models import CACHE, END, ONE_VIDEO, PAD, RAGGED, make_inputs, tiny_model
from tests.pruned_generation import CONFIG


def test_a_cache_of_two_lengths_is_refused_under_another_layer() -> None:
    model = tiny_model()
    with pruned(model, CONFIG.replace(enable_cache_compression=False)), torch.no_grad():
        cache = cache_of(model(**make_inputs(ONE_VIDEO)))
    for other in ({"pruning_layer": 3}, {"enable_stage2": False}):
        with pruned(model, CONFIG.replace(**other)), torch.no_grad(), pytest.raises(UnsupportedError, match="config"):
            model(input_ids=torch.tensor([[20]]), **{CACHE: cache})


def test_prompt_lookup_after_a_prefix_is_refused() -> None:
    """The library hands the whole prompt over again, and goes wrong without pruning as well."""
    model, inputs = tiny_model(), make_inputs(ONE_VIDEO)
    cache = DynamicCache(config=model.config.get_text_config())
    with pruned(model, CONFIG), torch.no_grad():
        model(input_ids=inputs["input_ids"][:, :4], **{CACHE: cache})
        model.model.rope_deltas = None
        with pytest.raises(UnsupportedError, match="whole prompt"):
            model.generate(**inputs, **{CACHE: cache}, max_new_tokens=4, prompt_lookup_num_tokens=2)


REFUSED = {
    "use_cache=False": ({"use_cache": False}, "use_cache"),
    "static": ({"cache_implementation": "static"}, "StaticCache"),
    "offloaded": ({"cache_implementation": "offloaded"}, "offloaded"),
    "chunked": ({"prefill_chunk_size": 16}, "prefill_chunk_size"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_modes(name: str) -> None:
    options, message = REFUSED[name]
    if name == "chunked":
        # newer releases refuse raw pixels in pieces themselves; ours has to hold where they do not
        message = r"(?i)chunk"
        try:
            tiny_model().generate(**make_inputs(ONE_VIDEO), max_new_tokens=1, **options)
        except RuntimeError as error:
            pytest.skip(f"this transformers cannot prefill a video in pieces itself: {error}")
    with pruned(tiny_model(), CONFIG), pytest.raises((UnsupportedError, ValueError), match=message):
        tiny_model().generate(**make_inputs(ONE_VIDEO), max_new_tokens=3, **options)


def test_a_refused_cache_is_not_left_on_the_model() -> None:
    model, inputs = copy.deepcopy(tiny_model()), make_inputs(ONE_VIDEO)
    for _ in range(2):  # up to 5.10 the library fails over the one that it left there
        with pruned(model, CONFIG), pytest.raises(UnsupportedError):
            model.generate(**inputs, max_new_tokens=3, cache_implementation="static")
    assert not hasattr(model, "_cache")


def test_refused_caches() -> None:
    from transformers.cache_utils import DynamicSlidingWindowLayer

    text = tiny_model().config.get_text_config()
    sliding = DynamicCache()
    sliding.layers = [DynamicSlidingWindowLayer(sliding_window=8)]

    class Other(DynamicCache):
        """Somebody's own: nobody knows what it does with what it holds."""

    for cache in (StaticCache(config=text, max_cache_len=64), sliding, Other(config=text)):
        with pruned(tiny_model(), CONFIG), pytest.raises(UnsupportedError), torch.no_grad():
            tiny_model()(**make_inputs(ONE_VIDEO), **{CACHE: cache})


def test_a_pruned_cache_outside_the_context_is_refused() -> None:
    model = tiny_model()
    with pruned(model, CONFIG), torch.no_grad():
        out = model(**make_inputs(ONE_VIDEO))
    with pytest.raises(UnsupportedError, match="outside"), torch.no_grad():
        model(input_ids=torch.tensor([[20]]), **{CACHE: cache_of(out)})


def test_a_second_visual_prompt_on_a_pruned_cache_is_refused() -> None:
    model = tiny_model()
    with pruned(model, CONFIG), torch.no_grad():
        out = model(**make_inputs(ONE_VIDEO))
        with pytest.raises(UnsupportedError, match="second prompt"):
            model(**make_inputs(ONE_VIDEO), **{CACHE: cache_of(out)})


def test_pre_rope_after_a_prefix_is_refused() -> None:
    model, inputs = tiny_model(), make_inputs(ONE_VIDEO)
    cache = DynamicCache(config=model.config.get_text_config())
    with pruned(model, CONFIG.replace(attention_source="pre_rope")), torch.no_grad():
        model(input_ids=inputs["input_ids"][:, :4], **{CACHE: cache})
        model.model.rope_deltas = None  # before 5.18 the library would go on from the last prompt's
        with pytest.raises(UnsupportedError, match="post_rope"):
            model.generate(**inputs, **{CACHE: cache}, max_new_tokens=1)


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


def test_embeddings_instead_of_ids_are_refused() -> None:
    model, inputs = tiny_model(), make_inputs(ONE_VIDEO)
    inputs["inputs_embeds"] = model.get_input_embeddings()(inputs.pop("input_ids"))
    with pruned(model, CONFIG), pytest.raises(UnsupportedError, match="input_ids"), torch.no_grad():
        model.model(**inputs)
