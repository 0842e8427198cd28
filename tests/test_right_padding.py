"""Padding on the right of a forward without generation. The oracle: the same rows, padded on the left."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prunevid_qwen.adapters.seams import cache_of
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import UnsupportedError
from prunevid_qwen.forward.hooks import pruned
from tests import glimpse
from tests.models import CACHE, MIXED, RAGGED, make_inputs, tiny_model
from tests.test_pruning_equals_masking import TINY
from tests.tolerances import LOGITS, close

CONFIG = PruneVidConfig(**TINY)
CONFIGS = {
    "all": CONFIG,
    "stage1": CONFIG.replace(enable_stage2=False, enable_cache_compression=False),
    "stage2": CONFIG.replace(enable_stage1=False, enable_cache_compression=False),
    "stage2+3": CONFIG.replace(enable_stage1=False),
    "pre_rope": CONFIG.replace(attention_source="pre_rope"),
    "glimpse": glimpse.config(),
}
KEEP = PruneVidConfig(tau=1.0, cluster_ratio=1.0, keep_ratio=1.0, pruning_layer=1, position_scheme="hf")
CASES = {"ragged": RAGGED, "mixed": MIXED}


def padded(case: Any, right: bool = True) -> dict[str, Any]:
    inputs = make_inputs(case)
    for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
        for row, mask in zip(inputs[name], make_inputs(case)["attention_mask"], strict=True):
            if right:
                row.copy_(row.roll(-int((mask == 0).sum())))
    return inputs


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", CONFIGS)
def test_it_is_the_same_as_padding_on_the_left(name: str, case: str) -> None:
    config, outs = CONFIGS[name], []
    for right in (False, True):
        with torch.no_grad(), pruned(tiny_model(), config) as trace:
            outs.append((tiny_model()(**padded(CASES[case], right)).logits, trace))
    (wanted, left), (got, trace) = outs
    assert got.shape == wanted.shape and got.shape[1] < make_inputs(CASES[case])["input_ids"].shape[1]
    for b, sample in enumerate(trace.samples):
        assert torch.equal(trace.kept[b], left.kept[b])
        own = sample.length - sample.tokens + sample.after_stage2
        close(got[b, -own:], wanted[b, -own:], LOGITS)


@pytest.mark.parametrize("case", CASES)
def test_with_everything_kept_it_is_the_stock_model(case: str) -> None:
    with torch.no_grad():
        stock = tiny_model()(**padded(CASES[case])).logits
        with pruned(tiny_model(), KEEP):
            assert torch.equal(tiny_model()(**padded(CASES[case])).logits, stock)


@pytest.mark.parametrize("name", ["all", "stage2"])
def test_a_step_after_it(name: str) -> None:
    """Somebody goes on by hand, from the logits of each row's last token."""
    outs, step = [], torch.tensor([[20], [21]])
    for right in (False, True):
        inputs = padded(RAGGED, right)
        mask = torch.cat([inputs["attention_mask"], torch.ones(2, 1, dtype=torch.long)], dim=1)
        with torch.no_grad(), pruned(tiny_model(), CONFIGS[name]):
            cache = cache_of(tiny_model()(**inputs))
            place = torch.tensor([[40], [45]]).expand(3, -1, -1)
            outs.append(tiny_model()(input_ids=step, attention_mask=mask, position_ids=place, **{CACHE: cache}).logits)
    close(outs[1], outs[0], LOGITS)


def test_a_loss() -> None:
    losses = []
    for right in (False, True):
        inputs = padded(RAGGED, right)
        labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
        with torch.no_grad(), pruned(tiny_model(), CONFIG):
            losses.append(tiny_model()(**inputs, labels=labels).loss)
    close(losses[1], losses[0], LOGITS)


@pytest.mark.parametrize("config", [CONFIG, KEEP], ids=["pruned", "kept"])
def test_an_answer_cannot_go_on_from_padding(config: PruneVidConfig) -> None:
    with pruned(tiny_model(), config), pytest.raises(UnsupportedError, match="padding_side = 'left'"):
        tiny_model().generate(**padded(RAGGED), max_new_tokens=2)
    with torch.no_grad(), pruned(tiny_model(), config), pytest.raises(UnsupportedError, match="logits_to_keep"):
        tiny_model()(**padded(RAGGED), logits_to_keep=1)
