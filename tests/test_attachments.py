"""Copies of a model, made inside `pruned`, are stock models; hooks that a copy still holds are dead."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch.utils.hooks import RemovableHandle

from prunevid_qwen import PruneVidQwen25VL, get_paper_config
from prunevid_qwen.adapters.attachments import Hook, StandIn
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.forward.hooks import pruned
from prunevid_qwen.tokens.trace import Trace
from tests import glimpse
from tests.models import ONE_VIDEO, RAGGED, make_inputs, tiny_model
from tests.test_pruning_equals_masking import TINY

CONFIGS = {"paper": PruneVidConfig(**TINY), "glimpse": glimpse.config(keep_threshold=None, keep_ratio=0.3)}


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = model(**make_inputs(RAGGED)).logits
    return out


def saved(model: Any) -> Any:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {"deepcopy": copy.deepcopy, "torch.save": saved, "pickle": lambda model: pickle.loads(pickle.dumps(model))}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("config", CONFIGS)
def test_a_copy_made_inside_is_a_stock_model(config: str, how: str) -> None:
    wanted = logits(tiny_model())
    with pruned(tiny_model(), CONFIGS[config]) as trace:
        made = COPIES[how](tiny_model())
        inside = logits(made)
        assert trace.prefills == 0, "the copy is pruned"
        ours = logits(tiny_model())
    assert ours.shape != wanted.shape, "nothing is pruned, so this proves nothing"
    assert torch.equal(inside, wanted)
    assert torch.equal(logits(made), wanted)
    with pruned(made, CONFIGS[config]) as trace:
        assert torch.equal(logits(made), ours)
    assert trace.prefills == 1
    assert torch.equal(logits(made), wanted)


def test_a_copy_runs_its_own_vision_tower() -> None:
    with pruned(tiny_model(), CONFIGS["paper"]):
        made = copy.deepcopy(tiny_model())
    with torch.no_grad():
        for weight in made.model.visual.parameters():
            weight.zero_()
    assert not torch.equal(logits(made), logits(tiny_model()))


def test_a_shallow_copy_that_outlives_the_context_asks_the_library() -> None:
    root, inputs = tiny_model().model, make_inputs(ONE_VIDEO)
    given = {name: inputs[name] for name in ("input_ids", "mm_token_type_ids", "video_grid_thw", "second_per_grid_ts")}
    wanted = root.get_rope_index(**given)[0]
    with pruned(tiny_model(), CONFIGS["paper"]):
        made = copy.copy(root)
        assert isinstance(vars(made)["get_rope_index"], StandIn)
        assert not torch.equal(made.get_rope_index(**given)[0], wanted), "nothing stands in"
    assert torch.equal(made.get_rope_index(**given)[0], wanted)


@pytest.mark.parametrize("config", CONFIGS)
def test_hooks_that_somebody_keeps_are_dead_after_the_context(config: str) -> None:
    def held() -> list[Any]:
        tables = [(each._forward_hooks, each._forward_pre_hooks) for each in tiny_model().modules()]
        return [each for pair in tables for table in pair for each in table.values()]

    others = held()
    with pruned(tiny_model(), CONFIGS[config]):
        ours = [each for each in held() if each not in others]
    assert len(ours) > 8
    assert all(each("neither", "arguments", "nor", "an", "output") is None for each in ours)


def test_the_hooks_of_a_loaded_model_keep_their_numbers() -> None:
    """torch numbers hooks from 0 in each process: another hook of the same number would take the dead one's options."""
    hook = Hook(print)
    hook.number = RemovableHandle.next_id + 1000
    dead = pickle.loads(pickle.dumps(hook))
    assert dead(1, 2, 3) is None
    assert torch.nn.Linear(1, 1).register_forward_hook(lambda *_: None).id > hook.number


@pytest.mark.parametrize("config", CONFIGS)
def test_a_stored_copy_needs_nothing_of_this_package(config: str) -> None:
    with pruned(tiny_model(), CONFIGS[config]):
        assert b"prunevid" not in pickle.dumps(tiny_model())


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_the_class_can_be_copied_inside_and_outside(how: str) -> None:
    model = PruneVidQwen25VL("bundled", device="cpu")
    outside = COPIES[how](model)
    with pruned(model.model, get_paper_config()):
        inside = COPIES[how](model)
    for made in (outside, inside):
        with model._lock, made._lock:  # each its own
            assert made.with_config is not None
        with pruned(made.model, get_paper_config()) as trace, torch.no_grad():
            assert made.tokenizer("a").input_ids == model.tokenizer("a").input_ids
        assert trace.prefills == 0
    one, other = copy.deepcopy([model, model.with_config(model.config)])
    assert one._lock is other._lock, "they share weights"


def test_a_trace_can_be_copied() -> None:
    with pruned(tiny_model(), CONFIGS["paper"]) as trace:
        logits(tiny_model())
    made = pickle.loads(pickle.dumps(trace))
    assert isinstance(made, Trace)
    assert [s.tokens for s in made.samples] == [s.tokens for s in trace.samples]
    assert (made.prefills, made.cache_lengths) == (1, trace.cache_lengths)


@pytest.mark.parametrize("how", COPIES)
def test_features_that_were_asked_for_inside_can_be_copied(how: str) -> None:
    """They carry what a selector wants to know of them; a copy in memory does so, too."""
    inputs = make_inputs(ONE_VIDEO)
    pixels, grid = inputs.pop("pixel_values_videos"), inputs["video_grid_thw"]
    with torch.no_grad(), pruned(tiny_model(), CONFIGS["glimpse"]):
        made = COPIES[how](tiny_model().model.get_video_features(pixels, grid))
        if how != "deepcopy" or not hasattr(made, "pooler_output"):
            return
        given = {**inputs, "mm_encoder_outputs": {"video": made}}
        try:
            tiny_model()(**given)
        except TypeError:  # transformers before 5.18 takes no such argument
            return
