"""The glimpse selector on a model: nothing dropped is the stock model, pruning is masking, a batch is its members."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.adapters.seams import cache_of
from prunevid_qwen.forward.collector import EvidenceCollector
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.forward.plan import compile_plan
from prunevid_qwen.forward.prefill import Prefill, SampleState
from prunevid_qwen.reducer import Needs, Probe, VisionQuery
from prunevid_qwen.tokens import Block, TokenLayout, TokenMap
from prunevid_qwen.tokens.trace import DOOR, Reduction
from tests import glimpse
from tests.masking import masked_logits, text_inputs
from tests.models import CACHE, CASES, IMAGE, IMAGES, MIXED, RAGGED, VIDEO, make_inputs, tiny_model
from tests.one_row import seen_by
from tests.pruned_generation import OUT, oracle, same_logits
from tests.test_keep_everything import MODES, generate
from tests.test_pruning_equals_masking import STEPS
from tests.tolerances import LOGITS, close

# attention of two layers, and a drop only after a third
SPREAD = replace(glimpse.FACTS, selected_layers=(0, 2), reduce_layer=3)


def spy(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Collect (row of the prompt, its probe) as the selector is about to read it."""
    seen: list[Any] = []
    stock = EvidenceCollector.after_layer

    def after(self: EvidenceCollector, layer: int, kwargs: Any, device: torch.device) -> bool:
        probe = self._here.probe
        ran = stock(self, layer, kwargs, device)
        if ran and layer == self.probed_layers[-1]:
            seen.append([row.probe for row in probe.state.rows])
        return ran

    monkeypatch.setattr(EvidenceCollector, "after_layer", after)
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
        assert set(trace.cache_lengths) == {cache_of(stock).get_seq_length() - 4}, "the glimpse token left a trace"


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
        close(got[b], logits, LOGITS)
    assert any(0 < s.after_stage2 < s.tokens for s in trace.samples), "the case prunes nothing, so it proves nothing"
    assert len(set(trace.cache_lengths)) == 1


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("stage1", [False, True])
def test_pruning_is_masking_without_stage_3(attention: str, stage1: bool) -> None:
    model, config = tiny_model(attention), glimpse.config(enable_cache_compression=False, enable_stage1=stage1)
    with pruned(model, config) as trace:
        out = model.generate(**make_inputs(RAGGED), max_new_tokens=STEPS + 1, do_sample=False, **OUT)
    for b, logits in enumerate(oracle(RAGGED, out.sequences, trace, config)):
        same_logits(torch.stack(out.logits, 1)[b], logits)
    assert len(set(trace.cache_lengths)) == 2


@pytest.mark.usefixtures("scores_apart")
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_prefix_in_the_cache_changes_nothing(attention: str) -> None:
    """Rows with unequal padding, of which the first texts were read before the videos came."""
    model, config, cut = tiny_model(attention), glimpse.config(), 15
    samples = [[("text", 20), ("video", 4, 4, 5), ("text", 6)], [("text", 9), ("video", 4, 4, 5), ("text", 6)]]
    inputs = make_inputs(samples)
    with pruned(model, config) as trace, torch.no_grad():
        whole = model(**inputs).logits[:, -1]
    wanted = [sample.kept.rep for sample in trace.samples]
    positions, _ = adapter_for(model).reference_positions(**inputs)
    ids, types = inputs.pop("input_ids"), inputs.pop("mm_token_type_ids")
    cache = DynamicCache(config=model.config.text_config)
    first = {"input_ids": ids[:, :cut], "attention_mask": inputs["attention_mask"][:, :cut]}
    rest = {**inputs, "input_ids": ids[:, cut:], "mm_token_type_ids": types[:, cut:]}
    with pruned(model, config) as trace, torch.no_grad():
        model(**first, position_ids=positions[:, :, :cut], **{CACHE: cache})
        after = model(**rest, position_ids=positions[:, :, cut:], **{CACHE: cache}).logits[:, -1]
    assert all(torch.equal(rep, sample.kept.rep) for rep, sample in zip(wanted, trace.samples, strict=True))
    same_logits(after, whole)


