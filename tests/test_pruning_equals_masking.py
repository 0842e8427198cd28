"""Pruning equals masking: prefill and 20 decode steps, every combination of stages, ragged batches."""

from __future__ import annotations

import pytest
import torch

from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.adapters.seams import cache_of
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.forward.hooks import pruned
from tests.masking import masked_logits, text_inputs
from tests.models import CASES, RAGGED, make_inputs, tiny_model
from tests.tolerances import LOGITS, close

STEPS = 20
# the tiny model's features are noisier than a trained one's, so a lower threshold finds static tokens in them
TINY = {"tau": 0.5, "cluster_ratio": 0.5, "pruning_layer": 2, "min_cluster_tokens": 4, "temporal_segment_ratio": 0.5}
STAGES = {
    "all": {},
    "stage1": {"enable_stage2": False, "enable_cache_compression": False},
    "stage2": {"enable_stage1": False, "enable_cache_compression": False},
    "stage1+2": {"enable_cache_compression": False},
    "stage2+3": {"enable_stage1": False},
    "authors": {
        "dpc_knn_k": 7, "attention_source": "pre_rope", "selection_scope": "per_group", "token_order": "grouped",
    },
    "hf positions": {"position_scheme": "hf"},
    "last layer": {"pruning_layer": 5},
    "first layer": {"pruning_layer": 0, "merged_position": "mean", "attention_aggregation": "mean"},
}  # fmt: skip


def check(attention: str, case: str, options: dict[str, object], dtype: torch.dtype = torch.float32) -> None:
    model = tiny_model(attention, dtype=dtype)
    config = PruneVidConfig(**{**TINY, **options})
    inputs = make_inputs(CASES[case])
    with pruned(model, config) as trace:
        out = model.generate(
            **make_inputs(CASES[case]), max_new_tokens=STEPS + 1, do_sample=False,
            return_dict_in_generate=True, output_logits=True,
        )  # fmt: skip
    embeds, positions = text_inputs(tiny_model("eager", dtype=dtype), make_inputs(CASES[case]))
    if config.position_scheme == "reference":
        positions, _ = adapter_for(model).reference_positions(**inputs)
    wanted = masked_logits(
        tiny_model("eager", dtype=dtype), embeds, positions, inputs, out.sequences, trace,
        config.enable_cache_compression,
    )  # fmt: skip
    got = torch.stack(out.logits, 1)  # [B, steps, V]
    for b, logits in enumerate(wanted):
        close(got[b], logits.to(got.dtype), LOGITS, msg=lambda m, b=b: f"sample {b}: {m}")
    changed = [s for s in trace.samples if s.tokens > 8]
    assert changed or case == "images"
    for sample in changed:
        if config.enable_stage2:
            assert sample.after_stage2 < sample.after_stage1, "the case prunes nothing, so it proves nothing"
        if config.enable_stage1 and sample.blocks[0].kind == "video":
            assert sample.after_stage1 < sample.tokens


@pytest.mark.parametrize("stages", STAGES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_stages(attention: str, stages: str) -> None:
    check(attention, "ragged", STAGES[stages])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_batches(attention: str, case: str) -> None:
    check(attention, case, {"keep_ratio": 0.3})


def test_every_layer_decodes_on_one_length() -> None:
    model = tiny_model()
    with pruned(model, PruneVidConfig(**TINY)) as trace:
        out = model.generate(**make_inputs(RAGGED), max_new_tokens=3, return_dict_in_generate=True)
    cache = cache_of(out)
    assert len(set(trace.cache_lengths)) == 1
    assert {cache.physical_length(i) for i in range(6)} == {trace.cache_lengths[0] + 2}
    assert cache.get_seq_length() == out.sequences.shape[1] - 1
