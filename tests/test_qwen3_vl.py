"""Qwen3-VL's own: frames behind their times, and DeepStack."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.adapters.tiny import VIDEO
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import UnsupportedError
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.forward.plan import Plan, Step
from prunevid_qwen.reducer import Evidence
from prunevid_qwen.stage2_select import Uniform
from prunevid_qwen.tokens import TokenLayout, TokenMap
from tests.families import family_inputs, family_model, member, often
from tests.pruned_generation import text_follow_up
from tests.test_family_oracles import config, equals_masking, generate, keep, oracle
from tests.test_pruning_equals_masking import STAGES
from tests.tolerances import LOGITS, close

pytestmark = pytest.mark.usefixtures("scores_apart")

FAMILY = "qwen3_vl"
KINDS = pytest.mark.parametrize("family", often(["qwen3_vl", "qwen3_vl_moe"]))


def layout_in(inputs: dict[str, Tensor], b: int = 0) -> TokenLayout:
    """The layout of a row without padding, with its frames."""
    adapter, ids = adapter_for(family_model(FAMILY)), inputs["input_ids"][b]
    shown = [
        *(adapter.pictures("image", inputs, None) or ()),
        *(adapter.pictures("video", inputs, None) or ()),
    ]
    layout = adapter.layout(ids, None, len(ids), shown)
    assert layout is not None
    return adapter.framed(layout, ids)


# ---- positions and frames


@pytest.mark.parametrize("case", ["one", "batch"])
def test_positions_are_the_librarys(case: str) -> None:
    model, inputs = family_model(FAMILY), family_inputs(FAMILY, case)
    ours, deltas = adapter_for(model).reference_positions(**inputs)
    given = {name: x for name, x in inputs.items() if not name.startswith("pixel")}
    theirs, wanted = model.model.get_rope_index(**given)
    at = inputs["attention_mask"].bool()
    assert torch.equal(ours[:, at], theirs[:, at]) and torch.equal(deltas, wanted)


def test_a_video_is_one_raster_in_as_many_runs_as_frames() -> None:
    layout = layout_in(member(FAMILY, "batch", 0))
    (block,) = layout.blocks
    assert (block.kind, block.grid, block.stop - block.start) == ("video", (4, 4, 5), 80)
    assert layout.split and layout.run_of.tolist() == [frame for frame in range(4) for _ in range(20)]
    image, video = layout_in(member(FAMILY, "batch", 1)).blocks
    assert (image.grid, video.grid) == ((1, 3, 3), (2, 4, 4))


def test_a_merged_token_stands_in_the_frame_of_its_representative() -> None:
    model, inputs = family_model(FAMILY), family_inputs(FAMILY, "one")
    seen: list[Tensor] = []
    layout = layout_in(inputs)
    with pruned(model, config(FAMILY)) as trace:
        handle = model.model.language_model.layers[0].register_forward_pre_hook(
            lambda _m, args, _kw: seen.append(args[0]), with_kwargs=True
        )
        generate(model, inputs, 1)
        handle.remove()
    merged = trace.samples[0].merged
    assert merged is not None
    frames = merged.rep // 20
    crossing = [
        g for g in range(merged.n_out) if len(set((merged.target == g).nonzero()[:, 0].div(20).int().tolist())) > 1
    ]
    assert crossing, "no group spans frames, so this shows nothing"
    # the text between the frames stands where the groups of the frames before it end
    after, whole = layout.apply(merged)
    assert torch.equal(layout.frames[whole.rep[after.visual]], frames)
    text = torch.ones(after.length, dtype=torch.bool).index_fill(0, after.visual, False)
    embeds = model.get_input_embeddings()(inputs["input_ids"][0])
    assert torch.equal(seen[0][0][text], embeds[whole.rep][text])


def test_groups_in_another_order_stand_run_by_run() -> None:
    """As of the authors' order of tokens, in which static ones come first."""
    equals_masking(FAMILY, "batch", config(FAMILY, **STAGES["authors"]), family_model(FAMILY))


# ---- DeepStack


@KINDS
@pytest.mark.parametrize("layer", [0, 1, 3])
def test_a_cut_after_any_of_the_first_layers_equals_masking(family: str, layer: int) -> None:
    equals_masking(family, "batch", config(family, pruning_layer=layer), family_model(family))


def test_the_decoder_adds_what_it_is_given_back_where_no_step_acts_early() -> None:
    model, inputs, seen = family_model(FAMILY), family_inputs(FAMILY, "one"), []
    handle = model.model.language_model.register_forward_pre_hook(
        lambda _m, _args, kw: seen.append(kw["deepstack_visual_embeds"]), with_kwargs=True
    )
    try:
        for layer in (2, 3):
            with pruned(model, config(FAMILY, pruning_layer=layer)) as trace:
                handle = _again(handle, model, seen)  # behind ours
                generate(model, inputs, 1)
    finally:
        handle.remove()
    taken, given = seen
    assert taken is None and [len(level) for level in given] == [trace.samples[0].after_stage1] * 3