def stop(*_: Any) -> None:
    raise MemoryError


def test_nothing_of_a_prompt_is_kept_alive() -> None:
    model = tiny_model()
    with pruned(model, glimpse.config()):
        out = model.generate(**make_inputs(RAGGED), max_new_tokens=2, do_sample=False, **OUT)
        cache = weakref.ref(cache_of(out))
        del out
        gc.collect()
        assert cache() is None
        cache = DynamicCache(config=model.config.text_config)
        handle = model.model.language_model.layers[1].mlp.register_forward_pre_hook(stop)
        with pytest.raises(MemoryError), torch.no_grad():
            model(**make_inputs(RAGGED), **{CACHE: cache})
        handle.remove()
        cache = weakref.ref(cache)
        gc.collect()
        assert cache() is None


def test_evidence_is_let_go_once_it_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    states: list[Prefill] = []
    stock = EvidenceCollector.before_layers
    monkeypatch.setattr(
        EvidenceCollector, "before_layers", lambda self, state, *rest: states.append(state) or stock(self, state, *rest)
    )
    with pruned(tiny_model(), glimpse.config()), torch.no_grad():
        tiny_model()(**make_inputs(RAGGED))
    assert all(row.reductions and row.probe is None and row.taps is None for row in states[0].rows)


@pytest.mark.parametrize("selector", ["glimpse", "oracle"])
def test_where_everything_is_kept_nothing_is_asked_for(selector: str) -> None:
    config = glimpse.config(selector=selector, keep_ratio=1)
    plan = compile_plan(config, 6)
    assert config.fixed_keep_ratio == 1
    assert plan.cuts[-1].by.needs == Needs(layer=glimpse.LAYER if selector == "glimpse" else None)
    with pruned(tiny_model(), config) as trace, torch.no_grad():
        tiny_model()(**make_inputs(MIXED))
    assert all(sample.kept is None or sample.kept.is_identity for sample in trace.samples)


def test_the_default_device_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    stock = EvidenceCollector.before_layers

    def elsewhere(self: EvidenceCollector, *args: Any) -> None:
        with torch.device("meta"):
            stock(self, *args)

    kept = []
    for replaced in (stock, elsewhere):
        monkeypatch.setattr(EvidenceCollector, "before_layers", replaced)
        with pruned(tiny_model(), glimpse.config()) as trace, torch.no_grad():
            tiny_model()(**make_inputs(RAGGED))
        kept.append([sample.kept.rep for sample in trace.samples])
    assert all(torch.equal(a, b) for a, b in zip(*kept, strict=True))


def test_evidence_meets_on_the_device_of_layer_m() -> None:
    """Under a device map stage 1 and the probed layers may be elsewhere."""
    places, blocks = torch.arange(11), (Block("image", (1, 2, 3), 0, 6),)
    layout = TokenLayout(11, places[2:8], places[8:], blocks, torch.zeros(6, dtype=torch.long))
    merged = TokenMap(torch.tensor([0, 0, 1, 2, 3, -1]), torch.tensor([0, 2, 3, 4]))
    after, _ = layout.apply(merged)
    row = SampleState(layout, layout.length, after, [Reduction(DOOR, "", merged)], probe=torch.zeros(1, 4, 1, 4))
    row.taps, row.marks = torch.zeros(6, 1, 32), torch.ones(6)
    needs = Needs(probe=Probe(torch.zeros(6, 1, 64), (0,), 4), vision=VisionQuery((0,), 32), marks=True)
    device = torch.device("meta")
    seen = seen_by(needs, row, torch.zeros(after.length, 64, device=device), 32)
    assert {x.device for x in (seen.probe, seen.taps, seen.marks)} == {device}
    assert (seen.taps.shape, seen.marks.shape) == ((1, 4, 32), (4,))


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
        # sums over the layers below in another order: on some CPUs a logit near 0 differs by 1.1e-5
        close(probe[:, :, 0], wanted, LOGITS)
