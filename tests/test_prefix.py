"""What several questions share: a prompt that reuses a prefix equals a fresh one, and the prefix stays as it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from prunevid_qwen import AttentionQuery, Needs, Plan, PruneVidConfig, Step, UnsupportedError, get_config, pruned
from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.forward.prefix import Prefixes, fingerprint, why_none
from prunevid_qwen.forward.pruning import plan_of
from prunevid_qwen.stage2_select.fastv import FastV
from prunevid_qwen.stage2_select.oracle import Oracle
from prunevid_qwen.stage2_select.threshold import Budget
from prunevid_qwen.tokens.trace import DOOR
from tests.families import FAMILIES, family_inputs, family_model
from tests.method_matrix import METHODS, config_of
from tests.tolerances import LOGITS, close

NEW = 3
BOTH = {"merge_images": True, "cluster_ratio": 0.5, "pruning_layer": 2, "keep_ratio": 0.5}


def asked(family: str, question: tuple[int, ...]) -> dict[str, Tensor]:
    """The family's prompt with other words, and perhaps more of them, after what it shows."""
    inputs = family_inputs(family, "one")
    head = inputs["input_ids"][:, :-4]
    inputs["input_ids"] = torch.cat([head, torch.tensor([question])], dim=1)
    for name in ("attention_mask", "mm_token_type_ids"):
        if name in inputs:
            own = inputs[name][:, :-4]
            inputs[name] = torch.cat([own, own[:, -1:].expand(-1, len(question))], dim=1)
    return inputs


QUESTIONS = ((31, 32, 33, 34), (35, 36, 37, 38, 39, 40, 41), (42, 43))


def answered(family: str, config: Any, question: tuple[int, ...], prefixes: Prefixes | None = None, **more: Any) -> Any:
    """Logits of the new tokens, the reductions of each row, entries of each layer."""
    model = family_model(family)
    arguments = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, **more}
    with torch.no_grad(), pruned(model, config, prefixes=prefixes) as trace:
        out = model.generate(
            **asked(family, question), **arguments, output_logits=True, return_dict_in_generate=True, pad_token_id=0
        )
    return torch.stack(out.logits), trace.samples, trace.cache_lengths, out.sequences


def same(got: Any, wanted: Any) -> None:
    close(got[0], wanted[0], LOGITS)
    assert torch.equal(got[3], wanted[3]) and got[2] == wanted[2]
    for ours, theirs in zip(got[1], wanted[1], strict=True):
        for one, other in zip(ours.reductions, theirs.reductions, strict=True):
            assert one.at == other.at and torch.equal(one.map.target, other.map.target)


def held(prefixes: Prefixes) -> list[Tensor]:
    assert prefixes.held is not None
    entries = [each.clone() for pair in prefixes.held.entries for each in pair]
    return entries if prefixes.held.states is None else [*entries, prefixes.held.states.clone()]


def check(family: str, config: Any) -> None:
    """The first prompt fills the prefix, later ones reuse it and equal fresh ones; all of it stays as it was."""
    why = why_none(adapter_for(family_model(family)), plan_of(config, 6))
    prefixes = Prefixes()
    same(answered(family, config, QUESTIONS[0], prefixes), answered(family, config, QUESTIONS[0]))
    assert prefixes.outcome == (None if why else "made") and prefixes.why == why
    before = None if why else held(prefixes)
    for question in (*QUESTIONS[1:], QUESTIONS[0]):
        got = answered(family, config, question, prefixes)
        assert prefixes.outcome == (None if why else "reused") and prefixes.why == why
        same(got, answered(family, config, question))
    if before is not None:
        assert all(torch.equal(one, other) for one, other in zip(held(prefixes), before, strict=True))
        assert prefixes.bytes == sum(each.nbytes for each in before)


