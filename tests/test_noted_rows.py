"""Attention of the rows that a reducer notes, without the pull of positions; keys of the question: in every family."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.forward.plan import Plan, Step
from prunevid_qwen.kernels.question_attention import LEAST_GRAVITY
from prunevid_qwen.needs import AttentionQuery, Evidence, Needs
from prunevid_qwen.stage2_select import Uniform
from prunevid_qwen.tokens.trace import DOOR
from tests.families import FAMILIES, family_inputs, family_model, member, often
from tests.models import ONE_VIDEO, RAGGED, make_inputs, tiny_model
from tests.test_angles import made_by_the_model
from tests.tolerances import close
from tests.watching import Notes, watched

OFTEN = pytest.mark.parametrize("family", often())


class Noting(Notes):
    """Notes that every second text token is heard, counted from the last one."""

    def prepare(self, seen: Evidence) -> Any:
        return torch.arange(seen.question.shape[0]).flip(0) % 2 == 0


def query(projections: str, **changes: Any) -> AttentionQuery:
    given = {"heads": "mean", "rows": "mean", "tokens": "noted", "projections": projections, "top_heads": 0.5}
    return AttentionQuery(**{**given, "gravity": True, **changes})


def pull_of(model: Any, inputs: dict[str, Any], b: int) -> Tensor:
    """What all-ones queries and keys have in common by their places alone, [S, S]: cosines of differences of angles."""
    cos, sin = (angles[b if angles.shape[0] > 1 else 0].double() for angles in made_by_the_model(model, inputs))
    half, width = cos.shape[-1] // 2, adapter_for(model).parts.layers[-2].self_attn.head_dim
    turned = 2 * (cos[:, :half] @ cos[:, :half].T + sin[:, :half] @ sin[:, :half].T)
    return ((turned + width - 2 * half) / width**0.5).clamp(min=LEAST_GRAVITY).float()


@OFTEN
@pytest.mark.parametrize("projections", ["own", "next"])
def test_attention_without_the_pull_of_places(family: str, projections: str) -> None:
    model, inputs = family_model(family, "eager"), family_inputs(family, "batch")
    notes = Noting(Needs(query(projections), question="all"))
    made = watched(model, inputs, Plan((Step(2, notes),), True, "hf"))
    assert len(notes.seen) == 2
    for b, seen in enumerate(notes.seen):
        visual = adapter_for(model).types(inputs["input_ids"][b]).nonzero()[:, 0]
        rows = torch.arange(int(visual[-1]) + 1, inputs["input_ids"].shape[1]).flip(0)[::2]
        p = made.weights[2 + (projections == "next")][b][:, rows][..., visual]
        p = p / pull_of(model, inputs, b)[rows][:, visual]
        best = sorted(range(len(p)), key=lambda head: -float(p[head].sum()))[: len(p) // 2]
        assert seen.attention is not None
        close(seen.attention, p[best].mean((0, 1)).log())


def test_after_a_cut_places_are_those_that_are_left() -> None:
    model, inputs = tiny_model("eager"), make_inputs(ONE_VIDEO)
    notes = Noting(Needs(query("own"), question="all"))
    made = watched(model, inputs, Plan((Step(0, Uniform(0.4)), Step(2, notes)), True, "hf"))
    (seen,), whole = notes.seen, pull_of(model, inputs, 0)
    assert made.trace is not None and seen.attention is not None
    kept = made.trace.samples[0].reductions[0].map.rep
    visual = adapter_for(model).types(inputs["input_ids"][0]).nonzero()[:, 0]
    rows = torch.arange(inputs["input_ids"].shape[1])[int(visual[-1]) + 1 :].flip(0)[::2]
    p = made.weights[2][0][:, seen.layout.question.flip(0)[::2]][..., seen.layout.visual]
    p = p / whole[rows][:, visual[kept]]
    best = sorted(range(len(p)), key=lambda head: -float(p[head].sum()))[: len(p) // 2]
    close(seen.attention, p[best].mean((0, 1)).log())


def test_rows_by_themselves_say_which_are_not_heard() -> None:
    notes = Noting(Needs(query("own", rows="each", gravity=False, top_heads=None), question="all"))
    made = watched(tiny_model("eager"), make_inputs(RAGGED), Plan((Step(2, notes),)))
    for b, seen in enumerate(notes.seen):
        attention = seen.attention
        assert attention is not None
        heard = torch.arange(len(attention)).flip(0) % 2 == 0
        assert bool(attention[~heard].isinf().all()) and bool(attention[heard].isfinite().all())
        first = made.weights[2].shape[-1] - seen.layout.length
        p = made.weights[2][b][:, seen.layout.question + first][..., seen.layout.visual + first]
        close(attention[heard], p.mean(0)[heard].log())


@OFTEN
@pytest.mark.parametrize("at", [DOOR, 2])
def test_keys_of_the_question_are_those_in_the_cache(family: str, at: int) -> None:
    if at == DOOR and FAMILIES[family].linear:
        pytest.skip("the first layer has no keys; tests/test_linear_attention.py sees it refused")
    inputs, notes = family_inputs(family, "batch"), Notes(Needs(question="all", keys=True))
    made = watched(family_model(family), inputs, Plan((Step(at, notes),)))
    for b, seen in enumerate(notes.seen):
        assert seen.question_keys is not None
        held = made.cache.layers[max(at, 0)].keys[b]
        close(seen.question_keys, held[:, seen.layout.question + held.shape[1] - seen.layout.length])
    notes = Notes(Needs(keys=True))
    watched(family_model(family), member(family, "batch", 0), Plan((Step(2, notes),)))
    assert notes.seen[0].question_keys is None


# ---- refused


def test_rows_that_nobody_notes_are_refused() -> None:
    plan = Plan((Step(2, Notes(Needs(query("own"), question="all"))),))
    with pytest.raises(ConfigError, match="prepare"), pruned(tiny_model(), plan):
        pass


NO_NOTES = {
    "nothing": lambda seen: None,
    "too few": lambda seen: torch.ones(seen.question.shape[0] - 1, dtype=torch.bool),
    "floats": lambda seen: torch.ones(seen.question.shape[0]),
}


@pytest.mark.parametrize("note", NO_NOTES)
@pytest.mark.parametrize("projections", ["own", "next"])
def test_a_note_that_is_no_bool_for_each_token_is_refused(
    note: str, projections: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Noting, "prepare", lambda _self, seen: NO_NOTES[note](seen))
    notes = Noting(Needs(query(projections), question="all"))
    with pytest.raises(ConfigError, match="noted"):
        watched(tiny_model(), make_inputs(ONE_VIDEO), Plan((Step(2, notes),)))


@pytest.mark.parametrize("changes", [
    {"source": "pre_rope"}, {"rows": "last"}, {"top_heads": 1.0}, {"top_heads": 0.0}, {"top_heads": 1.5},
], ids=str)  # fmt: skip
def test_queries_that_contradict_themselves_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        query("own", **changes)
