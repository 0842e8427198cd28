"""A plan of several steps: every oracle of one cut holds for three, with a step at the door and without one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.adapters.seams import cache_of
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import ConfigError, UnsupportedError
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.forward.plan import Plan, Step, compile_plan
from prunevid_qwen.reducer import AttentionQuery, Evidence, Needs, Probe, VisionTaps
from prunevid_qwen.stage1_merge import Pool
from prunevid_qwen.stage2_select import FastV, PruneVid, Uniform
from prunevid_qwen.tokens import TokenMap
from prunevid_qwen.tokens.trace import DOOR, SampleTrace
from tests import flash_attention
from tests.looking import LOOKING
from tests.masking import masked_logits, text_inputs
from tests.models import CACHE, CASES, MIXED, ONE_VIDEO, RAGGED, make_inputs, tiny_model
from tests.pruned_generation import OUT, one_more_token, same_logits, skip_if_the_library_mixes_beams_up, text_follow_up
from tests.test_generation import member
from tests.test_keep_everything import KEEP, MODES, generate
from tests.test_pruning_equals_masking import TINY
from tests.tolerances import close, tokens_apart

pytestmark = pytest.mark.usefixtures("scores_apart")


MERGE = compile_plan(PruneVidConfig(**TINY), 6).steps[0]
CUTS = (Step(1, PruneVid(keep_ratio=0.7)), Step(2, FastV(keep_ratio=0.6)), Step(4, Uniform(keep_ratio=0.5)))
PLANS = {
    "cuts": Plan(CUTS),
    "cuts, whole caches": Plan(CUTS, compress=False),
    "door and cuts": Plan((MERGE, *CUTS)),
    "door and cuts, whole caches": Plan((MERGE, *CUTS), compress=False),
    "first and last layer": Plan((Step(0, FastV(keep_ratio=0.6)), Step(5, FastV(keep_ratio=0.6)))),
    "last layer, whole caches": Plan((Step(3, Uniform(0.6)), Step(5, Uniform(0.6))), compress=False),
    "library's positions": Plan(CUTS, position_scheme="hf"),
    "evidence of each kind": Plan(LOOKING),
}
PLAN, WHOLE = PLANS["door and cuts"], PLANS["door and cuts, whole caches"]
BOTH = pytest.mark.parametrize(
    "plan", [PLAN, WHOLE, PLANS["evidence of each kind"]], ids=["cut_caches", "whole_caches", "evidence"]
)
ATTENTION = pytest.mark.parametrize("attention", ["sdpa", "eager"])


def oracle(samples: Any, sequences: torch.Tensor, trace: Any, plan: Plan) -> list[torch.Tensor]:
    model, inputs = tiny_model("eager"), make_inputs(samples)
    embeds, positions = text_inputs(model, make_inputs(samples))
    if plan.position_scheme == "reference":
        positions, _ = adapter_for(model).reference_positions(**inputs)
    return masked_logits(model, embeds, positions, inputs, sequences, trace, plan.compress)


def shrinks(trace: Any, plan: Plan) -> bool:
    """Whether some row of several tokens lost some at each of the plan's cuts."""
    return all(
        any(each.at == step.at and each.map.n_out < each.map.n_in for row in trace.samples for each in row.reductions)
        for step in plan.cuts
    )


def check(plan: Plan, case: str, attention: str) -> None:
    model = tiny_model(attention)
    with pruned(model, plan) as trace:
        out = model.generate(**make_inputs(CASES[case]), max_new_tokens=8, do_sample=False, **OUT)
    assert shrinks(trace, plan), "the case prunes nothing, so it proves nothing"
    for b, wanted in enumerate(oracle(CASES[case], out.sequences, trace, plan)):
        same_logits(torch.stack(out.logits, 1)[b], wanted)


@pytest.mark.parametrize("plan", PLANS)
@ATTENTION
def test_dropping_is_masking(attention: str, plan: str) -> None:
    check(PLANS[plan], "ragged", attention)


@BOTH
@pytest.mark.parametrize("case", [case for case in CASES if case != "ragged"])
def test_dropping_is_masking_in_every_batch(plan: Plan, case: str) -> None:
    check(plan, case, "sdpa")


@BOTH
def test_flash_attention_path(monkeypatch: pytest.MonkeyPatch, plan: Plan) -> None:
    flash_attention.install(monkeypatch)
    model = flash_attention.flash_model(tiny_model("eager"))
    for case in (ONE_VIDEO, MIXED):
        with pruned(model, plan) as trace:
            out = model.generate(**make_inputs(case), max_new_tokens=4, do_sample=False, **OUT)
        for b, wanted in enumerate(oracle(case, out.sequences, trace, plan)):
            same_logits(torch.stack(out.logits, 1)[b], wanted)


