"""What stock transformers passes at each place that is hooked. The first test to redden on an upgrade, and it says what
moved: nothing of this package runs here.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import DynamicCache

from tests.models import CACHE, RAGGED, make_inputs, tiny_model

FAMILIES = ["qwen2_5_vl", "qwen2_vl"]


def watch(family: str) -> dict[str, list[tuple[tuple[Any, ...], dict[str, Any]]]]:
    """Generate three tokens and note what arrives: one prefill, two decode steps."""
    model, seen = tiny_model(family=family), {}
    layer = model.model.language_model.layers[2]
    places = {
        "root": model.model, "vision": model.model.visual, "decoder": model.model.language_model, "layer": layer,
        "attention": layer.self_attn,
    }  # fmt: skip
    handles = []
    for name, module in places.items():
        calls: list[Any] = seen.setdefault(name, [])
        handles.append(
            module.register_forward_pre_hook(
                lambda _m, args, kwargs, calls=calls: calls.append((args, dict(kwargs))), with_kwargs=True
            )
        )
    stock, positions = model.model.get_rope_index, seen.setdefault("positions", [])
    model.model.get_rope_index = lambda *args, **kwargs: positions.append((args, kwargs)) or stock(*args, **kwargs)
    try:
        model.generate(**make_inputs(RAGGED, family=family), max_new_tokens=3, do_sample=False)
    finally:
        del model.model.get_rope_index
        for handle in handles:
            handle.remove()
    return seen


@pytest.mark.parametrize("family", FAMILIES)
def test_positions_are_asked_for_once_with_the_whole_prompt(family: str) -> None:
    inputs, calls = make_inputs(RAGGED, family=family), watch(family)["positions"]
    assert len(calls) == 1
    args, kwargs = calls[0]
    ids = args[0] if args else kwargs["input_ids"]
    assert torch.equal(ids, inputs["input_ids"])
    assert {"mm_token_type_ids", "video_grid_thw", "attention_mask"} <= kwargs.keys()
    assert ("second_per_grid_ts" in kwargs) == (family == "qwen2_5_vl")


@pytest.mark.parametrize("family", FAMILIES)
def test_root(family: str) -> None:
    prefill, *steps = watch(family)["root"]
    assert prefill[0] == ()
    assert torch.equal(prefill[1]["input_ids"], make_inputs(RAGGED)["input_ids"])
    assert any(prefill[1].get(name) is not None for name in ("pixel_values_videos", "mm_encoder_outputs"))
    assert len(steps) == 2
    for args, kwargs in steps:
        assert args == ()
        assert kwargs["input_ids"].shape == (2, 1)
        assert all(kwargs.get(n) is None for n in ("pixel_values", "pixel_values_videos", "mm_encoder_outputs"))


@pytest.mark.parametrize("family", FAMILIES)
def test_vision_runs_once(family: str) -> None:
    assert len(watch(family)["vision"]) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_decoder(family: str) -> None:
    length = make_inputs(RAGGED)["input_ids"].shape[1]
    for number, (args, kwargs) in enumerate(watch(family)["decoder"]):
        width = 1 if number else length
        assert args == ()
        assert kwargs.get("input_ids") is None
        assert kwargs["inputs_embeds"].shape == (2, width, 64)
        assert kwargs["position_ids"].shape == (4, 2, width)  # a row that counts text, then t, h, w
        assert kwargs["attention_mask"].shape == (2, length + number)
        assert type(kwargs[CACHE]) is DynamicCache
        assert len(kwargs[CACHE].layers) == 6


@pytest.mark.parametrize("family", FAMILIES)
def test_layer(family: str) -> None:
    length = make_inputs(RAGGED)["input_ids"].shape[1]
    for number, (args, kwargs) in enumerate(watch(family)["layer"]):
        width = 1 if number else length
        assert args[0].shape == (2, width, 64)
        assert {"attention_mask", "position_embeddings", "position_ids", CACHE} <= kwargs.keys()
        assert kwargs["attention_mask"].shape[-2:] == (width, length + number)
        assert kwargs["position_ids"].shape == (2, width)
        for angle in kwargs["position_embeddings"]:  # one row a token since 5.17, one for each of t, h, w before
            assert angle.shape in ((2, width, 16), (3, 2, width, 16))


@pytest.mark.parametrize("family", FAMILIES)
def test_attention(family: str) -> None:
    for args, kwargs in watch(family)["attention"]:
        assert args == ()
        assert {"hidden_states", "position_embeddings", CACHE} <= kwargs.keys()
    attention = tiny_model(family=family).model.language_model.layers[2].self_attn
    assert attention.scaling == 16**-0.5
    assert {"q_proj", "k_proj"} <= dict(attention.named_children()).keys()
    assert attention.layer_idx == 2
