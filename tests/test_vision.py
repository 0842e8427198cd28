"""The vision tower in chunks and from memory: the features of the stock tower, whoever made them and when."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

from prunevid_qwen import PruneVidConfig, pruned
from prunevid_qwen.adapters.vision import EncodedVideos, chunk_grids, vision_from_memory, vision_in_chunks
from tests.models import MIXED, ONE_VIDEO, RAGGED, make_inputs, tiny_model
from tests.tolerances import LOGITS, close, tokens_apart

FAMILIES = ("qwen2_5_vl", "qwen2_vl", "qwen3_vl")
# the grid of RAGGED's first video has 4 positions of 4 x 5 tokens, the next 3 of 3 x 6, the last 2 of 4 x 4
GRIDS = [[4, 8, 10], [3, 6, 12], [2, 8, 8]]


@contextmanager
def calls_of(tower: Any) -> Iterator[list[tuple[int, list[list[int]]]]]:
    """The patches and grids of each call of the stock forward."""
    seen: list[tuple[int, list[list[int]]]] = []
    stock = tower.forward

    def forward(pixels: torch.Tensor, grid_thw: torch.Tensor, **kwargs: Any) -> Any:
        seen.append((pixels.shape[0], grid_thw.tolist()))
        return stock(pixels, grid_thw=grid_thw, **kwargs)

    tower.forward = forward
    try:
        yield seen
    finally:
        del tower.forward


def encoded(tower: Any, inputs: dict[str, Any], **kwargs: Any) -> Any:
    return tower(inputs["pixel_values_videos"], grid_thw=inputs["video_grid_thw"], **kwargs)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_chunks_give_the_features_of_the_whole(family: str, attention: str) -> None:
    tower = tiny_model(attention, family).model.visual
    inputs = make_inputs(RAGGED, family=family)
    with torch.no_grad():
        whole = encoded(tower, inputs)
        for tokens in (1, 40, 50, 110, 165):
            with calls_of(tower) as calls, vision_in_chunks(tower, tokens):
                parts = encoded(tower, inputs)
            assert len(calls) > 1
            assert isinstance(parts, type(whole))
            for name in ("pooler_output", "last_hidden_state"):
                close(parts[name], whole[name], LOGITS)
            levels = [out.get("deepstack_features", []) for out in (parts, whole)]
            assert len(levels[0]) == (3 if family == "qwen3_vl" else 0)
            for ours, theirs in zip(*levels, strict=True):
                close(ours, theirs, LOGITS)


def test_what_fits_is_one_call_with_what_came() -> None:
    tower, inputs = tiny_model().model.visual, make_inputs(RAGGED)
    for tokens in (166, None):
        with calls_of(tower) as calls, vision_in_chunks(tower, tokens), torch.no_grad():
            parts = encoded(tower, inputs)
        assert calls == [(4 * 166, GRIDS)]
        with torch.no_grad():
            assert torch.equal(parts.pooler_output, encoded(tower, inputs).pooler_output)


@pytest.mark.parametrize("tokens", [1, 20, 41, 60, 90])
def test_no_call_is_larger_than_asked_but_for_a_single_position(tokens: int) -> None:
    tower, inputs = tiny_model().model.visual, make_inputs(RAGGED)
    with calls_of(tower) as calls, vision_in_chunks(tower, tokens), torch.no_grad():
        encoded(tower, inputs)
    assert all(n <= 4 * tokens or (len(grids) == 1 and grids[0][0] == 1) for n, grids in calls)
    assert sum(n for n, _ in calls) == 4 * 166
    # as full as whole positions allow: the next one would not have fitted
    for (n, _), (_, following) in itertools.pairwise(calls):
        assert n + following[0][1] * following[0][2] > 4 * tokens


def test_grids_are_cut_in_order() -> None:
    assert chunk_grids([[3, 2, 2], [1, 2, 4]], 8) == [[[2, 2, 2]], [[1, 2, 2]], [[1, 2, 4]]]
    assert chunk_grids(GRIDS, 10**6) == [GRIDS]
    for patches in range(1, 300, 7):
        chunks = chunk_grids(GRIDS, patches)
        positions = [(h, w) for grids in chunks for t, h, w in grids for _ in range(t)]
        assert positions == [(h, w) for t, h, w in GRIDS for _ in range(t)]


def test_hidden_states_of_the_blocks_are_joined() -> None:
    tower, inputs = tiny_model().model.visual, make_inputs(RAGGED)
    with torch.no_grad(), vision_in_chunks(tower, 20):
        deep = encoded(tower, inputs, output_hidden_states=True)
    with torch.no_grad():
        whole = encoded(tower, inputs, output_hidden_states=True)
    assert deep.hidden_states is not None
    for ours, theirs in zip(deep.hidden_states, whole.hidden_states, strict=True):
        close(ours, theirs, LOGITS)


def test_indices_made_ahead_for_the_whole_input_are_not_cut() -> None:
    tower, inputs = tiny_model().model.visual, make_inputs(RAGGED)
    seen: list[dict[str, Any]] = []
    tower.forward = lambda pixels, grid_thw, **kwargs: seen.append({"patches": len(pixels), **kwargs})
    try:
        with vision_in_chunks(tower, 20):
            encoded(tower, inputs, cu_seqlens=torch.zeros(3), output_attentions=False)
    finally:
        del tower.forward
    assert [each["patches"] for each in seen] == [4 * 166]
    assert seen[0].keys() == {"patches", "cu_seqlens", "output_attentions"}


def test_the_tower_is_restored_whatever_happens() -> None:
    tower = tiny_model().model.visual
    with pytest.raises(RuntimeError, match="mine"), vision_in_chunks(tower, 1), vision_from_memory(tower):
        raise RuntimeError("mine")
    assert "forward" not in vars(tower)
    own = tower.forward = lambda *_args, **_kwargs: None
    try:
        with vision_in_chunks(tower, 1), vision_from_memory(tower):
            assert tower.forward is not own
        assert tower.forward is own
    finally:
        del tower.forward


@pytest.mark.parametrize("family", FAMILIES)
def test_pruned_generates_the_same_in_chunks(family: str) -> None:
    """The stock path: real pixels, images among them, beams and several sequences."""
    model, inputs = tiny_model(family=family), make_inputs(MIXED, family=family)
    config = PruneVidConfig(min_cluster_tokens=4)
    for arguments in ({}, {"num_beams": 2, "num_return_sequences": 2}):
        out = []
        for tokens in (None, 7):
            with calls_of(model.model.visual) as calls, pruned(model, config.replace(vision_chunk_tokens=tokens)):
                answer = model.generate(
                    **inputs, max_new_tokens=3, output_logits=True, return_dict_in_generate=True, **arguments
                )
            out.append((answer, len(calls)))
        (whole, few), (parts, many) = out
        assert few == 2 and many >= 6  # images and videos; then single positions: of 1 image and of videos of 2 and 3
        tokens_apart(whole.logits)
        assert torch.equal(whole.sequences, parts.sequences)
        for ours, theirs in zip(parts.logits, whole.logits, strict=True):
            close(ours, theirs, LOGITS)


def test_seconds_of_the_encoder_cover_all_chunks() -> None:
    model, inputs = tiny_model(), make_inputs(ONE_VIDEO)
    with pruned(model, PruneVidConfig(vision_chunk_tokens=1)) as trace:
        model.generate(**inputs, max_new_tokens=1)
    assert trace.seconds.count("vision") == 1
    assert trace.seconds.total("vision") > 0


# ---- from memory


def hold(model: Any, inputs: dict[str, Any]) -> tuple[EncodedVideos, dict[str, Any]]:
    """Encode each video of some inputs ahead; the inputs with what stands for their pixels."""
    videos = EncodedVideos(model.model.visual)
    grids = inputs["video_grid_thw"]
    pixels = inputs["pixel_values_videos"].split(grids.prod(-1).tolist())
    placeholders = [videos.hold(videos.encode(own, grid[None])) for own, grid in zip(pixels, grids, strict=True)]
    return videos, {**inputs, "pixel_values_videos": torch.cat(placeholders)}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("arguments", [{}, {"num_beams": 3, "num_return_sequences": 2}])
def test_generate_answers_from_memory(family: str, dtype: torch.dtype, arguments: dict[str, int]) -> None:
    """Two videos in one row of a ragged batch, beams that repeat pixels in some releases: whose features are whose."""
    model, inputs = tiny_model(family=family, dtype=dtype), make_inputs(RAGGED, family=family)
    same = {"max_new_tokens": 3, "output_logits": True, "return_dict_in_generate": True, **arguments}
    videos, light = hold(model, inputs)
    with pruned(model):
        plain = model.generate(**inputs, **same)
    for outside in (True, False):  # of `pruned`, as in evaluation, and inside it, as in PruneVidQwen25VL
        order = [pruned(model, PruneVidConfig(vision_chunk_tokens=20)), vision_from_memory(model.model.visual, videos)]
        first, second = order if outside else reversed(order)
        with first, second, calls_of_stock(model) as calls:
            ours = model.generate(**light, **same)
        assert not calls
        compared = len(plain.logits)
        if dtype == torch.float32:
            tokens_apart(plain.logits)
            assert torch.equal(ours.sequences, plain.sequences)
        else:
            compared = 1  # bf16 has equal logits: rounding decides which token comes, and with it what follows
        for one, other in zip(ours.logits[:compared], plain.logits[:compared], strict=True):
            close(one, other, LOGITS, dtype=dtype)


@contextmanager
def calls_of_stock(model: Any) -> Iterator[list[int]]:
    """How many patches the tower's blocks are given: none, where features come from memory."""
    seen: list[int] = []
    handle = model.model.visual.patch_embed.register_forward_pre_hook(lambda _m, args: seen.append(len(args[0])))
    try:
        yield seen
    finally:
        handle.remove()


