"""What a step sees of the vision tower is what the tower's own eager attention computes with."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.adapters.vision import vision_from_memory
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.forward.plan import Plan, Step
from prunevid_qwen.kernels import pooled_attention as pooled
from prunevid_qwen.kernels import received_attention as kernel
from prunevid_qwen.needs import Evidence, Needs, VisionQuery
from prunevid_qwen.stage2_select import Uniform
from prunevid_qwen.tokens.trace import DOOR
from tests.models import CASES, IMAGES, MIXED, ONE_VIDEO, RAGGED, make_inputs, tiny_model
from tests.test_decoder_merges import Merging
from tests.test_taps import deep_tower
from tests.tolerances import close
from tests.watching import Notes, watched

ALL = ("received", "keys", "states", "pooled")
FAMILIES = ("qwen2_5_vl", "qwen2_vl")

# ---- the kernel


@pytest.mark.parametrize("chunk", [1, 3 * 5 * 4 * 3, 10**7])
@pytest.mark.parametrize("lengths", [[7], [1], [5, 5, 5], [4, 9, 4, 1, 9], [3, 0, 2]])
def test_chunks_equal_the_law(monkeypatch: pytest.MonkeyPatch, lengths: list[int], chunk: int) -> None:
    monkeypatch.setattr(kernel, "CHUNK_BYTES", chunk)
    numbers = torch.Generator().manual_seed(sum(lengths))
    q, k = torch.randn(2, 3, sum(lengths), 8, generator=numbers)
    got = kernel.received_attention(q, k, lengths, 0.3)
    close(got, kernel.reference(q, k, lengths, 0.3))
    at = 0
    for n in lengths:  # each token's queries have one to give
        close(float(got[at : at + n].sum()), float(n > 0))
        at += n


def test_attention_never_leaves_its_segment() -> None:
    q, k = torch.randn(2, 3, 12, 8, generator=torch.Generator().manual_seed(1))
    whole = kernel.received_attention(q, k, [4, 8], 0.3)
    k[:, 4:] += 5
    assert torch.equal(kernel.received_attention(q, k, [4, 8], 0.3)[:4], whole[:4])


@pytest.mark.parametrize("unit", [1, 4])
@pytest.mark.parametrize("lengths", [[8], [4], [12, 12, 12], [4, 8, 4, 4, 8], [4, 0, 8], []])
def test_the_attention_of_the_mean_query_equals_the_law(lengths: list[int], unit: int) -> None:
    numbers = torch.Generator().manual_seed(sum(lengths))
    q, k = torch.randn(2, 3, sum(lengths), 8, generator=numbers)
    got = pooled.pooled_attention(q, k, lengths, unit, 0.3)
    close(got, pooled.reference(q, k, lengths, unit, 0.3))
    assert got.shape == (sum(lengths) // unit,)
    close(float(got.sum()), float(sum(n > 0 for n in lengths)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_summed_in_fp32(dtype: torch.dtype) -> None:
    q, k = torch.randn(2, 3, 12, 8, generator=torch.Generator().manual_seed(1)).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = kernel.received_attention(q, k, [4, 8], 0.3)
        of_mean = pooled.pooled_attention(q, k, [4, 8], 2, 0.3)
    assert got.dtype == of_mean.dtype == torch.float32
    close(got, kernel.reference(q, k, [4, 8], 0.3))
    close(of_mean, pooled.reference(q, k, [4, 8], 2, 0.3))


# ---- against the tower's own eager kernel


class Eager:
    """The weights and keys of a tower's own attention, block after block, folded into tokens in raster order."""

    def __init__(self, model: Any, family: str, patch: pytest.MonkeyPatch) -> None:
        self.model, self.calls = model, []
        module = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
        stock = module.eager_attention_forward

        def spy(owner: Any, query: Tensor, key: Tensor, *rest: Any, **more: Any) -> Any:
            out, weights = stock(owner, query, key, *rest, **more)
            if "Vision" in type(owner).__name__:
                self.calls.append((owner, weights[0], query[0], key[0]))
            return out, weights

        patch.setattr(module, "eager_attention_forward", spy)

    @torch.no_grad()
    def of(self, pixels: Tensor, grid: Tensor, block: int) -> dict[str, Tensor]:
        """[N] received and [N, d] keys of a block, for one call of the tower."""
        self.calls.clear()
        tower = self.model.model.visual
        states: list[Tensor] = []
        handle = tower.blocks[block].register_forward_hook(lambda _m, _a, out: states.append(out))
        tower(pixels, grid_thw=grid)
        handle.remove()
        own = [call for call in self.calls if call[0] is tower.blocks[block].attn]
        received = torch.cat([weights.mean((0, 1)) for _, weights, _, _ in own])  # segments in order
        keys = torch.cat([key.mean(0) for *_, key in own])
        pooled = []
        for layer, _, query, key in own:
            of_tokens = torch.stack([key[:, at : at + 4].mean(1) for at in range(0, key.shape[1], 4)], dim=1)
            logits = torch.einsum("hd,htd->ht", query.mean(1), of_tokens) * layer.scaling
            pooled.append(logits.softmax(-1).mean(0).repeat_interleave(4))

        def fold(x: Tensor) -> Tensor:
            return adapter_for(self.model).raster(x, grid)

        return {
            "received": fold(received[:, None])[:, 0], "keys": fold(keys), "states": fold(states[0]),
            "pooled": fold(torch.cat(pooled)[:, None])[:, 0],
        }  # fmt: skip