# ---- nothing dropped


def all_kept(compress: bool) -> Plan:
    steps = compile_plan(PruneVidConfig(**KEEP), 6).steps
    return Plan((*steps, Step(3, AsksAndKeeps()), Step(4, Uniform(1.0))), compress, "hf")


class AsksAndKeeps:
    """Has its evidence gathered, and keeps everything."""

    needs = Needs(AttentionQuery(), question=True)

    def plan(self, seen: Evidence) -> TokenMap:
        assert seen.attention is not None and seen.question.shape[0]
        return TokenMap.identity(seen.hidden.shape[0])


def same(model: Any, case: str, mode: str, plan: Plan, family: str = "qwen2_5_vl") -> None:
    stock = generate(model, make_inputs(CASES[case], family=family), mode)
    with pruned(model, plan) as trace:
        ours = generate(model, make_inputs(CASES[case], family=family), mode)
    assert torch.equal(stock.sequences, ours.sequences)
    assert all(torch.equal(a, b) for a, b in zip(stock.logits, ours.logits, strict=True))
    assert all(len(row.reductions) == len(plan.steps) for row in trace.samples if row.tokens), "a step did not act"


@pytest.mark.parametrize("mode", MODES)
@ATTENTION
def test_keeping_everything_is_the_stock_model(attention: str, mode: str) -> None:
    same(tiny_model(attention), "mixed", mode, all_kept(compress=True))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen2_vl"])
def test_keeping_everything_of_every_batch(family: str, case: str) -> None:
    same(tiny_model(family=family), case, "greedy", all_kept(compress=False), family)


def test_keeping_everything_on_the_flash_attention_path(monkeypatch: pytest.MonkeyPatch) -> None:
    flash_attention.install(monkeypatch)
    same(flash_attention.flash_model(tiny_model("eager")), "mixed", "greedy", all_kept(compress=True))


def test_a_step_that_keeps_everything_between_two_that_do_not() -> None:
    steps = (CUTS[0], Step(2, Uniform(1.0)), CUTS[2])
    with pruned(tiny_model(), Plan(steps, compress=False)) as trace:
        three = generate(tiny_model(), make_inputs(RAGGED), "greedy")
    assert [span.first for span in cache_of(three).spans] == [0, 2, 5]
    assert [each.at for each in trace.samples[0].reductions] == [1, 2, 4]
    with pruned(tiny_model(), Plan((CUTS[0], CUTS[2]), compress=False)):
        two = generate(tiny_model(), make_inputs(RAGGED), "greedy")
    assert all(torch.equal(a, b) for a, b in zip(three.logits, two.logits, strict=True))


# ---- ways of generating


@BOTH
@ATTENTION
def test_a_batch_equals_its_members(attention: str, plan: Plan) -> None:
    model, inputs = tiny_model(attention), make_inputs(MIXED)
    with pruned(model, plan) as trace:
        together = model.generate(**inputs, max_new_tokens=6, do_sample=False, **OUT)
        kept = trace.kept
        for b in range(3):
            alone = model.generate(**member(inputs, MIXED, b), max_new_tokens=6, do_sample=False, **OUT)
            assert torch.equal(trace.kept[0], kept[b])
            same_logits(torch.stack(together.logits, 1)[b], torch.stack(alone.logits, 1)[0])