@pytest.mark.parametrize(("stage", "name"), METHODS)
def test_every_method(stage: int, name: str) -> None:
    config = config_of(stage, name)
    try:
        answered("qwen2_5_vl", config, QUESTIONS[0])
    except ConfigError:
        assert name == "glimpse", "its predictor is of the toy"
        return
    check("qwen2_5_vl", config)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family: str) -> None:
    merger = {"merger": None} if FAMILIES[family].linear else {}
    config = PruneVidConfig(**{**BOTH, **merger} if not merger else {"enable_stage1": False, "keep_ratio": 0.5})
    check(family, config)


@pytest.mark.nightly
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("stage", "name"), METHODS)
def test_every_method_on_every_family(stage: int, name: str, family: str) -> None:
    config = config_of(stage, name)
    try:
        answered(family, config, QUESTIONS[0])
    except (ConfigError, UnsupportedError):
        pytest.skip("refused")
    check(family, config)


@pytest.mark.parametrize("preset", ["paper", "recommended", "fast", "pyramiddrop", "baseline", "sparsevlm"])
def test_presets(preset: str) -> None:
    check("qwen3_vl", get_config(preset))


def test_caches_left_whole_and_text_of_frames() -> None:
    check("qwen3_vl", PruneVidConfig(**BOTH, enable_cache_compression=False))
    check("qwen3_vl", get_config("fastv").replace(**{"reading.drop_empty_frames": True, "selector.keep_ratio": 0.1}))


@pytest.mark.parametrize("more", [{"num_beams": 2}, {"num_return_sequences": 2, "num_beams": 2}])
def test_beams(more: dict[str, int]) -> None:
    config, prefixes = PruneVidConfig(**BOTH), Prefixes()
    for question in QUESTIONS:
        got = answered("qwen2_5_vl", config, question, prefixes, **more)
        wanted = answered("qwen2_5_vl", config, question, **more)
        assert torch.equal(got[3], wanted[3])
    assert prefixes.outcome == "reused"


def test_a_batch_of_unlike_questions_runs_whole_and_says_so() -> None:
    model, prefixes = family_model("qwen2_5_vl"), Prefixes()
    with torch.no_grad(), pruned(model, PruneVidConfig(**BOTH), prefixes=prefixes):
        model.generate(**family_inputs("qwen2_5_vl", "batch"), max_new_tokens=1)
    assert prefixes.held is None and prefixes.outcome is None and prefixes.why


def test_padded_questions_about_one_video_run_whole() -> None:
    one, other = (asked("qwen2_5_vl", question) for question in QUESTIONS[:2])
    short = other["input_ids"].shape[1] - one["input_ids"].shape[1]
    together = {}
    for name, value in one.items():
        if name in ("input_ids", "attention_mask", "mm_token_type_ids"):
            value = torch.cat([value.new_zeros(1, short), value], dim=1)
        together[name] = torch.cat([value, other[name]])
    model, config, prefixes = family_model("qwen2_5_vl"), PruneVidConfig(**BOTH), Prefixes()
    answered("qwen2_5_vl", config, QUESTIONS[2], prefixes)
    outputs = []
    for own in (None, prefixes):
        with torch.no_grad(), pruned(model, config, prefixes=own):
            outputs.append(model.generate(**together, max_new_tokens=NEW, do_sample=False, pad_token_id=0))
    assert torch.equal(*outputs) and prefixes.outcome is None and prefixes.why


def test_attention_without_rotary_embedding_reads_the_whole_prompt() -> None:
    check("qwen2_5_vl", PruneVidConfig(**BOTH, attention_source="pre_rope"))


def test_another_beginning_runs_whole_and_says_so() -> None:
    config, prefixes = PruneVidConfig(**BOTH), Prefixes()
    answered("qwen2_5_vl", config, QUESTIONS[0], prefixes)
    model, inputs = family_model("qwen2_5_vl"), asked("qwen2_5_vl", QUESTIONS[1])
    inputs["input_ids"][0, 0] += 1
    with torch.no_grad(), pruned(model, config, prefixes=prefixes):
        model.generate(**inputs, max_new_tokens=1)
    assert prefixes.outcome is None and prefixes.why