@pytest.fixture(params=FAMILIES)
def tower(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Eager]]:
    yield request.param, Eager(tiny_model("eager", request.param), request.param, monkeypatch)


def shown(model: Any, inputs: dict[str, Any], query: VisionQuery, at: int = DOOR, **plan: Any) -> list[Evidence]:
    notes = Notes(Needs(vision=query))
    watched(model, inputs, replace(Plan((Step(at, notes),)), **plan))
    return notes.seen


@pytest.mark.parametrize("at", [DOOR, 2])
@pytest.mark.parametrize("case", ["one_video", "images"])
def test_received_attention_and_keys_are_the_eager_kernels(tower: Any, case: str, at: int) -> None:
    family, eager = tower
    inputs = make_inputs(CASES[case], family=family)
    names = ("pixel_values_videos", "video_grid_thw") if case == "one_video" else ("pixel_values", "image_grid_thw")
    wanted = [eager.of(*(inputs[name] for name in names), block) for block in (0, 0)]
    (seen,) = shown(tiny_model("sdpa", family), inputs, VisionQuery((0, 0), what=ALL), at)
    assert seen.vision is not None and list(seen.vision) == list(ALL)
    for name, found in seen.vision.items():
        assert found.dtype == torch.float32
        close(found, torch.stack([each[name] for each in wanted]))
    assert seen.taps is seen.vision["states"]


