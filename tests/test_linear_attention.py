"""What a decoder with layers of linear attention (Qwen3.5) has that others have not: places of steps, and its cache.

Three layers in four are of linear attention, as in the published checkpoints. The law is the stock model's forward in
which those layers are given the short sequence alone, as their states cannot forget.
"""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
import torch

from prunevid_qwen.adapters import adapter_for, family_of
from prunevid_qwen.adapters.seams import cache_of, transformers_release
from prunevid_qwen.adapters.tiny.model import drawn
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import ConfigError, UnsupportedError
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.forward.layer_kinds import on_attending_layers
from prunevid_qwen.forward.plan import Plan, Step, compile_plan
from prunevid_qwen.forward.selfcheck.masked_forward import decoder_inputs, masked_logits
from prunevid_qwen.needs import Needs
from prunevid_qwen.receipt import receipt
from prunevid_qwen.stage2_select import FastV, Uniform
from prunevid_qwen.stage3_kv.cache import size_of
from prunevid_qwen.tokens.trace import DOOR
from tests.families import FAMILIES, family_inputs, family_model
from tests.looking import NextLayer
from tests.masking import masked_logits as by_masking
from tests.masking import text_inputs
from tests.models import CACHE
from tests.test_empty_frames import EMPTIES
from tests.test_family_oracles import OUT, config, generate, oracle
from tests.tolerances import LOGITS, close
from tests.watching import Notes

FAMILY = "qwen3_5"
CONTINUES = tuple(map(int, transformers_release().split(".")[:2])) >= (5, 17)
pytestmark = [
    pytest.mark.usefixtures("scores_apart"),
    pytest.mark.skipif(FAMILY not in FAMILIES, reason="this release has no Qwen3.5"),
]


@cache
def published_pattern(attention: str = "eager") -> Any:
    """A tiny Qwen3.5 of 8 layers, of which the fourth and the last attend."""
    options = copy.deepcopy(family_model(FAMILY).config)
    options.text_config.num_hidden_layers = 8
    options.text_config.layer_types = [*["linear_attention"] * 3, "full_attention"] * 2
    with torch.random.fork_rng():
        return drawn(type(family_model(FAMILY))._from_config(options, attn_implementation=attention))


def recomputed(model: Any, out: Any, trace: Any, compress: bool) -> list[torch.Tensor]:
    inputs, adapter = family_inputs(FAMILY, "batch"), adapter_for(model)
    with torch.no_grad():
        embeds = decoder_inputs(model, adapter, inputs)
        positions, _ = adapter.reference_positions(**inputs)
        rows = []
        for b, row in enumerate(trace.samples):
            at = inputs["attention_mask"][b].nonzero()[:, 0]
            prompt = inputs["input_ids"][b, at], embeds[:, b, at], positions[:, b, at]
            new = out.sequences[b, inputs["input_ids"].shape[1] : -1]
            rows.append(masked_logits(model, adapter, prompt, new, row, compress))
    return rows


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("stage1", [True, pytest.param(False, marks=pytest.mark.nightly)])
def test_a_cut_is_the_stock_model_on_the_short_sequence(compress: bool, stage1: bool) -> None:
    model = published_pattern()
    what = config(FAMILY, pruning_layer=3, enable_cache_compression=compress, enable_stage1=stage1)
    with pruned(model, what) as trace:
        out = generate(model, family_inputs(FAMILY, "batch"), 20)
    assert [row.after_stage2 < row.after_stage1 for row in trace.samples] == [True, True, False]
    for b, wanted in enumerate(recomputed(model, out, trace, compress)):
        close(torch.stack(out.logits, 1)[b], wanted, LOGITS)


def test_stage_1_alone_is_the_stock_model_on_the_short_sequence() -> None:
    model, what = published_pattern(), config(FAMILY, enable_stage2=False, enable_cache_compression=False)
    with pruned(model, what) as trace:
        out = generate(model, family_inputs(FAMILY, "batch"), 6)
    for b, wanted in enumerate(recomputed(model, out, trace, False)):
        close(torch.stack(out.logits, 1)[b], wanted, LOGITS)


