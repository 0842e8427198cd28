"""The rotary angles that a step is shown are those that the model's own rotary embedding makes, in every family."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.forward.plan import Plan, Step
from prunevid_qwen.needs import Needs
from prunevid_qwen.stage1_merge.simplecluster import turned
from prunevid_qwen.stage2_select import Uniform
from prunevid_qwen.tokens.trace import DOOR
from tests.families import FAMILIES, family_inputs, family_model, often
from tests.models import ONE_VIDEO, make_inputs, tiny_model
from tests.test_decoder_merges import Overlapping
from tests.tolerances import close
from tests.watching import Notes, watched

ANGLES = Needs(angles=True)


@torch.no_grad()
def made_by_the_model(model: Any, inputs: dict[str, Any]) -> Tensor:
    """What the stock model's rotary embedding gives its layers, [2, B, S, R]; of three axes, one row a token."""
    made: list[Any] = []
    handle = model.model.language_model.rotary_emb.register_forward_hook(lambda _m, _a, out: made.append(out))
    model(**inputs)
    handle.remove()
    cos, sin = made[-1]
    if cos.ndim == 4:  # before 5.17: a row for each axis, of which each channel has its own
        sections = model.config.text_config.rope_parameters["mrope_section"]
        axis = torch.tensor([0, 1, 2]).repeat_interleave(torch.tensor(sections)).repeat(2)
        cos, sin = (each.gather(0, axis.expand(1, *each.shape[1:]))[0] for each in (cos, sin))
    return torch.stack([cos, sin])


def shown(model: Any, inputs: dict[str, Any], at: int) -> list[Tensor]:
    notes = Notes(ANGLES)
    watched(model, inputs, Plan((Step(at, notes),), True, "hf"))
    assert all(each.angles is not None and each.keys is None for each in notes.seen)
    return [each.angles for each in notes.seen if each.angles is not None]


@pytest.mark.parametrize("family", often())
@pytest.mark.parametrize("at", [DOOR, 2])
def test_they_are_the_models_own(family: str, at: int) -> None:
    model, inputs = family_model(family), family_inputs(family, "batch")
    law, seen = made_by_the_model(model, inputs), shown(model, inputs, at)
    assert len(seen) == 2
    for b, angles in enumerate(seen):
        visual = adapter_for(model).types(inputs["input_ids"][b]).nonzero()[:, 0]
        assert torch.equal(angles, law[:, b if law.shape[1] > 1 else 0, visual])
    assert not torch.equal(seen[0][0, 0], seen[0][0, -1]), "places differ, and so do their angles"


@pytest.mark.parametrize("family", [name for name in ("qwen2_5_vl", "llava") if name in FAMILIES])
def test_a_key_turned_by_them_is_the_cached_key(family: str) -> None:
    model, inputs, notes = family_model(family, "eager"), family_inputs(family, "batch"), Notes(ANGLES)
    made = watched(model, inputs, Plan((Step(DOOR, notes),)))
    for b, seen in enumerate(notes.seen):
        visual = adapter_for(model).types(inputs["input_ids"][b]).nonzero()[:, 0]
        held = made.cache.layers[1].keys[b][:, visual]
        assert seen.angles is not None
        close(turned(made.projected[1][1][b, visual], *seen.angles), held.transpose(0, 1).flatten(1))


def test_after_a_cut_they_are_those_of_what_is_left() -> None:
    inputs, notes, before = make_inputs(ONE_VIDEO), Notes(ANGLES), Notes(ANGLES, 0.5)
    plan = Plan((Step(DOOR, Overlapping()), Step(1, before), Step(3, notes)), False)
    watched(tiny_model(), inputs, plan)
    first, last = before.seen[0], notes.seen[0]
    kept = Uniform(0.5).plan(first).rep
    assert first.angles is not None and last.angles is not None
    assert torch.equal(last.angles, first.angles[:, kept]) and first.angles.shape[1] < 80


def test_rows_whose_videos_are_slower_have_other_angles() -> None:
    inputs, method = make_inputs(ONE_VIDEO * 2), Notes(ANGLES)
    pixels = inputs["pixel_values_videos"]
    inputs["pixel_values_videos"] = pixels[: len(pixels) // 2].repeat(2, 1)
    watched(tiny_model(), inputs, Plan((Step(DOOR, method),)))
    one, other = (each.angles for each in method.seen)
    assert one is not None and other is not None and not torch.equal(one, other)


def test_a_need_is_true_or_false() -> None:
    with pytest.raises(ConfigError):
        Needs(angles="rotary")  # type: ignore[arg-type]
