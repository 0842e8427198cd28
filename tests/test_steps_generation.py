"""Every way of generating, under plans of several steps."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch

from prunevid_qwen.adapters.seams import cache_of
from prunevid_qwen.errors import UnsupportedError
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.forward.plan import Plan
from tests.models import CACHE, MIXED, ONE_VIDEO, RAGGED, make_inputs, tiny_model
from tests.pruned_generation import OUT, one_more_token, same_logits, skip_if_the_library_mixes_beams_up, text_follow_up
from tests.step_plans import ATTENTION, BOTH, CUTS, PLAN, PLANS, WHOLE, oracle
from tests.test_generation import member
from tests.tolerances import close, tokens_apart

pytestmark = pytest.mark.usefixtures("scores_apart")


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