def test_other_weights_and_another_plan_make_it_anew() -> None:
    config, prefixes = PruneVidConfig(**BOTH), Prefixes()
    model = family_model("qwen2_5_vl")
    answered("qwen2_5_vl", config, QUESTIONS[0], prefixes)
    before, weight = fingerprint(model), next(model.parameters())
    with torch.no_grad():
        weight.add_(0.25)
    try:
        assert fingerprint(model) != before
        got = answered("qwen2_5_vl", config, QUESTIONS[1], prefixes)
        assert prefixes.outcome == "made"
        same(got, answered("qwen2_5_vl", config, QUESTIONS[1]))
    finally:
        with torch.no_grad():
            weight.sub_(0.25)
    other = config.replace(keep_ratio=0.25)
    got = answered("qwen2_5_vl", other, QUESTIONS[2], prefixes)
    assert prefixes.outcome == "made"
    same(got, answered("qwen2_5_vl", other, QUESTIONS[2]))
    prefixes.clear()
    assert prefixes.bytes == 0


def test_what_reads_the_question_first_has_none() -> None:
    adapter = adapter_for(family_model("qwen2_5_vl"))
    assert why_none(adapter, plan_of(get_config("cdpruner"), 6))
    assert why_none(adapter_for(family_model("qwen3_5")), Plan())
    assert why_none(adapter, Plan()) is None


@dataclass(frozen=True)
class Attending(FastV):
    """Reads the question's attention before the first layer."""

    @property
    def needs(self) -> Needs:
        return Needs(AttentionQuery("post_rope", heads="mean", rows="last", projections="next"))


@dataclass(frozen=True)
class Preparing(FastV):
    """Asks for nothing, and prepares of the whole prompt."""

    @property
    def needs(self) -> Needs:
        return Needs()

    def prepare(self, seen: Any) -> Any:
        return seen


@pytest.mark.parametrize("door", [Attending(keep_ratio=0.4), Oracle(Budget(keep_ratio=0.4)), Preparing(keep_ratio=0.4)])
def test_a_door_that_may_know_the_question_decides_anew(door: Any) -> None:
    adapter = adapter_for(family_model("qwen2_5_vl"))
    plan = Plan((Step(DOOR, door),), compress=False)
    assert why_none(adapter, plan)
    if isinstance(door, Attending):
        prefixes = Prefixes()
        for question in QUESTIONS:
            same(answered("qwen2_5_vl", plan, question, prefixes), answered("qwen2_5_vl", plan, question))


def test_calls_that_want_more_than_the_next_token_run_whole() -> None:
    model, config, prefixes = family_model("qwen2_5_vl"), PruneVidConfig(**BOTH), Prefixes()
    answered("qwen2_5_vl", config, QUESTIONS[0], prefixes)
    inputs, outputs = asked("qwen2_5_vl", QUESTIONS[1]), []
    for own in (None, prefixes):
        with torch.no_grad(), pruned(model, config, prefixes=own):
            outputs.append(model(**inputs).logits)
    assert torch.equal(*outputs) and prefixes.outcome is None and prefixes.why
    with pruned(model, config, prefixes=prefixes):
        assert model(**inputs, logits_to_keep=1).logits.requires_grad
    assert prefixes.outcome is None and prefixes.why


def test_the_question_runs_alone_through_the_first_layers() -> None:
    rows: list[int] = []
    model = family_model("qwen2_5_vl")
    layers = adapter_for(model).parts.layers
    hooks = [
        each.self_attn.q_proj.register_forward_hook(lambda _m, _a, out: rows.append(out.shape[1])) for each in layers
    ]
    try:
        prefixes = Prefixes()
        for question in QUESTIONS[:2]:
            del rows[:]
            answered("qwen2_5_vl", PruneVidConfig(**BOTH), question, prefixes, max_new_tokens=1, min_new_tokens=1)
    finally:
        for each in hooks:
            each.remove()
    kinds = asked("qwen2_5_vl", QUESTIONS[1])["mm_token_type_ids"][0]
    text = len(kinds) - int(kinds.nonzero()[-1]) - 1
    assert rows[:2] == [text] * 2 and rows[-1] > text
