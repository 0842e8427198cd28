"""What stock transformers passes at each place that is hooked. The first test to redden on an upgrade, and it says what
moved: nothing of this package runs here.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from tests.families import FAMILIES, family_inputs, family_model
from tests.models import CACHE, IMAGE, VIDEO

EVERY = pytest.mark.parametrize("family", FAMILIES)
CASE = "batch"


def watch(family: str) -> dict[str, list[tuple[tuple[Any, ...], dict[str, Any]]]]:
    """Generate three tokens and note what arrives: one prefill, two decode steps."""
    model, row, seen = family_model(family), FAMILIES[family], {}
    layer = model.model.language_model.layers[2]
    places = {
        "root": [model.model], "vision": [model.model.get_submodule(name) for name in row.towers],
        "decoder": [model.model.language_model], "layer": [layer], "attention": [layer.self_attn],
    }  # fmt: skip
    handles = []
    owner = model.model if row.asks == "get_rope_index" else model
    for name, modules in places.items():
        calls: list[Any] = seen.setdefault(name, [])
        for module in modules:
            handles.append(
                module.register_forward_pre_hook(
                    lambda _m, args, kwargs, calls=calls: calls.append((args, dict(kwargs))), with_kwargs=True
                )
            )
    replaced = [(owner, row.asks), *[(model.model, f"get_{kind}_features") for kind in ("image", "video")]]
    replaced = [(module, name) for module, name in replaced if hasattr(module, name)]
    for module, name in replaced:
        setattr(module, name, noting(getattr(module, name), seen.setdefault(name, [])))
    try:
        model.generate(**family_inputs(family, CASE), max_new_tokens=3, do_sample=False)
    finally:
        for module, name in replaced:
            delattr(module, name)
        for handle in handles:
            handle.remove()
    return seen


def noting(stock: Any, calls: list[Any]) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        out = stock(*args, **kwargs)
        calls.append((args, dict(kwargs, returned=out)))
        return out

    return functools.update_wrapper(call, stock)  # since 5.18 `generate` asks for its signature


@EVERY
def test_the_whole_prompt_is_told_once(family: str) -> None:
    inputs, row = family_inputs(family, CASE), FAMILIES[family]
    calls = watch(family)[row.asks]
    assert len(calls) == 1
    args, kwargs = calls[0]
    if row.asks == "get_rope_index":
        ids = args[0] if args else kwargs["input_ids"]
        assert {"mm_token_type_ids", "video_grid_thw", "attention_mask"} <= kwargs.keys()
        assert ("second_per_grid_ts" in kwargs) == (family == "qwen2_5_vl")
    else:
        assert args == ()
        ids = kwargs["input_ids"]
        assert torch.equal(kwargs["attention_mask"], inputs["attention_mask"])
    assert torch.equal(ids, inputs["input_ids"])


@EVERY
def test_features_are_asked_for_once_a_kind(family: str) -> None:
    calls, row = watch(family), FAMILIES[family]
    for name, video in (("get_image_features", False), ("get_video_features", True)):
        pixels = next((each for each in row.pixels if ("video" in each) == video), None)
        if pixels is None:
            assert name not in calls
            continue
        inputs, token = family_inputs(family, CASE), IMAGE if "image" in name else VIDEO
        # some families ask for a video as for images
        own = [kwargs for args, kwargs in calls[name] if torch.equal(first_of(args, kwargs, pixels), inputs[pixels])]
        assert len(own) == 1 and len(calls[name]) <= len(row.pixels)
        made = own[0]["returned"].pooler_output
        late = int((inputs["input_ids"] == token).sum()) - sum(each.numel() // 64 for each in made)
        assert late in (0, row.late), "a feature a token"
        assert all(each.shape[-1] == 64 for each in made)


def first_of(args: Any, kwargs: Any, pixels: str) -> Any:
    return args[0] if args else next(kwargs[each] for each in (pixels, "pixel_values") if each in kwargs)


@EVERY
def test_root(family: str) -> None:
    inputs, row = family_inputs(family, CASE), FAMILIES[family]
    prefill, *steps = watch(family)["root"]
    ids = prefill[0][0] if prefill[0] else prefill[1]["input_ids"]
    assert torch.equal(ids, inputs["input_ids"])
    assert any(prefill[1].get(name) is not None for name in (*row.pixels, "mm_encoder_outputs"))
    assert len(steps) == 2
    for args, kwargs in steps:
        assert (args[0] if args else kwargs["input_ids"]).shape == (3, 1)
        assert all(not kwargs.get(name) for name in (*row.pixels, "mm_encoder_outputs"))


@EVERY
def test_vision_runs_once_a_kind(family: str) -> None:
    assert len(watch(family)["vision"]) == len(FAMILIES[family].pixels)


@EVERY
def test_decoder(family: str) -> None:
    length = family_inputs(family, CASE)["input_ids"].shape[1]
    for number, (args, kwargs) in enumerate(watch(family)["decoder"]):
        width = 1 if number else length
        assert args == ()
        assert kwargs.get("input_ids") is None
        assert kwargs["inputs_embeds"].shape == (3, width, 64)
        # [4, B, S]: a row that counts text, then t, h, w; or [B, S] of tokens
        assert kwargs["position_ids"].shape == (*FAMILIES[family].positions, 3, width)
        assert kwargs["attention_mask"].shape == (3, length + number)
        assert type(kwargs[CACHE]) is DynamicCache
        assert len(kwargs[CACHE].layers) == 6


@EVERY
def test_layer(family: str) -> None:
    length = family_inputs(family, CASE)["input_ids"].shape[1]
    for number, (args, kwargs) in enumerate(watch(family)["layer"]):
        width = 1 if number else length
        assert args[0].shape == (3, width, 64)
        assert {"attention_mask", "position_embeddings", "position_ids", CACHE} <= kwargs.keys()
        assert kwargs["attention_mask"].shape[-2:] == (width, length + number)
        assert kwargs["position_ids"].shape == (3, width)
        for angle in kwargs["position_embeddings"]:  # Qwen: one row a token since 5.17, of t, h, w before
            turned = 8 if FAMILIES[family].linear else 16  # channels of a head
            assert angle.shape in ((3, width, turned), *([(3, 3, width, 16)] if FAMILIES[family].positions else []))


@EVERY
def test_attention(family: str) -> None:
    for args, kwargs in watch(family)["attention"]:
        assert args == ()
        assert {"hidden_states", "position_embeddings", CACHE} <= kwargs.keys()
    attention = family_model(family).model.language_model.layers[2].self_attn
    assert attention.scaling == 16**-0.5
    assert {"q_proj", "k_proj", "v_proj", "o_proj", *FAMILIES[family].norms} == dict(attention.named_children()).keys()
    assert attention.layer_idx == 2
