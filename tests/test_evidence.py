"""What a step sees is what the layers make: attention, states, keys, at the decoder's door and between the layers."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.adapters.seams import cache_of
from prunevid_qwen.errors import ConfigError, UnsupportedError
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.forward.plan import Plan, Step
from prunevid_qwen.needs import AttentionQuery, Evidence, Needs, VisionQuery
from prunevid_qwen.stage2_select import FastV, Uniform
from prunevid_qwen.tokens import TokenMap
from prunevid_qwen.tokens.trace import DOOR
from tests.looking import NextLayer
from tests.models import CACHE, EOS, IMAGE, MIXED, ONE_VIDEO, RAGGED, VIDEO, make_inputs, tiny_model
from tests.test_decoder_merges import Overlapping
from tests.tolerances import close
from tests.watching import Made, Notes, watched

QUERIES = [
    AttentionQuery("post_rope", heads, rows, tokens, "next", best)
    for heads, rows, tokens, best in product(
        ("max", "mean"), ("max", "mean", "last", "each"), ("all", "question", "last"), (None, 2)
    )
]


def inputs_of(samples: Any) -> dict[str, Any]:
    """Prompts in which the user's words end before the last two tokens."""
    inputs: dict[str, Any] = make_inputs(samples)
    inputs["input_ids"][:, -3] = EOS
    return inputs


