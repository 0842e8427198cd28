"""The core's oracles over every family that pruning knows: a family is one row of `tests.families`."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from prunevid_qwen.adapters import adapter_for, families, tiny
from prunevid_qwen.adapters.seams import cache_of
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.forward.plan import Plan, Step, compile_plan
from prunevid_qwen.stage2_select.fastv import FastV
from prunevid_qwen.stage2_select.prunevid import PruneVid
from prunevid_qwen.stage2_select.uniform import Uniform
from tests import flash_attention
from tests.families import ATTENDING, FAMILIES, crossed, family_inputs, family_model, member, often, skip_scrambled
from tests.masking import masked_logits, rows_of, text_inputs
from tests.recomputing import recomputed
from tests.test_context import state
from tests.test_keep_everything import KEEP, MODES
from tests.test_pruning_equals_masking import STAGES, TINY
from tests.tolerances import LOGITS, close, tokens_apart

pytestmark = pytest.mark.usefixtures("scores_apart")

OUT: dict[str, Any] = {"return_dict_in_generate": True, "output_logits": True}
EVERY = pytest.mark.parametrize("family", FAMILIES)
OFTEN = pytest.mark.parametrize("family", often())
WHOLE = pytest.mark.parametrize("family", often(ATTENDING))
BOTH = pytest.mark.parametrize("attention", ["sdpa", "eager"])


def config(family: str, **options: Any) -> PruneVidConfig:
    return PruneVidConfig(**{**TINY, **FAMILIES[family].options, **options})


def generate(model: Any, inputs: dict[str, Any], tokens: int = 5, mode: str = "greedy") -> Any:
    torch.manual_seed(1)
    return model.generate(**inputs, max_new_tokens=tokens, **MODES[mode], **OUT)


def test_every_family_has_a_row() -> None:
    assert set(tiny.FAMILIES) == set(families())
    assert set(FAMILIES) == set(tiny.installed_families())


# ---- keep everything: the stock model, bit for bit


def identical(family: str, case: str, mode: str, what: PruneVidConfig | Plan, model: Any) -> None:
    stock = generate(model, family_inputs(family, case), mode=mode)
    with pruned(model, what) as trace:
        ours = generate(model, family_inputs(family, case), mode=mode)
    assert torch.equal(stock.sequences, ours.sequences)
    assert all(torch.equal(a, b) for a, b in zip(stock.logits, ours.logits, strict=True))
    shown = [sample for sample in trace.samples if sample.tokens]
    assert shown and all(sample.after_stage2 == sample.tokens for sample in shown)
    steps = len(compile_plan(what, 6).steps)
    assert all(len(sample.reductions) == steps for sample in shown), "a step did not act"


def keep(family: str) -> PruneVidConfig:
    return PruneVidConfig(**KEEP, **FAMILIES[family].options, position_scheme="hf")


@EVERY
def test_three_steps_that_keep_everything_are_the_stock_model(family: str) -> None:
    door = compile_plan(keep(family), 6).steps[0]
    cuts = (Step(1, PruneVid(keep_ratio=1.0)), Step(2, FastV(keep_ratio=1.0)), Step(4, Uniform(keep_ratio=1.0)))
    identical(family, "batch", "greedy", Plan((door, *cuts), position_scheme="hf"), family_model(family))


@pytest.mark.nightly
@EVERY
@BOTH
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", ["one", "batch"])
def test_every_mode_keeps_everything(family: str, attention: str, mode: str, case: str) -> None:
    identical(family, case, mode, keep(family), family_model(family, attention))


@pytest.mark.nightly
@EVERY
@pytest.mark.parametrize("case", ["one", "batch"])
def test_flash_attention_keeps_everything(monkeypatch: pytest.MonkeyPatch, family: str, case: str) -> None:
    flash_attention.install(monkeypatch)
    model = flash_attention.flash_model(family_model(family, "eager"))
    identical(family, case, "greedy", keep(family), model)


# ---- pruning equals masking


def oracle(family: str, case: str, out: Any, trace: Any, scheme: str, compress: bool) -> list[torch.Tensor]:
    if FAMILIES[family].linear:
        return recomputed(FAMILIES[family].cases[case], out.sequences, trace, family, Plan(compress=compress))
    model, inputs = family_model(family, "eager"), family_inputs(family, case)
    embeds, positions = text_inputs(model, family_inputs(family, case))
    if scheme == "reference":
        positions = rows_of(adapter_for(model).reference_positions(**inputs)[0], len(embeds))
    return masked_logits(model, embeds, positions, inputs, out.sequences, trace, compress)


def equals_masking(family: str, case: str, what: PruneVidConfig, model: Any, tokens: int = 6) -> None:
    with pruned(model, what) as trace:
        out = generate(model, family_inputs(family, case), tokens)
    shown = [sample for sample in trace.samples if sample.tokens]
    assert shown and all(sample.after_stage2 < sample.tokens for sample in shown), "nothing is pruned"
    wanted = oracle(family, case, out, trace, what.position_scheme, what.enable_cache_compression)
    for b, logits in enumerate(wanted):
        close(torch.stack(out.logits, 1)[b], logits, LOGITS, msg=lambda m, b=b: f"sample {b}: {m}")


@EVERY
def test_pruning_equals_masking(family: str) -> None:
    equals_masking(family, "batch", config(family), family_model(family))


@pytest.mark.nightly
@EVERY
@BOTH
@pytest.mark.parametrize("stages", STAGES)
@pytest.mark.parametrize("case", ["one", "batch"])
def test_every_stage_equals_masking(family: str, attention: str, stages: str, case: str) -> None:
    options = dict(STAGES[stages])
    if FAMILIES[family].linear and "pruning_layer" in options:  # the first and the last that attend
        options["pruning_layer"] = min(max(options["pruning_layer"], 1), 4)
    equals_masking(family, case, config(family, **options), family_model(family, attention), 20)


@OFTEN
def test_flash_attention_equals_masking(monkeypatch: pytest.MonkeyPatch, family: str) -> None:
    flash_attention.install(monkeypatch)
    model = flash_attention.flash_model(family_model(family, "eager"))
    monkeypatch.setattr(flash_attention, "CALLS", calls := dict.fromkeys(flash_attention.CALLS, 0))
    equals_masking(family, "one", config(family), model)
    blocks = adapter_for(model).vision_blocks if family.startswith("qwen") else ()
    assert calls["varlen"] == len(blocks), "gaps in the positions of one prompt read as several prompts"


# ---- the modes of generate


@EVERY
def test_a_batch_equals_its_members(family: str) -> None:
    model, what = family_model(family), config(family)
    with pruned(model, what) as trace:
        together = generate(model, family_inputs(family, "batch"))
        samples = trace.samples
        for b, sample in enumerate(samples):
            alone = generate(model, member(family, "batch", b))
            for one, other in zip(sample.reductions, trace.samples[0].reductions, strict=True):
                assert torch.equal(one.map.target, other.map.target)
            close(torch.stack(together.logits, 1)[b], torch.stack(alone.logits, 1)[0], LOGITS)


@pytest.mark.parametrize(("mode", "family"), crossed(["beam", "return_sequences"], "beam"))
def test_copies_of_a_row_keep_its_tokens(mode: str, family: str) -> None:
    skip_scrambled(family)
    model = family_model(family)
    with pruned(model, config(family)) as trace:
        generate(model, family_inputs(family, "one"))
        alone = trace.samples[0]
        generate(model, family_inputs(family, "one"), mode=mode)
        assert len(trace.samples) == MODES[mode].get("num_beams", 2)
        for sample in trace.samples:
            assert torch.equal(sample.kept.rep, alone.kept.rep)
            assert torch.equal(sample.merged.target, alone.merged.target)


@WHOLE
def test_prompt_lookup_is_greedy(family: str) -> None:
    """Candidates stand behind the prompt in the first forward: they are no question, and come off the cache again."""
    model, inputs = family_model(family), family_inputs(family, "one")
    inputs["input_ids"][0, -6:] = inputs["input_ids"][0, -6:-3].repeat(2)  # so that candidates are found
    with pruned(model, config(family)) as trace:
        greedy = model.generate(**inputs, max_new_tokens=12, do_sample=False, **OUT)
        tokens_apart(greedy.logits)
        kept = trace.samples[0].kept.rep
        lookup = model.generate(**inputs, max_new_tokens=12, do_sample=False, prompt_lookup_num_tokens=3)
        assert torch.equal(trace.samples[0].kept.rep, kept)
    assert torch.equal(lookup, greedy.sequences)


@WHOLE
def test_prompt_lookup_where_the_caller_made_the_positions(family: str) -> None:
    """`generate` then asks nobody for positions, and candidates are no question all the same."""
    model, inputs = family_model(family), family_inputs(family, "one")
    inputs["input_ids"][0, -6:] = inputs["input_ids"][0, -6:-3].repeat(2)
    inputs["position_ids"] = adapter_for(model).reference_positions(**inputs)[0]
    kept = []
    with pruned(model, config(family)) as trace:
        for candidates in (None, 3):
            model.generate(**inputs, max_new_tokens=6, do_sample=False, prompt_lookup_num_tokens=candidates)
            kept.append(trace.samples[0].kept.rep)
    assert torch.equal(*kept)


class Breaks:
    """A streamer that fails when it is shown the prompt."""

    def put(self, _tokens: Any) -> None:
        raise OSError

    def end(self) -> None: ...


@OFTEN
def test_a_prompt_that_was_never_read_is_forgotten(family: str) -> None:
    """A call by hand may go on from it, with positions of its own: what follows is no candidate."""
    model, inputs = family_model(family), family_inputs(family, "one")
    positions = adapter_for(model).reference_positions(**inputs)[0]
    begun = {name: x[:, :-2] if x.shape[:2] == inputs["input_ids"].shape else x for name, x in inputs.items()}
    kept = []
    with pruned(model, config(family, selector="fastv")) as trace, torch.no_grad():
        for _ in range(2):
            model(**inputs, position_ids=positions)
            kept.append(trace.samples[0].reductions[-1].map.rep)
            with pytest.raises(OSError):
                model.generate(**begun, streamer=Breaks())
        close(model(**inputs, position_ids=positions).logits, model(**inputs).logits, LOGITS)
    assert torch.equal(*kept)


@OFTEN
def test_a_thread_of_its_own(family: str) -> None:
    """Pixels arrive as they are: what is noted of them is of the thread that asks for their features."""
    model, got = family_model(family), list[torch.Tensor]()

    def work() -> None:
        with torch.no_grad():
            got.append(model(**family_inputs(family, "batch")).logits)

    with pruned(model, config(family)):
        work()
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert len(got) == 2, "the thread raised"
    assert torch.equal(*got)


@OFTEN
def test_a_plain_forward_gives_what_generate_gives(family: str) -> None:
    """Pixels arrive as they are, and positions and mask may be left to the model."""
    model, inputs = family_model(family), family_inputs(family, "one")
    with pruned(model, config(family)) as trace, torch.no_grad():
        wanted = generate(model, family_inputs(family, "one"), 1).logits[0]
        kept = trace.samples[0].kept.rep
        for left_out in ((), ("attention_mask",)):
            given = {name: x for name, x in inputs.items() if name not in left_out}
            got = model(**given).logits[:, -1]
            assert torch.equal(trace.samples[0].kept.rep, kept)
            close(got, wanted, LOGITS)


@OFTEN
def test_the_model_is_as_before(family: str) -> None:
    model = family_model(family)
    generate(model, family_inputs(family, "one"), 1)
    before = state(model)
    with pruned(model, config(family)):
        assert state(model) != before, "the check sees nothing"
        generate(model, family_inputs(family, "batch"))
    assert state(model) == before


# ---- scores: the masking oracle takes the kept set from the trace, so a wrong score it cannot see


@OFTEN
def test_scores_are_the_eager_kernels_own_weights(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs, seen, weights = family_model(family, "eager"), family_inputs(family, "batch"), [], []
    plan = FastV.plan
    monkeypatch.setattr(FastV, "plan", lambda self, e: seen.append((e.layout, e.attention)) or plan(self, e))
    handle = model.model.language_model.layers[3].self_attn.register_forward_hook(
        lambda _module, _args, out: weights.append(out[1])
    )
    try:
        with pruned(model, Plan((Step(3, FastV(keep_ratio=0.5)),), position_scheme="hf")):
            generate(model, family_inputs(family, "batch"), 1)
    finally:
        handle.remove()
    assert len(seen) == 2  # the third row is a text
    for b, (layout, got) in enumerate(seen):
        at = inputs["attention_mask"][b].nonzero()[:, 0]
        wanted = weights[0][b][:, -1].mean(0)[at][layout.visual].log()
        close(got, wanted, LOGITS)


@OFTEN
def test_keys_and_queries_are_those_of_the_layer(family: str) -> None:
    """With rotary angles keys are the cached ones; queries without them are those of the projection."""
    model, adapter, seen = family_model(family), adapter_for(family_model(family)), {}
    layer = model.model.language_model.layers[2]
    handles = [
        layer.register_forward_pre_hook(
            lambda _m, args, kw: seen.update(hidden=args[0], rope=kw["position_embeddings"]), with_kwargs=True
        ),
        getattr(layer.self_attn, "q_norm", layer.self_attn.q_proj).register_forward_hook(
            lambda _m, _args, out: seen.update(q=out)
        ),
    ]
    try:
        with torch.no_grad():
            out = model(**family_inputs(family, "one"))
    finally:
        for handle in handles:
            handle.remove()
    cos, sin = (angle[..., 0, :, :] for angle in seen["rope"])
    states = adapter.before_attention(2, seen["hidden"])[0]
    with torch.no_grad():
        keys, bare = adapter.key_states(2, states, (cos, sin)), adapter.key_states(2, states)
        queries = adapter.question_states(2, states, None)
    close(keys, cache_of(out).layers[2].keys[0], LOGITS)
    assert torch.equal(queries, seen["q"][0].reshape(len(states), -1, 16).transpose(0, 1))
    close(bare.norm(dim=-1), keys.norm(dim=-1), LOGITS)
    assert not torch.equal(bare, keys)
