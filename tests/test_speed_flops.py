"""The FLOPs that the speed benchmark counts are those that torch counts; the papers' formulas give their figures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.evaluation.speed.flops import (
    cluster_flops,
    decode_flops,
    decoder_flops,
    facts_of,
    lm_head_flops,
    macs_fastv,
    macs_fastvid,
    vision_flops,
)
from prunevid_qwen.evaluation.speed.model_shapes import build_model, shape_called
from prunevid_qwen.evaluation.speed.prompt_inputs import PromptSize, make_inputs
from prunevid_qwen.evaluation.speed.timed_run import timed_parts, timed_tokens
from prunevid_qwen.tokens import Block, TokenMap

TINY, CPU = shape_called("tiny"), torch.device("cpu")
PROMPT = PromptSize(frames=8, rows=5, columns=7, text_tokens=20, batch=2)  # windows at the edges are cut both ways


@pytest.fixture(scope="module")
def model() -> Iterator[Any]:
    yield build_model(TINY, CPU, torch.float32, "eager")


def counted(run: Any) -> dict[str, int]:
    with FlopCounterMode(display=False) as counter:
        run()
    return {str(name): sum(ops.values()) for name, ops in counter.get_flop_counts().items()}


def of(counts: dict[str, int], ending: str) -> int:
    return next(count for name, count in counts.items() if name.endswith(ending))


def layers_of(counts: dict[str, int]) -> int:
    return sum(of(counts, f"language_model.layers.{i}") for i in range(TINY.text_config.num_hidden_layers))


def test_the_stock_models_parts_are_counted_exactly(model):
    inputs = make_inputs(PROMPT, model)
    counts = counted(lambda: timed_parts(model, inputs, None))
    tower = max(
        count for name, count in counts.items() if name.endswith((".visual", "VisionTransformerPretrainedModel"))
    )
    assert tower == vision_flops(TINY, (4, 5, 7), 2)  # since 5.18 `generate` calls it outside the model
    assert layers_of(counts) == decoder_flops(TINY, [PROMPT.length] * TINY.text_config.num_hidden_layers, 2)["total"]
    assert of(counts, "lm_head") == lm_head_flops(TINY, 2)


@pytest.mark.parametrize("options", [
    {}, {"selector": "random"}, {"enable_stage1": False}, {"question_tokens": "last"}, {"attention_source": "pre_rope"},
    {"selector": "fastv"}, {"selector": "sparsevlm", "recycle": 0.0}, {"selector": "sparsevlm_plus"},
], ids=str)  # fmt: skip
def test_the_pruned_models_layers_and_scores_are_counted_exactly(model, options):
    config = PruneVidConfig().replace(**options)
    inputs = make_inputs(PROMPT, model)
    found: list[Any] = []
    counts = counted(lambda: found.append(timed_parts(model, inputs, config)))
    parts = found[0]
    facts = facts_of(PROMPT, model, config, parts)
    flops = facts["flops"]
    assert layers_of(counts) == flops["decoder"]["total"] + flops["stage2"]
    assert (flops["stage2"] > 0) == (options != {"selector": "random"})
    assert facts["widths"][0] > facts["widths"][-1] or not facts["layer"]
    if config.compress_cache:
        assert list(facts["cache_lengths"]) == [facts["widths"][-1]] * TINY.text_config.num_hidden_layers
    assert facts["cache_bytes"]["computed"] == facts["cache_bytes"]["measured"] < facts["cache_bytes"]["unpruned"]


@pytest.mark.parametrize("options", [{}, {"ratios": (0.5, 0.2), "layers": (1, 4)}, {"keep_ratio": 1.0}], ids=str)
def test_scores_by_the_next_layer_are_counted_exactly(model, options):
    config = PruneVidConfig(merger=None, selector="pyramiddrop", **options)
    inputs = make_inputs(PROMPT, model)
    found: list[Any] = []
    counts = counted(lambda: found.append(timed_parts(model, inputs, config)))
    flops = facts_of(PROMPT, model, config, found[0])["flops"]
    assert layers_of(counts) == flops["decoder"]["total"]
    angles = sum(n for name, n in counts.items() if name.endswith("language_model.rotary_emb"))  # in some releases
    assert of(counts, "language_model") - angles == flops["decoder"]["total"] + flops["stage2"]
    assert (flops["stage2"] > 0) == ("keep_ratio" not in options)


@pytest.mark.parametrize("config", [None, PruneVidConfig(), PruneVidConfig(enable_cache_compression=False)])
def test_a_step_of_decoding_is_counted_exactly(model, config):
    prompt = PromptSize(4, 4, 5, 12)
    inputs = make_inputs(prompt, model)
    parts = timed_parts(model, inputs, config)
    facts = facts_of(prompt, model, config, parts)
    once, twice = (counted(lambda n=n: timed_tokens(model, inputs, config, n)) for n in (1, 2))
    # not the whole model: rotary angles are a product too in some releases of transformers
    step = layers_of(twice) - layers_of(once) + of(twice, "lm_head") - of(once, "lm_head")
    assert step == decode_flops(TINY, [n + 1 for n in facts["cache_lengths"]]) == facts["flops"]["decode_step"]
    if config is not None and not config.enable_cache_compression:
        assert facts["cache_lengths"][0] > facts["cache_lengths"][-1]
        assert facts["cache_bytes"]["computed"] == facts["cache_bytes"]["measured"]


def test_the_causal_half_is_what_a_causal_kernel_computes():
    n, d = 7, TINY.text_config.hidden_size
    pairs = sum(1 for query in range(n) for key in range(n) if key <= query)
    assert decoder_flops(TINY, [n])["attention_causal"] == 4 * pairs * d
    assert decoder_flops(TINY, [n])["attention"] == 4 * n * n * d


def test_clustering_counts_the_points_of_each_group_once():
    """Two positions of 2x3: locations 0 and 1 are static and become one token, the 4 others of each position two."""
    target = torch.tensor([0, 0, 1, 1, 2, 2, 0, 0, 3, 3, 4, 4])
    rep = torch.tensor([0, 2, 4, 8, 10])
    merged = TokenMap(target, rep, torch.tensor([0, 1, 1, 2, 2]))
    blocks = (Block("video", (2, 2, 3), 0, 12),)
    segments = 2 * 2 * 2  # two positions with each other
    assert cluster_flops(merged, blocks, 10, least=1) == 10 * (segments + 2 * 2 * 2 + 2 * (2 * 4 * 4))
    assert cluster_flops(merged, blocks, 10, least=2) == 10 * (segments + 2 * (2 * 4 * 4))
    assert cluster_flops(TokenMap.identity(12), blocks, 10, least=1) == 0


@pytest.mark.parametrize(
    ("formula", "tokens", "tera"),
    [(macs_fastv, 6272, 40.8), (macs_fastvid, 6272, 48.82), (macs_fastvid, 11648, 103.2), (macs_fastvid, 13447, 124.0)],
)
def test_the_papers_formulas_give_the_papers_figures(formula, tokens, tera):
    """HoliTom and FastVID on 28 layers of a 7B; their tables round."""
    assert formula(shape_called("7b"), [tokens] * 28) / 1e12 == pytest.approx(tera, rel=1e-3)


def test_the_7b_costs_what_the_specification_computed():
    assert decoder_flops(shape_called("7b"), [2148] * 28)["total"] / 1e12 == pytest.approx(29.9, rel=0.01)
    assert vision_flops(shape_called("7b"), (16, 8, 16)) / 1e12 == pytest.approx(10.5, rel=0.02)


def test_the_model_has_the_sizes_of_its_shape(model):
    text, vision = model.model.language_model, model.model.visual
    assert (len(text.layers), len(vision.blocks), vision.fullatt_block_indexes) == (6, 2, [1])
    assert text.layers[0].mlp.up_proj.weight.shape == (96, 64)
    assert text.layers[0].self_attn.k_proj.weight.shape == (32, 64)
    assert vision.blocks[0].attn.qkv.weight.shape == (96, 32)
    assert model.lm_head.weight.shape == (300, 64)
