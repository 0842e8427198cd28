"""Hooks of others, the library's own among them, see what is really run, whichever hooks were made first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from prunevid_qwen.adapters import tiny
from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.forward.hooks import pruned
from tests import glimpse
from tests.models import RAGGED, make_inputs
from tests.test_pruning_equals_masking import TINY

CONFIGS = {"paper": PruneVidConfig(**TINY), "glimpse": glimpse.config(keep_threshold=None, keep_ratio=0.3)}


def fresh() -> Any:
    """A model that nobody asked for hidden states: the library hooks it at the first request, for good."""
    torch.manual_seed(0)
    return tiny.tiny_model("qwen2_5_vl", 6, "eager", torch.float32)


def asked(model: Any, name: str) -> list[Tensor]:
    with torch.no_grad():
        out = model(**make_inputs(RAGGED), **{f"output_{name}": True})
    return list(out[name])


@pytest.mark.parametrize("name", ["hidden_states", "attentions"])
@pytest.mark.parametrize("config", CONFIGS)
def test_what_the_library_captures_does_not_depend_on_earlier_requests(config: str, name: str) -> None:
    model, early = fresh(), fresh()
    stock = asked(early, name)
    with pruned(model, CONFIGS[config]) as trace:
        wanted = asked(model, name)
    with pruned(early, CONFIGS[config]):
        got = asked(early, name)
    assert len(got) == len(stock)
    assert [each.shape for each in got] == [each.shape for each in wanted]
    assert all(map(torch.equal, got, wanted))
    entered, left = (max(s.length - s.tokens + n for s, n in zip(trace.samples, counts, strict=True)) for counts in (
        [s.after_stage1 for s in trace.samples], [s.after_stage2 for s in trace.samples],
    ))  # fmt: skip
    assert left < entered, "nothing is dropped, so this proves nothing"
    # of layer M the hidden states are what it hands on, its attention is over what it was given
    before = trace.layer + 1
    assert {each.shape[-2] for each in got[:before]} == {entered}
    assert {each.shape[-2] for each in got[before:]} == {left}
    for number, (now, then) in enumerate(zip(asked(early, name), stock, strict=True)):
        assert torch.equal(now, then), number


def lengths(model: Any, config: PruneVidConfig, when: str) -> dict[str, int]:
    """What hooks of somebody else see, made before the block or inside it."""
    seen: dict[str, int] = {}

    def note(name: str, read: Callable[[Any, Any], Tensor]) -> Any:
        return lambda _module, args, kwargs, *out: seen.update({name: read((*args, *out), kwargs).shape[-2]})

    def watch() -> None:
        decoder = model.model.language_model
        for number, layer in enumerate(decoder.layers):
            layer.register_forward_pre_hook(
                note(f"rope {number}", lambda _, kwargs: kwargs["position_embeddings"][0]), with_kwargs=True
            )
            layer.register_forward_hook(
                note(f"out {number}", lambda given, _: given[-1][0] if isinstance(given[-1], tuple) else given[-1]),
                with_kwargs=True,
            )

    if when == "before":
        watch()
    with pruned(model, config), torch.no_grad():
        if when == "inside":
            watch()
        model(**make_inputs(RAGGED))
    return seen


@pytest.mark.parametrize("config", CONFIGS)
def test_somebody_elses_hooks_see_what_is_run(config: str) -> None:
    seen = lengths(fresh(), CONFIGS[config], "before")
    assert seen == lengths(fresh(), CONFIGS[config], "inside")
    assert seen["rope 5"] == seen["out 5"] < seen["out 0"] == seen["rope 0"]
