"""With every stage on and nothing to drop, logits and tokens are those of the stock model, bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.config import PruneVidConfig, get_baseline_config
from prunevid_qwen.forward.hooks import pruned
from tests import flash_attention
from tests.models import CASES, MIXED, RAGGED, make_inputs, tiny_model

KEEP = {"tau": 1.0, "cluster_ratio": 1.0, "keep_ratio": 1.0, "pruning_layer": 2, "min_cluster_tokens": 0}
MODES: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "sample": {"do_sample": True},
    "beam": {"num_beams": 3, "do_sample": False},
    "beam_sample": {"num_beams": 2, "do_sample": True},
    "return_sequences": {"num_return_sequences": 2, "do_sample": True},
}


def generate(model: Any, inputs: dict[str, Any], mode: str) -> Any:
    torch.manual_seed(1)
    return model.generate(**inputs, max_new_tokens=5, return_dict_in_generate=True, output_logits=True, **MODES[mode])


def assert_same(model: Any, case: str, mode: str, config: PruneVidConfig, family: str = "qwen2_5_vl") -> None:
    stock = generate(model, make_inputs(CASES[case], family=family), mode)
    with pruned(model, config) as trace:
        ours = generate(model, make_inputs(CASES[case], family=family), mode)
    assert torch.equal(stock.sequences, ours.sequences)
    assert all(torch.equal(a, b) for a, b in zip(stock.logits, ours.logits, strict=True))
    for sample in trace.samples:
        assert sample.after_stage2 == sample.tokens
        if config.enable_stage2 and sample.tokens:
            assert sample.kept is not None and sample.merged is not None, "a stage did not act"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_every_mode(attention: str, mode: str) -> None:
    assert_same(tiny_model(attention), "mixed", mode, PruneVidConfig(**KEEP, position_scheme="hf"))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_every_batch(attention: str, case: str) -> None:
    assert_same(tiny_model(attention), case, "greedy", PruneVidConfig(**KEEP, position_scheme="hf"))


@pytest.mark.parametrize("case", ["one_video", "ragged", "mixed"])
def test_flash_attention_path(monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    flash_attention.install(monkeypatch)
    model = flash_attention.flash_model(tiny_model("eager"))
    assert_same(model, case, "greedy", PruneVidConfig(**KEEP, position_scheme="hf"))


def test_qwen2_vl() -> None:
    assert_same(
        tiny_model(family="qwen2_vl"), "mixed", "greedy", PruneVidConfig(**KEEP, position_scheme="hf"), "qwen2_vl"
    )


def test_baseline_leaves_only_the_positions() -> None:
    config = get_baseline_config().replace(position_scheme="hf")
    assert_same(tiny_model(), "mixed", "greedy", config)


@pytest.mark.parametrize("samples", [RAGGED, MIXED], ids=["ragged", "mixed"])
def test_reference_positions_are_those_of_the_stock_model_given_them(samples: Any) -> None:
    model, inputs = tiny_model(), make_inputs(samples)
    positions, _ = adapter_for(model).reference_positions(**inputs)
    with torch.no_grad():
        stock = model(**inputs, position_ids=positions).logits
        library = model(**inputs).logits
        with pruned(model, PruneVidConfig(**KEEP)):
            ours = model(**inputs).logits
    assert torch.equal(ours, stock)
    assert not torch.equal(ours, library), "the two schemes agree here, so this proves nothing"
