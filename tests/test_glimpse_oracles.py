"""The glimpse selector on a model: nothing dropped is the stock model, pruning is masking, a batch is its members."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.gathering import Gathering
from prunevid_qwen.hooks import pruned
from tests import glimpse
from tests.masking import masked_logits, text_inputs
from tests.models import CASES, IMAGE, IMAGES, MIXED, RAGGED, VIDEO, make_inputs, tiny_model
from tests.test_keep_everything import MODES, generate
from tests.test_pruning_equals_masking import STEPS
from tests.tolerances import CLOSE, LOGITS

# attention of two layers, and a drop only after a third
SPREAD = replace(glimpse.FACTS, selected_layers=(0, 2), reduce_layer=3)


def spy(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Collect (row of the prompt, its probe) as the selector is about to read it."""
    seen: list[Any] = []
    stock = Gathering.after_layer

    def after(self: Gathering, layer: int, kwargs: Any, device: torch.device) -> bool:
        ran = stock(self, layer, kwargs, device)
        if ran and layer == self.probed_layers[-1]:
            seen.append([row.probe for row in self._probe.state.rows])
        return ran

    monkeypatch.setattr(Gathering, "after_layer", after)
    return seen


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("mode", MODES)
def test_nothing_dropped_is_the_stock_model_bit_for_bit(attention: str, mode: str) -> None:
    model, config = tiny_model(attention), glimpse.config(keep_threshold=0.0, position_scheme="hf")
    for case in ("mixed", "images", "ragged"):
        stock = generate(model, make_inputs(CASES[case]), mode)
        with pruned(model, config) as trace:
            ours = generate(model, make_inputs(CASES[case]), mode)
        assert torch.equal(stock.sequences, ours.sequences)
        assert all(torch.equal(a, b) for a, b in zip(stock.logits, ours.logits, strict=True))
        assert all(s.kept is not None and s.kept.is_identity for s in trace.samples if s.tokens)
        assert set(trace.cache_lengths) == {stock.past_key_values.get_seq_length() - 4}, (
            "the glimpse token left a trace"
        )


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("case", CASES)
def test_pruning_is_masking(attention: str, case: str) -> None:
    model, config = tiny_model(attention), glimpse.config()
    inputs = make_inputs(CASES[case])
    with pruned(model, config) as trace:
        out = model.generate(
            **make_inputs(CASES[case]), max_new_tokens=STEPS + 1, do_sample=False,
            return_dict_in_generate=True, output_logits=True,
        )  # fmt: skip
    embeds, _ = text_inputs(tiny_model("eager"), make_inputs(CASES[case]))
    positions, _ = adapter_for(model).reference_positions(**inputs)
    wanted = masked_logits(tiny_model("eager"), embeds, positions, inputs, out.sequences, trace, True)
    got = torch.stack(out.logits, 1)
    for b, logits in enumerate(wanted):
        torch.testing.assert_close(got[b], logits, **LOGITS[torch.float32])
    assert any(0 < s.after_stage2 < s.tokens for s in trace.samples), "the case prunes nothing, so it proves nothing"
    assert len(set(trace.cache_lengths)) == 1


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("samples", [RAGGED, MIXED, IMAGES], ids=["ragged", "mixed", "images"])
def test_the_probe_sees_what_a_token_in_the_sequence_would(
    attention: str, samples: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, config, seen = tiny_model(attention), glimpse.config(), spy(monkeypatch)
    inputs = make_inputs(samples)
    with pruned(model, config):
        model.generate(**make_inputs(samples), max_new_tokens=1)
    embeds, _ = text_inputs(tiny_model("eager"), make_inputs(samples))
    positions, _ = adapter_for(model).reference_positions(**inputs)
    predictor = glimpse.random_predictor()
    for b, probe in enumerate(seen[0]):
        at = inputs["attention_mask"][b].nonzero()[:, 0]
        ids = inputs["input_ids"][b, at].tolist()
        visual = [i for i, token in enumerate(ids) if token in (IMAGE, VIDEO)]
        if not visual:
            assert probe is None
            continue
        wanted = glimpse.inside_the_sequence(predictor, embeds[b : b + 1, at], positions[:, b : b + 1, at], visual)
        torch.testing.assert_close(probe[:, :, 0], wanted, **CLOSE[torch.float32])