@BOTH
@ATTENTION
def test_beams(attention: str, plan: Plan) -> None:
    skip_if_the_library_mixes_beams_up()
    model = tiny_model(attention)
    with pruned(model, plan) as trace:
        model.generate(**make_inputs(RAGGED), max_new_tokens=2, do_sample=False)
        alone, kept = trace.samples, trace.kept
        out = model.generate(
            **make_inputs(RAGGED), max_new_tokens=5, num_beams=3, num_return_sequences=2, do_sample=False,
            return_dict_in_generate=True, output_scores=True,
        )  # fmt: skip
        assert all(torch.equal(places, kept[beam // 3]) for beam, places in enumerate(trace.kept))
    prompt = make_inputs(RAGGED)["input_ids"].shape[1]
    trace.samples = alone
    for place in range(2):
        sequences = out.sequences[place::2]
        for b, logits in enumerate(oracle(RAGGED, sequences, trace, plan)):
            log_p = logits.log_softmax(-1)[range(5), sequences[b, prompt:]]
            close(log_p.mean(), out.sequences_scores[2 * b + place])


@BOTH
def test_sampling(plan: Plan) -> None:
    with pruned(tiny_model(), plan) as trace:
        torch.manual_seed(3)
        out = tiny_model().generate(
            **make_inputs(ONE_VIDEO), max_new_tokens=4, do_sample=True, num_return_sequences=3, **OUT
        )
    assert len(trace.samples) == 3 and not torch.equal(out.sequences[0], out.sequences[1])
    trace.samples = trace.samples[:1]
    for row in range(3):
        (wanted,) = oracle(ONE_VIDEO, out.sequences[row : row + 1], trace, plan)
        same_logits(torch.stack(out.logits, 1)[row], wanted)


def test_a_streamer_is_told_what_is_written() -> None:
    from transformers.generation.streamers import BaseStreamer

    class Told(BaseStreamer):  # type: ignore[misc]
        def __init__(self) -> None:
            self.tokens: list[int] = []

        def put(self, value: torch.Tensor) -> None:
            self.tokens += value.flatten().tolist()

        def end(self) -> None:
            self.tokens.append(-1)

    streamer = Told()
    with pruned(tiny_model(), PLANS["evidence of each kind"]):
        out = tiny_model().generate(**make_inputs(ONE_VIDEO), max_new_tokens=4, do_sample=False, streamer=streamer)
    assert streamer.tokens == [*out[0].tolist(), -1]


@BOTH
@ATTENTION
def test_assisted_decoding_is_greedy(attention: str, plan: Plan) -> None:
    model, inputs = tiny_model(attention), make_inputs(ONE_VIDEO)
    inputs["input_ids"][0, -6:] = inputs["input_ids"][0, -6:-3].repeat(2)  # so that candidates are found
    ways: tuple[dict[str, Any], ...] = ({"prompt_lookup_num_tokens": 3}, {"assistant_model": tiny_model(layers=3)})
    with pruned(model, plan) as trace:
        greedy = model.generate(**inputs, max_new_tokens=12, do_sample=False, **OUT)
        tokens_apart(greedy.logits)
        kept = trace.kept[0]
        for way in ways:
            assisted = model.generate(**inputs, max_new_tokens=12, do_sample=False, **way)
            assert torch.equal(trace.kept[0], kept)
            assert torch.equal(assisted, greedy.sequences)


@BOTH
@ATTENTION
def test_a_text_follow_up(attention: str, plan: Plan) -> None:
    model, inputs = tiny_model(attention), make_inputs(ONE_VIDEO)
    second, trace = text_follow_up(model, inputs, plan)
    wanted = oracle(ONE_VIDEO, second.sequences, trace, plan)[0]
    same_logits(torch.stack(second.logits, 1)[0], wanted[-4:])


@BOTH
def test_what_generate_does_to_a_cache(plan: Plan) -> None:
    """Rows repeated, chosen and reordered, tokens taken back: each step answers as the untouched rows do."""
    model, inputs = tiny_model(), make_inputs(RAGGED)
    with pruned(model, plan), torch.no_grad():
        held = cache_of(model(**inputs))
        length = inputs["input_ids"].shape[1]
        assert [held.get_seq_length(i) for i in range(6)] == [length] * 6
        step = one_more_token(model, inputs)
        wanted = step(copy.deepcopy(held), [0, 1])
        for name, given, rows in (
            ("reorder_cache", torch.tensor([1, 0]), [1, 0]),
            ("batch_select_indices", torch.tensor([1]), [1]),
            ("batch_repeat_interleave", 2, [0, 0, 1, 1]),
        ):
            cache = copy.deepcopy(held)
            getattr(cache, name)(given)
            same_logits(step(cache, rows), wanted[rows])
        cache = copy.deepcopy(held)
        step(cache, [0, 1])
        cache.crop(-1)
        same_logits(step(cache, [0, 1]), wanted)
        held.reset()
        assert held.get_seq_length() == 0 and len(held.spans) == 1 and not held.changed


def test_caches_are_as_long_as_what_is_left() -> None:
    with torch.no_grad(), pruned(tiny_model(), PLAN) as trace:
        tiny_model()(**make_inputs(ONE_VIDEO))
    (sample,) = trace.samples
    text = sample.length - sample.tokens
    assert trace.cache_lengths == (text + sample.after_stage2,) * 6
    with torch.no_grad(), pruned(tiny_model(), WHOLE) as trace:
        tiny_model()(**make_inputs(ONE_VIDEO))
    (sample,) = trace.samples
    widths = sample.widths(6)
    assert list(trace.cache_lengths) == [text + width for width in widths]
    assert widths[0] == widths[1] > widths[2] > widths[3] == widths[4] > widths[5] == sample.after_stage2


def test_a_cache_goes_on_under_its_own_plan_alone() -> None:
    inputs, token = make_inputs(ONE_VIDEO), torch.tensor([[20]])
    with torch.no_grad():
        with pruned(tiny_model(), WHOLE):
            cache = cache_of(tiny_model()(**inputs))
        with pruned(tiny_model(), Plan(CUTS[:2], compress=False)), pytest.raises(UnsupportedError, match="4"):
            tiny_model()(input_ids=token, **{CACHE: cache})


@pytest.mark.parametrize("tokens", [7, 16])
def test_chunked_vision(tokens: int) -> None:
    model, inputs, out = tiny_model(), make_inputs(MIXED), []
    for chunk in (None, tokens):
        with pruned(model, replace(PLAN, vision_chunk_tokens=chunk)) as trace:
            out.append((model.generate(**inputs, max_new_tokens=3, do_sample=False, **OUT), trace.kept))
    (whole, kept), (parts, same_kept) = out
    assert all(map(torch.equal, kept, same_kept))
    for ours, theirs in zip(parts.logits, whole.logits, strict=True):
        same_logits(ours, theirs)


def test_places_of_logits_and_labels_go_through_every_step() -> None:
    inputs = make_inputs(ONE_VIDEO)
    labels = torch.where(inputs["mm_token_type_ids"] > 0, -100, inputs["input_ids"])
    with torch.no_grad(), pruned(tiny_model(), Plan(CUTS)) as trace:
        whole = tiny_model()(**inputs).logits
        visual = inputs["mm_token_type_ids"][0].nonzero()[:, 0]
        text = (inputs["mm_token_type_ids"][0] == 0).nonzero()[:, 0]
        at = torch.cat([text, visual[trace.kept[0]]]).sort().values
        assert at.numel() == whole.shape[1] < inputs["input_ids"].shape[1]
        close(tiny_model()(**inputs, logits_to_keep=at).logits, whole)
        gone = next(int(place) for place in visual if place not in at)
        with pytest.raises(UnsupportedError, match=str(gone)):
            tiny_model()(**inputs, logits_to_keep=torch.tensor([gone]))
        loss = tiny_model()(**inputs, labels=labels).loss
    left = labels[0, at]
    close(loss, torch.nn.functional.cross_entropy(whole[0, :-1], left[1:], ignore_index=-100))


def test_gradients_reach_every_layer() -> None:
    model = copy.deepcopy(tiny_model())
    with pruned(model, PLAN):
        model(**make_inputs(ONE_VIDEO)).logits[0, -1].square().sum().backward()
    layers = [layer.mlp.down_proj.weight.grad for layer in model.model.language_model.layers]
    assert all(grad is not None and bool(grad.any()) for grad in layers)


# ---- evidence


class Notes:
    """Keeps a share and writes down what it saw."""

    def __init__(self, needs: Needs, keep_ratio: float) -> None:
        self.needs, self.by, self.seen = needs, Uniform(keep_ratio), []

    def plan(self, seen: Evidence) -> TokenMap:
        self.seen.append(seen)
        return self.by.plan(seen)


@pytest.fixture
def evidence() -> Iterator[Any]:
    model = tiny_model()
    probe = Probe(torch.randn(6, 2, 64, generator=torch.Generator().manual_seed(1)), (0, 1), adapter_for(model).heads)
    needs = Needs(probe=probe, taps=VisionTaps((0,), model.config.vision_config.hidden_size), marks=True)
    marks = [torch.rand(80, generator=torch.Generator().manual_seed(2))]

    def gather(*before: Step) -> tuple[Evidence, SampleTrace]:
        last = Notes(needs, 0.5)
        with torch.no_grad(), pruned(model, Plan((*before, Step(3, last))), marks) as trace:
            model(**make_inputs(ONE_VIDEO))
        return last.seen[0], trace.samples[0]

    yield gather


def test_evidence_from_outside_the_layers_passes_the_steps_before(evidence: Any) -> None:
    whole, _ = evidence()
    cut, sample = evidence(Step(1, Uniform(0.7)), Step(2, Uniform(0.6)))
    kept = sample.reductions[0].map.then(sample.reductions[1].map).rep
    assert kept.numel() < 80
    assert torch.equal(cut.probe, whole.probe[..., kept])
    assert torch.equal(cut.taps, whole.taps[:, kept])
    assert torch.equal(cut.marks, whole.marks[kept])


def test_who_does_not_ask_is_not_told(evidence: Any) -> None:
    before = Notes(Needs(), 0.7)
    evidence(Step(1, before))
    (seen,) = before.seen
    assert seen.probe is None and seen.taps is None and seen.marks is None and seen.attention is None


# ---- plans that cannot be carried out


PROBE = Probe(torch.zeros(6, 1, 64), (0, 2), 4)
REFUSED: dict[str, tuple[tuple[Step, ...], str]] = {
    "beyond the model": ((Step(6, Uniform()),), "6"),
    "before the door": ((Step(-2, Uniform()),), "-2"),
    "out of order": ((Step(3, Uniform()), Step(2, Uniform())), "2"),
    "two at a place": ((Step(3, Uniform()), Step(3, Uniform())), "3"),
    "attention at the door": ((Step(DOOR, FastV(keep_ratio=0.5)),), "attention"),
    "probe at the door": ((Step(DOOR, Notes(Needs(probe=PROBE), 0.5)),), "door"),
    "probe behind a cut": ((Step(1, Uniform()), Step(3, Notes(Needs(probe=PROBE), 0.5))), "2"),
    "two probes": ((Step(3, Notes(Needs(probe=PROBE), 0.5)), Step(4, Notes(Needs(probe=PROBE), 0.5))), "probe"),
    "a trained layer": ((Step(1, Notes(Needs(layers=(4,)), 0.5)),), "4"),
    "a trained layer, by its old name": ((Step(1, Notes(Needs(layer=3), 0.5)),), "4"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_carried_out_is_refused(case: str) -> None:
    steps, said = REFUSED[case]
    with pytest.raises(ConfigError, match=said), pruned(tiny_model(), Plan(steps)):
        pass


class Wants:
    """Asks for whatever it is given."""

    def __init__(self, needs: Any, of: int | None = None) -> None:
        self.needs, self.of = needs, of

    def plan(self, seen: Evidence) -> TokenMap:
        return TokenMap.identity(self.of or seen.layout.visual.numel(), seen.hidden.device)


STEP = Step(2, Uniform())
NO_PLANS: dict[str, Callable[[], Any]] = {
    "one step": lambda: Plan(STEP),  # type: ignore[arg-type]
    "a reducer for a step": lambda: Plan((Uniform(),)),  # type: ignore[arg-type]
    "a name for a step": lambda: Plan(("fastv",)),  # type: ignore[arg-type]
    "a place in words": lambda: Step("2", Uniform()),  # type: ignore[arg-type]
    "a share for a place": lambda: Step(0.5, Uniform()),  # type: ignore[arg-type]
    "true for a place": lambda: Step(True, Uniform()),
    "a word for compress": lambda: Plan((STEP,), compress="no"),  # type: ignore[arg-type]
    "an unknown scheme": lambda: Plan((STEP,), position_scheme="packed"),
    "no tokens at once": lambda: Plan((STEP,), vision_chunk_tokens=0),
    "unknown places": lambda: Plan((STEP,), places="hf"),
    "attention in a word": lambda: Needs(attention="mean"),  # type: ignore[arg-type]
    "blocks for a query": lambda: Needs(vision=(0,)),  # type: ignore[arg-type]
    "a word for marks": lambda: Needs(marks="all"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("case", NO_PLANS)
def test_what_is_no_plan_is_refused_when_it_is_written(case: str) -> None:
    with pytest.raises(ConfigError):
        NO_PLANS[case]()


def test_a_list_of_steps_is_as_good_as_a_tuple() -> None:
    assert Plan([STEP]) == Plan((STEP,))  # type: ignore[arg-type]


@pytest.mark.parametrize("what", [Plan((Step(2, Wants(None)),)), [Step(2, Wants("attention"))]])
def test_what_a_reducer_needs_is_a_needs(what: Any) -> None:
    with pytest.raises(ConfigError, match="Wants"), pruned(tiny_model(), what):
        pass


def test_a_map_of_other_tokens_is_refused() -> None:
    with pytest.raises(ConfigError, match="7"), pruned(tiny_model(), Plan((Step(2, Wants(Needs(), of=7)),))):
        tiny_model()(**make_inputs(ONE_VIDEO))


def test_a_config_is_at_most_two_steps() -> None:
    config = PruneVidConfig(**TINY)
    assert [(step.at, step.name) for step in compile_plan(config, 6).steps] == [(DOOR, "prunevid"), (2, "prunevid")]
    assert compile_plan(config.replace(enable_stage1=False, enable_stage2=False), 6).steps == ()
    assert Step(3, Pool(0.5)).name == "Pool"