def places(inputs: dict[str, Any], b: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Where the visual tokens of a row stand in the batch, and the text tokens by what asks for them."""
    ids = inputs["input_ids"][b]
    visual = ((ids == VIDEO) | (ids == IMAGE)).nonzero()[:, 0]
    after = torch.arange(int(visual[-1]) + 1, ids.numel())
    return visual, {"all": after, "question": after[1:-3], "last": after[-1:]}


def reduced(p: Tensor, query: AttentionQuery) -> Tensor:
    """The law of a query over probabilities [H, Q, N]."""
    p = p[:, -1:] if query.rows == "last" else p
    if query.top_heads is not None:
        order = sorted(range(len(p)), key=lambda head: -float(p[head].double().sum()))
        p = p[order[: query.top_heads]]
    p = p.amax(0) if query.heads == "max" else p.mean(0)
    return (p if query.rows == "each" else p.mean(0) if query.rows == "mean" else p.amax(0)).log()


def shown(needs: Needs, at: int, samples: Any = RAGGED, before: tuple[Step, ...] = ()) -> tuple[list[Evidence], Made]:
    notes, inputs = Notes(needs), inputs_of(samples)
    return notes.seen, watched(tiny_model("eager"), inputs, Plan((*before, Step(at, notes)), False))


# ---- attention


@pytest.mark.parametrize("at", [DOOR, 2])
def test_the_next_layers_attention_is_the_next_layers_own(at: int) -> None:
    notes = [Notes(Needs(query)) for query in QUERIES]
    inputs, made = inputs_of(RAGGED), None
    for each in notes:
        made = watched(tiny_model("eager"), inputs, Plan((Step(at, each),)))
        for b, seen in enumerate(each.seen):
            visual, text = places(inputs, b)
            query = each.needs.attention
            assert query is not None and seen.attention is not None
            p = made.weights[at + 1][b][:, text[query.tokens]][..., visual]
            close(seen.attention, reduced(p, query))
        assert len(each.seen) == 2


@pytest.mark.parametrize("rows", ["each", "mean"])
def test_the_layers_own_attention_in_each_row(rows: str) -> None:
    query = AttentionQuery(heads="mean", rows=rows, tokens="question", top_heads=3)
    seen, made = shown(Needs(query), 2)
    for b, each in enumerate(seen):
        visual, text = places(inputs_of(RAGGED), b)
        assert each.attention is not None
        close(each.attention, reduced(made.weights[2][b][:, text["question"]][..., visual], query))


@pytest.mark.parametrize("at", [DOOR, 2])
def test_attention_before_rotary_embedding_sees_no_order(at: int) -> None:
    query = AttentionQuery("pre_rope", "mean", "mean", "all", "next")
    seen, made = shown(Needs(query), at)
    inputs = inputs_of(RAGGED)
    for b, each in enumerate(seen):
        visual, text = places(inputs, b)
        own = inputs["attention_mask"][b].nonzero()[:, 0]
        q, k = (x[b].unflatten(-1, (-1, 16)).transpose(0, 1) for x in made.projected[at + 1])
        logits = q[:, text["all"]] @ k[:, own].repeat_interleave(2, 0).transpose(1, 2) / 4
        assert each.attention is not None
        close(each.attention, reduced(logits.softmax(-1)[..., visual - int(own[0])], query))


CUTS = {
    "merges": (Step(DOOR, Overlapping()), Step(1, FastV(keep_ratio=0.6))),
    "next layers": (Step(DOOR, NextLayer(0.8)), Step(1, NextLayer(0.8))),
}


@pytest.mark.parametrize("before", CUTS)
def test_after_a_cut_the_next_layers_attention_is_that_of_what_is_left(before: str) -> None:
    cut = CUTS[before]
    query = AttentionQuery(heads="mean", rows="mean", projections="next")
    seen, made = shown(Needs(query), 3, before=cut)
    for b, each in enumerate(seen):
        width = made.weights[4].shape[-1]
        first = width - each.layout.length
        rows, columns = each.layout.question + first, each.layout.visual + first
        assert each.attention is not None
        close(each.attention, reduced(made.weights[4][b][:, rows][..., columns], query))
    assert len(seen) == 2 and seen[0].layout.length != seen[1].layout.length


@pytest.mark.parametrize("at", [DOOR, 2])
def test_after_a_cached_prefix_its_keys_are_seen_too(at: int) -> None:
    model, prefix = tiny_model("eager"), torch.tensor([[20, 21, 22, 23], [0, 0, 24, 25]])
    inputs, seen_prefix = inputs_of(RAGGED), torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])
    notes = Notes(Needs(AttentionQuery(heads="mean", rows="each", projections="next"), keys=True))
    positions, _ = adapter_for(model).reference_positions(**inputs)
    with torch.no_grad():
        cache = cache_of(
            model(
                input_ids=prefix,
                attention_mask=seen_prefix,
                position_ids=(seen_prefix.cumsum(1) - 1).clamp(min=0)[None].expand(3, -1, -1),
            )
        )
    given = {**inputs, "attention_mask": torch.cat([seen_prefix, inputs["attention_mask"]], 1)}
    given["position_ids"] = positions + seen_prefix.sum(1)[None, :, None]
    made = watched(model, given, Plan((Step(at, notes),)), **{CACHE: cache})
    for b, each in enumerate(notes.seen):
        visual, text = places(inputs, b)
        assert (
            each.attention is not None
            and made.weights[at + 1].shape[-1] == prefix.shape[1] + inputs["input_ids"].shape[1]
        )
        close(each.attention, made.weights[at + 1][b][:, text["all"]][..., visual + 4].mean(0).log())
        assert each.keys is not None
        close(each.keys, made.cache.layers[max(at, 0)].keys[b][:, visual + 4])
    notes.needs = Needs(AttentionQuery("pre_rope", projections="next"))
    cache.crop(4)
    with pytest.raises(UnsupportedError, match="pre_rope"):
        watched(model, given, Plan((Step(at, notes),)), **{CACHE: cache})


# ---- states and keys


@pytest.mark.parametrize("at", [DOOR, 2])
@pytest.mark.parametrize("asked", ["", "all", "question", "last", True])
def test_states_are_those_of_this_depth(at: int, asked: str | bool) -> None:
    seen, made = shown(Needs(question=asked), at, MIXED[:2])
    states, inputs = made.embeds if at == DOOR else made.outputs[at], inputs_of(MIXED[:2])
    for b, each in enumerate(seen):
        visual, text = places(inputs, b)
        assert torch.equal(each.hidden, states[b, visual])
        wanted = text["all" if asked is True else asked] if asked else visual[:0]
        assert torch.equal(each.question, states[b, wanted])


@pytest.mark.parametrize("at", [DOOR, 0, 3])
def test_keys_are_those_in_the_cache(at: int) -> None:
    seen, made = shown(Needs(keys=True), at)
    for b, each in enumerate(seen):
        visual, _ = places(inputs_of(RAGGED), b)
        assert each.keys is not None
        close(each.keys, made.cache.layers[max(at, 0)].keys[b][:, visual])


def test_keys_after_a_cut_are_those_of_what_is_left() -> None:
    seen, made = shown(Needs(keys=True), 3, before=(Step(DOOR, Overlapping()), Step(1, Uniform(0.5))))
    for b, each in enumerate(seen):
        held = made.cache.layers[3].keys[b]
        assert each.keys is not None
        assert torch.equal(each.keys, held[:, each.layout.visual + held.shape[1] - each.layout.length])


# ---- where a step stands, and who else is there


def test_a_step_is_told_which_it_is() -> None:
    one, other = Notes(Needs(), 0.8), Notes(Needs(), 0.9)
    watched(tiny_model(), inputs_of(ONE_VIDEO), Plan((Step(DOOR, one), Step(1, other), Step(2, one), Step(5, one))))
    told = [(each.step, each.layer, each.start, each.hidden.shape[0]) for each in one.seen]
    assert told == [(0, DOOR, 80, 80), (1, 2, 80, 57), (2, 5, 80, 45)]
    assert [(each.step, each.layer) for each in other.seen] == [(0, 1)]


def test_marks_are_shown_at_the_door_and_after_it() -> None:
    one, inputs = Notes(Needs(marks=True), 0.5), inputs_of(MIXED)
    marks = [torch.rand(41), torch.rand(54), None]
    watched(tiny_model(), inputs, Plan((Step(DOOR, one), Step(2, one))), marks)
    for b in range(2):
        kept = one.by.plan(one.seen[b]).rep
        assert torch.equal(one.seen[b].marks, marks[b])  # type: ignore[arg-type]
        assert torch.equal(one.seen[2 + b].marks, marks[b][kept])  # type: ignore[arg-type,index]
    assert len(one.seen) == 4


def test_who_does_not_ask_is_not_told() -> None:
    for at in (DOOR, 2):
        (seen, *_), _ = shown(Needs(), at)
        assert (seen.attention, seen.probe, seen.marks, seen.vision, seen.keys, seen.note) == (None,) * 6


# ---- rows that show the same, decided once


class Attending(Notes):
    """Keeps half by the next layer's attention."""

    def __init__(self) -> None:
        super().__init__(Needs(AttentionQuery(rows="mean", projections="next")))

    def plan(self, seen: Evidence) -> TokenMap:
        assert seen.attention is not None
        self.seen.append(seen)
        n = seen.attention.numel()
        return TokenMap.keep(seen.attention.argsort(descending=True, stable=True)[: n // 2], n)


def test_rows_with_equal_videos_are_decided_by_their_own_questions() -> None:
    inputs = make_inputs(ONE_VIDEO * 3)
    pixels = inputs["pixel_values_videos"]
    inputs["pixel_values_videos"] = pixels[: len(pixels) // 3].repeat(3, 1)
    inputs["second_per_grid_ts"][:] = 2.0
    inputs["input_ids"][2] = inputs["input_ids"][0]  # the second asks another question of the same video
    inputs["input_ids"][1, :4] = inputs["input_ids"][0, :4]
    method = Attending()
    made = watched(tiny_model(), inputs, Plan((Step(DOOR, method),)))
    assert made.trace is not None
    kept = made.trace.kept
    assert not torch.equal(kept[0], kept[1]) and torch.equal(kept[0], kept[2]) and len(method.seen) == 3
    method.seen.clear()
    inputs["input_ids"][1] = inputs["input_ids"][0]
    watched(tiny_model(), inputs, Plan((Step(DOOR, method),)))
    assert len(method.seen) == 1, "three rows that show the same are decided once"


def test_rows_whose_videos_are_slower_have_other_keys() -> None:
    inputs, method = make_inputs(ONE_VIDEO * 2), Notes(Needs(keys=True))
    pixels = inputs["pixel_values_videos"]
    inputs["pixel_values_videos"] = pixels[: len(pixels) // 2].repeat(2, 1)
    watched(tiny_model(), inputs, Plan((Step(DOOR, method),)))
    assert len(method.seen) == 2 and not torch.equal(method.seen[0].keys, method.seen[1].keys)  # type: ignore[arg-type]
    inputs["second_per_grid_ts"][:] = 2.0
    watched(tiny_model(), inputs, Plan((Step(DOOR, method),)))
    assert len(method.seen) == 3


# ---- refused


REFUSED = {
    "own attention at the door": (Step(DOOR, FastV(keep_ratio=0.5)), "projections"),
    "after the last layer": (Step(5, Notes(Needs(AttentionQuery(projections="next")))), "4"),
    "more heads than there are": (Step(2, Notes(Needs(AttentionQuery(top_heads=5)))), "4"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_attention_that_is_not_to_be_had_is_refused(case: str) -> None:
    step, said = REFUSED[case]
    with pytest.raises(ConfigError, match=said), pruned(tiny_model(), Plan((step,))):
        pass


@pytest.mark.parametrize(
    "given",
    [
        {"source": "rope"}, {"heads": "last"}, {"rows": "none"}, {"tokens": "raters"}, {"projections": "last"},
        {"top_heads": 0},
    ],
)  # fmt: skip
def test_words_that_a_query_does_not_know_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=str(next(iter(given.values())))):
        AttentionQuery(**given)


def test_old_names_say_the_same() -> None:
    look = VisionQuery((0,), 32)
    assert Needs(taps=look, layer=3, question=True) == Needs(vision=look, layers=(4,), question="all")
    assert Needs(question=False) == Needs()
    assert replace(Needs(taps=look), vision=None) == Needs()
    for given in ({"taps": look, "vision": look}, {"layer": 3, "layers": (4,)}, {"question": "answer"}):
        with pytest.raises(ConfigError):
            Needs(**given)
