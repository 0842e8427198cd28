"""GlimpsePrune on LLaVA-1.5: its probe is a log-softmax over the whole row, its taps are CLIP's, its images squares."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.adapters.seams import cache_of
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.forward.probe import row_sums
from prunevid_qwen.stage2_select.glimpse import Glimpse
from prunevid_qwen.stage2_select.glimpse.facts import GlimpseFacts
from tests import glimpse
from tests.families import FAMILIES, family_inputs, family_model, member
from tests.masking import text_inputs
from tests.test_family_oracles import equals_masking, generate, identical
from tests.tolerances import LOGITS, close, tokens_apart

BOTH = pytest.mark.parametrize("attention", ["sdpa", "eager"])
CASES = pytest.mark.parametrize("case", ["one", "batch"])


def config(facts: GlimpseFacts = glimpse.LLAVA, **options: Any) -> PruneVidConfig:
    return glimpse.config(facts, **{**FAMILIES["llava"].options, **options})


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The evidence that the selector is shown, row by row."""
    seen: list[Any] = []
    stock = Glimpse.plan
    monkeypatch.setattr(Glimpse, "plan", lambda self, evidence: seen.append(evidence) or stock(self, evidence))
    return seen


# ---- evidence


@BOTH
@CASES
@pytest.mark.parametrize("logits", [False, True])
def test_the_probe_sees_what_a_token_in_the_sequence_would(
    attention: str, case: str, logits: bool, shown: list[Any]
) -> None:
    model, inputs = family_model("llava", attention), family_inputs("llava", case)
    facts = replace(glimpse.LLAVA, use_attention_logits=logits, selected_layers=(0, 2), reduce_layer=3)
    with pruned(model, config(facts)):
        generate(model, family_inputs("llava", case), 1)
    embeds, _ = text_inputs(family_model("llava", "eager"), family_inputs("llava", case))
    predictor, rows = glimpse.random_predictor(facts), iter(shown)
    for b in range(len(embeds)):
        at = inputs["attention_mask"][b].nonzero()[:, 0]
        visual = adapter_for(model).types(inputs["input_ids"][b, at]).nonzero()[:, 0].tolist()
        if not visual:
            continue
        places = torch.arange(len(at))[None]
        wanted = glimpse.inside_the_sequence(predictor, embeds[b : b + 1, at], places, visual, "llava")
        got = next(rows).probe[:, :, 0]
        close(got, wanted, LOGITS)
        assert logits or bool((got.exp().sum(-1) < 1).all()), "text and the glimpse token itself are in the row"
    assert next(rows, None) is None


def test_probes_of_several_tokens_see_those_before_them() -> None:
    """Of two tokens behind a prompt: what each one's row sums over."""
    numbers = torch.Generator().manual_seed(0)
    q, before, own = (torch.randn(shape, generator=numbers) for shape in ((4, 2, 8), (2, 5, 8), (2, 2, 8)))
    got = row_sums(q, before, own, 0.3)
    for head in range(4):
        for token in range(2):
            keys = torch.cat([before[head // 2], own[head // 2, : token + 1]])
            close(got[head, token, 0], (keys @ q[head, token] * 0.3).logsumexp(0))


def test_taps_are_blocks_of_clip_without_its_class_token(shown: list[Any]) -> None:
    model, inputs = family_model("llava"), family_inputs("llava", "batch")
    with torch.no_grad():
        states = model.model.vision_tower(inputs["pixel_values"], output_hidden_states=True).hidden_states
    with pruned(model, config()):
        generate(model, inputs, 1)
    for own, seen in zip(([0], [1, 2, 3]), shown, strict=True):
        # state number 0 is the embeddings: that of block i is number i + 1, as the authors count
        wanted = torch.stack([states[block + 1][own][:, 1:].flatten(0, 1) for block in (1, 0)])
        close(seen.vision["states"], wanted)


# ---- the oracles


@BOTH
@pytest.mark.parametrize("mode", ["greedy", "beam", "sample"])
def test_nothing_dropped_is_the_stock_model_bit_for_bit(attention: str, mode: str) -> None:
    what = config(keep_threshold=0.0, position_scheme="hf")
    identical("llava", "batch", mode, what, family_model("llava", attention))


def test_the_probe_leaves_no_trace() -> None:
    model = family_model("llava")
    stock = generate(model, family_inputs("llava", "one"))
    with pruned(model, config(keep_threshold=0.0)) as trace:
        generate(model, family_inputs("llava", "one"))
    assert set(trace.cache_lengths) == {cache_of(stock).get_seq_length() - 4}


@BOTH
@CASES
@pytest.mark.parametrize("options", [{}, {"enable_cache_compression": False}, {"enable_stage1": True}])
def test_pruning_is_masking(attention: str, case: str, options: dict[str, Any]) -> None:
    first = {"merger": "pool", "cluster_ratio": 0.5} if options.get("enable_stage1") else {}
    equals_masking("llava", case, config(**options, **first), family_model("llava", attention), 20)


@pytest.mark.usefixtures("scores_apart")
def test_a_batch_is_its_members() -> None:
    model = family_model("llava")
    with pruned(model, config()) as trace:
        together = generate(model, family_inputs("llava", "batch"), 6)
        kept = [sample.kept for sample in trace.samples]
        for b, whole in enumerate(kept):
            alone = generate(model, member("llava", "batch", b), 6)
            mine = trace.samples[0].kept
            assert (mine is None) == (whole is None)
            assert mine is None or torch.equal(mine.rep, whole.rep)
            tokens_apart(alone.logits)
            assert torch.equal(alone.sequences[0, -6:], together.sequences[b, -6:])
            close(torch.stack(together.logits, 1)[b], torch.stack(alone.logits, 1)[0], LOGITS)


def test_text_and_padding_of_others_are_no_part_of_a_row(shown: list[Any]) -> None:
    """A batch shows the same logarithms of probabilities as each of its prompts alone."""
    model = family_model("llava")
    with pruned(model, config()):
        generate(model, family_inputs("llava", "batch"), 1)
        together = [each.probe for each in shown]
        for b, whole in enumerate(together):
            shown.clear()
            generate(model, member("llava", "batch", b), 1)
            close(shown[0].probe, whole, LOGITS)
    assert len(together) == 2