def test_windows_and_whole_frames_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tower with windows of 2 x 2 tokens whose last block alone sees whole frames."""
    model = deep_tower()
    model.set_attn_implementation("eager")
    eager = Eager(model, "qwen2_5_vl", monkeypatch)
    inputs = make_inputs([[("text", 2), ("video", 2, 5, 3), ("text", 4)]])
    inputs = {name: x.clamp(max=299) if name == "input_ids" else x for name, x in inputs.items()}
    for name, token in (("video_token_id", 250), ("vision_start_token_id", 251), ("vision_end_token_id", 252)):
        setattr(model.config, name, token)
    grid, pixels = inputs["video_grid_thw"], inputs["pixel_values_videos"]
    adapter = adapter_for(model)
    from prunevid_qwen.forward.vision_evidence import parted, taps_of, watched_vision

    query = VisionQuery((0, -1), what=("keys", "received", "pooled"))
    with watched_vision(adapter, query), torch.no_grad():
        taps = taps_of(model.model.visual(pixels, grid_thw=grid))
    seen = parted(taps, query, adapter.vision_width)
    for number, block in enumerate((0, 3)):
        wanted = eager.of(pixels, grid, block)
        assert len([call for call in eager.calls if call[0] is model.model.visual.blocks[block].attn]) > 2 - block // 3
        for kind in query.kinds:
            close(seen[kind][number], wanted[kind])


@pytest.mark.parametrize("tokens", [7, 16])
def test_chunks_of_the_tower_change_nothing(tokens: int) -> None:
    query = VisionQuery((0,), what=ALL)
    whole, parts = (shown(tiny_model(), make_inputs(MIXED), query, vision_chunk_tokens=n) for n in (None, tokens))
    assert len(whole) == len(parts) == 2
    for one, other in zip(whole, parts, strict=True):
        assert one.vision is not None and other.vision is not None
        for name in ALL:
            close(one.vision[name], other.vision[name])


def test_a_batch_shows_what_its_members_show() -> None:
    query = VisionQuery((-1,), what=("received", "keys"))
    together = shown(tiny_model(), make_inputs(RAGGED), query)
    from tests.test_generation import member

    for b, seen in enumerate(together):
        (alone,) = shown(tiny_model(), member(make_inputs(RAGGED), RAGGED, b), query)
        assert seen.vision is not None and alone.vision is not None
        for name in query.kinds:
            close(seen.vision[name], alone.vision[name])


def test_videos_encoded_ahead_bring_it_along() -> None:
    from prunevid_qwen.forward.vision_evidence import watched_vision

    model, inputs, query = tiny_model(), make_inputs(ONE_VIDEO), VisionQuery((0,), what=("received",))
    (wanted,) = shown(model, inputs, query)
    with vision_from_memory(model.model.visual) as videos, torch.no_grad():
        with watched_vision(adapter_for(model), query):
            features = videos.encode(inputs["pixel_values_videos"], inputs["video_grid_thw"])
        inputs["pixel_values_videos"] = videos.hold(features)
        (seen,) = shown(model, inputs, query)
    assert seen.vision is not None and wanted.vision is not None
    close(seen.vision["received"], wanted.vision["received"])


def test_of_merged_tokens_it_is_the_mean_and_of_dropped_ones_nothing() -> None:
    query = VisionQuery((0,), what=("received", "states"))
    (whole,) = shown(tiny_model(), make_inputs(ONE_VIDEO), query)
    notes = Notes(Needs(vision=query))
    plan = Plan((Step(DOOR, Merging()), Step(1, Uniform(0.5)), Step(2, notes)), compress=False)
    made = watched(tiny_model(), make_inputs(ONE_VIDEO), plan)
    (seen,) = notes.seen
    assert made.trace is not None and seen.vision is not None and whole.vision is not None
    kept = made.trace.samples[0].reductions[1].map.rep
    close(seen.vision["received"], whole.vision["received"].view(1, 40, 2).mean(-1)[:, kept])
    close(seen.vision["states"], whole.vision["states"].view(1, 40, 2, 32).mean(2)[:, kept])


def test_scores_of_a_half_precision_tower_are_fp32() -> None:
    model = tiny_model(dtype=torch.bfloat16)
    (seen,) = shown(model, make_inputs(ONE_VIDEO), VisionQuery((0,), what=ALL))
    assert seen.vision is not None
    assert {name: x.dtype for name, x in seen.vision.items()} == {
        "received": torch.float32, "keys": torch.float32, "states": torch.bfloat16, "pooled": torch.float32,
    }  # fmt: skip
    assert seen.vision["received"].unique().numel() > 60, "bf16 would tell some 8 bits of them apart"


# ---- refused

REFUSED = {
    "a block that is not there": (VisionQuery((2,)), "2"),
    "counted from the end": (VisionQuery((-3,)), "-3"),
    "another width": (VisionQuery((0,), 48), "48"),
    "a CLS token": (VisionQuery((0,), what="cls"), "CLS"),
    "by a share, another width": (VisionQuery((0.5,), 48), "48"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_tower_does_not_have_is_refused(case: str) -> None:
    query, said = REFUSED[case]
    plan = Plan((Step(DOOR, Notes(Needs(vision=query))),))
    with pytest.raises(ConfigError, match=said), pruned(tiny_model(), plan):
        pass


@pytest.mark.parametrize("given", [{"blocks": ()}, {"blocks": (0,), "what": "weights"}, {"blocks": (0,), "what": ()},
    *({"blocks": (0, block)} for block in (0.0, 1.0, True, "last", None)),
])  # fmt: skip
def test_queries_that_say_nothing_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        VisionQuery(**given)


def test_a_query_is_the_same_however_it_is_written() -> None:
    assert VisionQuery([0], what="keys") == VisionQuery((0,), what=["keys"])  # type: ignore[arg-type]
    assert len({VisionQuery((0,), what="keys"), VisionQuery((0,), what=("keys",))}) == 1


def test_two_steps_may_ask_for_the_same_alone() -> None:
    same, other = (Notes(Needs(vision=VisionQuery((0,), what=what))) for what in ("received", "keys"))
    watched(tiny_model(), make_inputs(IMAGES), Plan((Step(DOOR, same), Step(2, same))))
    assert len(same.seen) == 2 and all(each.vision is not None for each in same.seen)
    with pytest.raises(ConfigError, match="vision"), pruned(tiny_model(), Plan((Step(DOOR, same), Step(2, other)))):
        pass