@pytest.mark.parametrize("case", ["a cut, whole caches", "the door and a cut", "the last frame alone"])
def test_the_text_of_empty_frames_is_dropped_too(case: str) -> None:
    steps, compress = EMPTIES[case]
    model, inputs = family_model(FAMILY), family_inputs(FAMILY, "batch")
    with pruned(model, Plan(steps, compress=compress, drop_empty_frames=True)) as trace:
        out = generate(model, inputs, 6)
    assert any(each.text is not None for each in trace.samples[0].reductions)
    eager = family_model(FAMILY, "eager")
    embeds, positions = text_inputs(eager, family_inputs(FAMILY, "batch"))
    for b, wanted in enumerate(by_masking(eager, embeds, positions, inputs, out.sequences, trace, compress)):
        close(torch.stack(out.logits, 1)[b], wanted, LOGITS)


def test_only_layers_that_attend_lose_entries_and_the_receipt_calls_it_partial() -> None:
    model, inputs = published_pattern(), family_inputs(FAMILY, "one")
    for compress in (True, False):
        what = config(FAMILY, pruning_layer=3, enable_cache_compression=compress, enable_stage1=False)
        with pruned(model, what) as trace:
            lengths, _ = size_of(cache_of(generate(model, inputs, 1)))
        prompt, left = inputs["input_ids"].shape[1], trace.samples[0].after_stage2
        short = prompt - trace.samples[0].tokens + left
        assert lengths == (0, 0, 0, short if compress else prompt, 0, 0, 0, short)
        stats = receipt(trace, 0, what, [], [], prompt, {}, {"read": 0.0, "total": 1.0}, 1)["stage3"]
        assert (stats["partial"], stats["applied"], tuple(stats["cache_lengths"])) == (compress, compress, lengths)
        assert stats["compressed_length"] == (short if compress else prompt)
        assert stats["reduction_ratio"] == pytest.approx(1 - sum(lengths) / (2 * prompt))


def test_a_layer_that_nobody_named_is_the_nearest_that_attends() -> None:
    model = published_pattern()
    with pruned(model, PruneVidConfig()) as trace:  # of 8 layers the default is layer 2
        assert trace.layer == 3
    for named in (0, 4):
        with (
            pytest.raises(ConfigError, match="pruning_layer=3"),
            pruned(model, PruneVidConfig(pruning_layer=named)),
        ):
            pass
    adapter = adapter_for(model)
    plan = on_attending_layers(compile_plan(PruneVidConfig(), 8), adapter)
    assert [step.at for step in plan.steps] == [DOOR, 3]


class Asks:
    """Wants something, and keeps all."""

    def __init__(self, needs: Needs) -> None:
        self.needs = needs

    plan = Uniform(1.0).plan


@pytest.mark.parametrize(
    "step",
    [
        Step(2, Uniform(0.5)), Step(DOOR, NextLayer(0.5)), Step(3, NextLayer(0.5)),
        Step(DOOR, Notes(Needs(keys=True))),
    ],
)  # fmt: skip
def test_evidence_of_a_layer_that_does_not_attend_is_refused(step: Step) -> None:
    with pytest.raises(ConfigError), pruned(published_pattern(), Plan((step,))):
        pass


def test_steps_that_would_fall_together_are_refused() -> None:
    plan = Plan(tuple(Step(at, FastV(keep_ratio=0.5), "mine", _Share()) for at in (1, 2)))
    with pytest.raises(ConfigError):
        on_attending_layers(plan, adapter_for(published_pattern()))


class _Share:
    """Options that name no layer."""

    layers = None


def test_a_state_takes_no_token_back() -> None:
    model = published_pattern()
    with pruned(model, config(FAMILY, pruning_layer=3)):
        held = cache_of(generate(model, family_inputs(FAMILY, "one"), 2))
        held.crop(held.get_seq_length())  # nothing to take
        with pytest.raises(UnsupportedError):
            held.crop(-1)
        with pytest.raises((ValueError, RuntimeError)):  # the library's own: it needs to crop
            model.generate(
                **family_inputs(FAMILY, "one"), max_new_tokens=3, do_sample=False, prompt_lookup_num_tokens=2
            )