def test_numbers_are_told_apart_and_other_pixels_are_encoded() -> None:
    model = copy.deepcopy(tiny_model())
    tower = model.model.visual
    pixels, grid = torch.randn(16, 1176), torch.tensor([[1, 4, 4]])
    with vision_from_memory(tower) as videos, torch.no_grad():
        placeholders = [videos.hold(videos.encode(pixels + i, grid)) for i in range(300)]
        both = torch.cat([placeholders[299], placeholders[3]]).to(torch.bfloat16)
        found = tower(both, grid_thw=grid.repeat(2, 1))
        assert isinstance(found, BaseModelOutputWithPooling)
        assert torch.equal(found.pooler_output, torch.cat([videos.features[n].tokens for n in (299, 3)]))
        assert torch.equal(tower(pixels, grid_thw=grid).pooler_output, videos.features[0].tokens)
        with pytest.raises(ValueError, match="grid of 32 patches stands for video 299"):
            tower(placeholders[299].repeat(2, 1), grid_thw=torch.tensor([[2, 4, 4]]))
        with pytest.raises(ValueError, match="no encoded video"):
            tower(torch.cat([placeholders[1][:8], placeholders[2][8:]]), grid_thw=grid)
        with pytest.raises(ValueError, match="no encoded video"):
            tower(placeholders[299] + 1, grid_thw=grid)
        with pytest.raises(ValueError, match="came with 16"):
            tower(placeholders[0], grid_thw=grid.repeat(2, 1))


def test_videos_encoded_elsewhere_leave_other_pixels_to_the_tower_as_it_is_now() -> None:
    model, inputs = tiny_model(), make_inputs(RAGGED)
    tower = model.model.visual
    videos, _ = hold(model, inputs)
    with calls_of(tower) as calls, vision_in_chunks(tower, 1), vision_from_memory(tower, videos), torch.no_grad():
        encoded(tower, inputs)
    assert len(calls) == 4 + 3 + 2
