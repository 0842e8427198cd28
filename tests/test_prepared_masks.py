"""Attention masks of four dimensions and mappings of them: causal with padding is pruned as its flat mask is.

What says more passes through where nothing is dropped, and is refused elsewhere.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from prunevid_qwen.adapters.seams import cache_of
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import UnsupportedError
from prunevid_qwen.forward.hooks import pruned
from tests.models import CACHE, ONE_VIDEO, RAGGED, make_inputs, tiny_model
from tests.test_pruning_equals_masking import TINY
from tests.tolerances import LOGITS, close

CONFIG = PruneVidConfig(**TINY, position_scheme="hf")
STAGE2 = CONFIG.replace(enable_stage1=False, enable_cache_compression=False)
STAGE1 = CONFIG.replace(enable_stage2=False, enable_cache_compression=False)
KEEP = PruneVidConfig(tau=1.0, cluster_ratio=1.0, keep_ratio=1.0, pruning_layer=1, position_scheme="hf")
SMALLEST = torch.finfo(torch.float32).min


def with_positions(case: Any) -> dict[str, Any]:
    """Inputs as the stock model takes them beside a prepared mask."""
    inputs = make_inputs(case)
    grids = {k: v for k, v in inputs.items() if k not in ("pixel_values", "pixel_values_videos")}
    return {**inputs, "position_ids": copy.deepcopy(tiny_model()).model.get_rope_index(**grids)[0]}


def seen(inputs: dict[str, Any]) -> torch.Tensor:
    """[B, 1, S, S]: causal with padding; a row of padding sees itself."""
    flat = inputs["attention_mask"].bool()
    length = flat.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    return ((causal & flat[:, None]) | torch.eye(length, dtype=torch.bool))[:, None]


def as_floats(mask: torch.Tensor) -> torch.Tensor:
    return torch.zeros(mask.shape).masked_fill(~mask, SMALLEST)


PLAIN = {
    "bool": seen,
    "float": lambda inputs: as_floats(seen(inputs)),
    "mapping": lambda inputs: {"full_attention": seen(inputs)},
}
ODD = {
    "all seen": lambda inputs: torch.zeros(1, 1, *seen(inputs).shape[-2:]),
    "flat, in four dimensions": lambda inputs: inputs["attention_mask"][:, None, None].bool(),
    "a bias": lambda inputs: as_floats(seen(inputs)) - 0.5 * torch.eye(seen(inputs).shape[-1]),
    "a slope": lambda inputs: torch.zeros(seen(inputs).shape).masked_fill(~seen(inputs), -5.0),
    "packed": lambda inputs: seen(inputs) & (torch.arange(seen(inputs).shape[-1])[:, None] - 9 < torch.arange(
        seen(inputs).shape[-1])),
    "a mapping": lambda inputs: {"full_attention": torch.zeros(1, 1, *seen(inputs).shape[-2:])},
}  # fmt: skip


def run(config: PruneVidConfig | None, inputs: dict[str, Any]) -> tuple[torch.Tensor, Any]:
    with torch.no_grad():
        if config is None:
            return tiny_model()(**inputs).logits, None
        with pruned(tiny_model(), config) as trace:
            return tiny_model()(**inputs).logits, trace


@pytest.mark.parametrize("case", [ONE_VIDEO, RAGGED], ids=["one_video", "ragged"])
@pytest.mark.parametrize("form", PLAIN)
@pytest.mark.parametrize("config", [CONFIG, STAGE2], ids=["all", "stage2"])
def test_causal_with_padding_is_its_flat_mask(config: PruneVidConfig, form: str, case: Any) -> None:
    inputs = with_positions(case)
    wanted, flat = run(config, inputs)
    got, trace = run(config, {**inputs, "attention_mask": PLAIN[form](inputs)})
    assert wanted.shape[1] < inputs["input_ids"].shape[1]
    for b, (ours, theirs) in enumerate(zip(trace.samples, flat.samples, strict=True)):
        left = ours.length - ours.tokens + ours.after_stage2
        assert torch.equal(trace.kept[b], flat.kept[b]) and ours.length == theirs.length
        close(got[b, -left:], wanted[b, -left:], LOGITS)


def test_a_mapping_of_no_mask() -> None:
    inputs = with_positions(ONE_VIDEO)
    wanted, _ = run(CONFIG, inputs)
    close(run(CONFIG, {**inputs, "attention_mask": {"full_attention": None}})[0], wanted, LOGITS)


def test_one_mask_for_all_rows() -> None:
    inputs = with_positions([*ONE_VIDEO, *ONE_VIDEO])
    wanted, _ = run(CONFIG, inputs)
    close(run(CONFIG, {**inputs, "attention_mask": seen(inputs)[:1]})[0], wanted, LOGITS)


@pytest.mark.parametrize("text", [False, True], ids=["three", "four"])
@pytest.mark.parametrize("config", [CONFIG, STAGE1, STAGE2, KEEP], ids=["all", "stage1", "stage2", "kept"])
def test_positions_of_one_row_are_those_of_all(config: PruneVidConfig, text: bool) -> None:
    """The library broadcasts them."""
    inputs = with_positions([*ONE_VIDEO, *ONE_VIDEO])
    one = inputs["position_ids"][:, :1]
    if text:
        one = torch.cat([torch.arange(one.shape[-1]).view(1, 1, -1), one])
    wanted, _ = run(config, {**inputs, "position_ids": one.repeat(1, 2, 1)})
    got, trace = run(config, {**inputs, "position_ids": one})
    assert torch.equal(got, wanted) and len(trace.samples) == 2


@pytest.mark.parametrize("form", [*PLAIN, *ODD])
def test_with_everything_kept_it_is_the_stock_model(form: str) -> None:
    inputs = with_positions(RAGGED)
    inputs["attention_mask"] = {**PLAIN, **ODD}[form](inputs)
    assert torch.equal(run(KEEP, inputs)[0], run(None, inputs)[0])


@pytest.mark.parametrize("form", ODD)
@pytest.mark.parametrize("config", [CONFIG, STAGE1, STAGE2], ids=["all", "stage1", "stage2"])
def test_what_says_more_is_refused_where_tokens_are_dropped(config: PruneVidConfig, form: str) -> None:
    inputs = with_positions(RAGGED)
    with pytest.raises(UnsupportedError, match=f"{inputs['input_ids'].shape[1]}] of torch"):
        run(config, {**inputs, "attention_mask": ODD[form](inputs)})


@pytest.mark.parametrize("mask", [{"sliding_attention": None}, {"full_attention": "block"}], ids=["other", "object"])
def test_mappings_that_nobody_can_read(mask: dict[str, Any]) -> None:
    inputs = with_positions(ONE_VIDEO)
    with pytest.raises(UnsupportedError) as raised:
        prepared = {**inputs, "attention_mask": mask}
        model = copy.deepcopy(tiny_model())
        model.model.language_model.forward = lambda **_: pytest.fail("went on")
        with pruned(model, CONFIG):
            model(**prepared)
    assert "sliding_attention" in str(raised.value) or "str" in str(raised.value)


@pytest.mark.parametrize("scheme", ["hf", "reference"])
def test_positions_are_counted_by_a_flat_mask(scheme: str) -> None:
    """The stock model cannot either: an IndexError of its own. `generate` refuses such masks itself."""
    inputs = make_inputs(ONE_VIDEO)
    for mask in (seen(inputs), inputs["attention_mask"][:, None, None].bool()):
        with pytest.raises(UnsupportedError, match=str(inputs["input_ids"].shape[1])):
            run(CONFIG.replace(position_scheme=scheme), {**inputs, "attention_mask": mask})


def test_a_step_on_a_pruned_cache() -> None:
    step = {"input_ids": torch.tensor([[20]]), "position_ids": torch.full((3, 1, 1), 40)}
    with torch.no_grad(), pruned(tiny_model(), CONFIG):
        cache = cache_of(tiny_model()(**make_inputs(ONE_VIDEO)))
        with pytest.raises(UnsupportedError, match="columns"):
            tiny_model()(**step, attention_mask=torch.ones(1, 1, 1, 9, dtype=torch.bool), **{CACHE: cache})


def test_packed_prompts() -> None:
    inputs = with_positions(ONE_VIDEO)
    del inputs["attention_mask"]
    text = torch.arange(inputs["input_ids"].shape[1])[None, None]
    whole, _ = run(CONFIG, {**inputs, "position_ids": torch.cat([text, inputs["position_ids"]])})
    assert whole.shape[1] < text.shape[-1]
    inputs["position_ids"] = torch.cat([text % 50, inputs["position_ids"]])
    assert torch.equal(run(KEEP, inputs)[0], run(None, inputs)[0])
    with pytest.raises(UnsupportedError, match="packed"):
        run(CONFIG, inputs)
    for config in (CONFIG, KEEP):  # without a cache the library keeps such prompts from each other
        with pytest.raises(UnsupportedError, match="use_cache"):
            run(config, {**inputs, "use_cache": False})


@pytest.mark.parametrize("config", [CONFIG, KEEP], ids=["pruned", "kept"])
def test_positions_of_ones_own_in_two_dimensions(config: PruneVidConfig) -> None:
    inputs = make_inputs(ONE_VIDEO)
    length = inputs["input_ids"].shape[1]
    with pytest.raises(UnsupportedError, match=rf"\[1, {length}\]"):
        run(config, {**inputs, "position_ids": torch.arange(length)[None]})