@pytest.mark.skipif(not CONTINUES, reason="this release cannot go on from states with more than one token")
def test_a_text_goes_on_from_a_pruned_video() -> None:
    model, what = family_model(FAMILY), config(FAMILY)
    with pruned(model, what) as trace, torch.no_grad():
        first = model.generate(**family_inputs(FAMILY, "one"), max_new_tokens=4, do_sample=False, **OUT)
        samples = trace.samples
        ids = torch.cat([first.sequences, torch.tensor([[20, 30, 40, 50]])], 1)
        given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), CACHE: cache_of(first)}
        second = model.generate(**given, max_new_tokens=4, do_sample=False, **OUT)
        trace.samples = samples
    wanted = oracle(FAMILY, "one", second, trace, what.position_scheme, what.enable_cache_compression)
    close(torch.stack(second.logits, 1)[0], wanted[0][-4:], LOGITS)


@pytest.mark.skipif(not CONTINUES, reason="this release cannot go on from states with more than one token")
def test_what_stands_between_turns_does_not_leak_into_a_state() -> None:
    """Rows go on with texts of unlike length: a pad counts in a state, as in the stock model, but says nothing."""
    model, inputs, got = published_pattern(), family_inputs(FAMILY, "batch"), []
    told = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1], [0, 0, 1, 1]])
    for pad in (0, 99):
        texts = torch.tensor([[pad, pad, 20, 30], [40, 50, 60, 70], [pad, pad, 20, 30]])
        with pruned(model, config(FAMILY, pruning_layer=3)), torch.no_grad():
            before = cache_of(model(**family_inputs(FAMILY, "batch"), logits_to_keep=1))
            mask = torch.cat([inputs["attention_mask"], told], 1)
            places = torch.arange(200, 204).expand(3, 3, 4)
            given = {"attention_mask": mask, "position_ids": places, CACHE: before}
            got.append(model(input_ids=texts, **given).logits[:, 2:])
    close(*got, LOGITS)


def test_beams_reorder_the_states() -> None:
    """Each beam's logits are those of its own tokens."""
    model, inputs = published_pattern(), family_inputs(FAMILY, "one")
    with pruned(model, config(FAMILY, pruning_layer=3)):
        out = model.generate(
            **inputs, max_new_tokens=6, num_beams=3, num_return_sequences=3, do_sample=False, output_scores=True,
            return_dict_in_generate=True,
        )  # fmt: skip
        for sequence, score in zip(out.sequences, out.sequences_scores, strict=True):
            new = sequence[inputs["input_ids"].shape[1] :]
            greedy = []
            alone = model.generate(
                **inputs, max_new_tokens=6, do_sample=False, **OUT,
                logits_processor=[_Forced(inputs["input_ids"].shape[1], new)],
            )  # fmt: skip
            for step, logits in enumerate(alone.logits):
                greedy.append(float(logits[0].log_softmax(-1)[new[step]]))
            close(sum(greedy) / 6, float(score), LOGITS)


class _Forced:
    """Lets generate write given tokens."""

    def __init__(self, start: int, tokens: torch.Tensor) -> None:
        self.start, self.tokens = start, tokens

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        out = torch.full_like(scores, float("-inf"))
        out[:, int(self.tokens[ids.shape[1] - self.start])] = 0.0
        return out


def test_layers_of_an_unknown_kind_are_refused() -> None:
    odd = copy.copy(published_pattern())
    odd.config = copy.deepcopy(odd.config)
    odd.config.text_config.layer_types[0] = "sliding_attention"
    with pytest.raises(UnsupportedError, match="sliding_attention"):
        adapter_for(odd)


def test_qwen4_is_refused_with_the_reason() -> None:
    with pytest.raises(UnsupportedError) as error:
        family_of("qwen4_exp")
    assert "indexer" in str(error.value) and "qwen3_5" in str(error.value)