def _again(handle: Any, model: Any, seen: list[Any]) -> Any:
    handle.remove()
    return model.model.language_model.register_forward_pre_hook(
        lambda _m, _args, kw: seen.append(kw["deepstack_visual_embeds"]), with_kwargs=True
    )


@pytest.mark.parametrize("layer", [1, 4])
def test_a_step_sees_what_goes_on_to_the_next_layer(layer: int) -> None:
    """What is added after a layer is in the states that a step behind it judges by."""
    model, inputs = family_model(FAMILY), family_inputs(FAMILY, "one")
    noted: list[Tensor] = []

    class Looks(Uniform):
        def plan(self, seen: Evidence) -> TokenMap:
            noted.append(seen.hidden)
            return super().plan(seen)

    going_on: list[Tensor] = []
    handle = model.model.language_model.layers[layer + 1].register_forward_pre_hook(
        lambda _m, args, _kw: going_on.append(args[0]), with_kwargs=True
    )
    try:
        generate(model, inputs, 1)
    finally:
        handle.remove()
    with pruned(model, Plan((Step(layer, Looks(0.5)),))):
        generate(model, inputs, 1)
    visual = (inputs["input_ids"][0] == VIDEO).nonzero()[:, 0]
    assert torch.equal(noted[0], going_on[0][0, visual])


@KINDS
def test_training_by_stage_1_with_checkpointed_layers(family: str) -> None:
    """The backward pass runs the first layers anew: what is added after them has to be there again."""
    what, found = config(family, enable_stage2=False, enable_cache_compression=False), []
    for checkpointed in (False, True):
        model = copy.deepcopy(family_model(family)).train()
        if checkpointed:
            model.gradient_checkpointing_enable()
        inputs = family_inputs(family, "one")
        labels = inputs["input_ids"].masked_fill(inputs["mm_token_type_ids"] > 0, -100)
        with pruned(model, what) as trace:
            loss = model(**inputs, labels=labels, use_cache=False).loss
            loss.backward()
        assert trace.samples[0].after_stage1 < trace.samples[0].tokens
        grads = {name: x.grad for name, x in model.named_parameters() if x.grad is not None}
        assert any("deepstack_merger_list" in name for name in grads)
        found.append((loss.detach(), grads))
    (loss, grads), (again, anew) = found
    close(again, loss, LOGITS)
    assert grads.keys() == anew.keys()
    for name, grad in grads.items():
        close(anew[name], grad, 4096)


def test_features_that_were_made_elsewhere_tell_no_grid() -> None:
    model, inputs = family_model(FAMILY), family_inputs(FAMILY, "one")
    if not hasattr(model, "_encode_multimodal_inputs") and "mm_encoder_outputs" not in _parameters(model.model.forward):
        pytest.skip("this release encodes nothing ahead")
    features = model.model.get_video_features(inputs["pixel_values_videos"], inputs["video_grid_thw"])
    given = {name: x for name, x in inputs.items() if "pixel" not in name and "grid" not in name}
    positions = adapter_for(model).reference_positions(**inputs)[0]
    with pruned(model, config(FAMILY)), torch.no_grad():
        with pytest.raises(UnsupportedError, match="grid"):
            model(**given, position_ids=positions, mm_encoder_outputs={"video": features})
        own = model.model.get_video_features(inputs["pixel_values_videos"], inputs["video_grid_thw"])
        wanted = model(**inputs).logits
        close(model(**given, position_ids=positions, mm_encoder_outputs={"video": own}).logits, wanted, LOGITS)


def _parameters(function: Any) -> Any:
    import inspect

    return inspect.signature(function).parameters


def test_a_text_follows_up() -> None:
    model, inputs = family_model(FAMILY), family_inputs(FAMILY, "one")
    what = config(FAMILY)
    second, trace = text_follow_up(model, inputs, what)
    prompt = {**inputs, "input_ids": second.sequences[:, :-4]}
    wanted = oracle_of_two(model, inputs, second, trace, what)
    close(torch.stack(second.logits, 1)[0], wanted[-4:], LOGITS)
    assert prompt["input_ids"].shape[1] > inputs["input_ids"].shape[1]


def oracle_of_two(model: Any, inputs: Any, second: Any, trace: Any, what: PruneVidConfig) -> Tensor:
    """All tokens after the first prompt, as if they had been generated one by one."""

    class Made:
        sequences = second.sequences

    return oracle(FAMILY, "one", Made, trace, what.position_scheme, what.enable_cache_compression)[0]


def test_routers_cannot_be_balanced_over_a_pruned_prompt() -> None:
    model, inputs = family_model("qwen3_vl_moe"), family_inputs("qwen3_vl_moe", "one")
    asked = {**inputs, "output_router_logits": True, "use_cache": False}
    model(**asked)  # the stock model can
    with pruned(model, keep("qwen3_vl_moe")):
        model(**asked)
    with pruned(model, config("qwen3_vl_moe")), pytest.raises(UnsupportedError, match="output_router_logits"):
        model(**asked)
