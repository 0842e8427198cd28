"""What clients do with a model, done inside `pruned`: kinds of calls x prompts x configs, each beside the stock model.

With everything kept nothing differs from stock, bit for bit. While pruning there is an answer whose receipt shows fewer
tokens, or an error of our own: `REFUSED` is the one table of those, and a call that is not in it may not be refused.
Where the stock model itself fails, so may we, with its error or one of ours."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from prunevid_qwen import PruneVidConfig, PruneVidError, pruned
from prunevid_qwen.adapters import adapter_for
from tests import client_forwards, client_objects  # noqa: F401  they fill the table
from tests.client_calls import CALLS, CONFIGS, PROMPTS, REFUSED, same
from tests.models import ONE_VIDEO, VIDEO, make_inputs, tiny_model


def done(name: str, prompt: str | None, config: PruneVidConfig | None) -> tuple[Any, Any]:
    """Do a call with a model of its own; returns what came out, an error perhaps, and the trace."""
    what = CALLS[name]
    model = copy.deepcopy(tiny_model(what.attention))
    state = what.before(model)
    samples = () if prompt is None else (PROMPTS[prompt],)
    trace = None
    try:
        with nullcontext() if config is None else pruned(model, config) as trace:
            out = what.run(state, *samples)
        return (out, what.after(out)), trace
    except Exception as error:
        return error, trace


@functools.cache
def stock(name: str, prompt: str | None) -> Any:
    return done(name, prompt, None)[0]


# where another model, or this one with a text, was the last to run: the trace says nothing of a video then
NOT_OF_THIS_MODEL = {
    "deep-copied inside", "stored whole inside", "saved inside", "guided", "guided by another text",
    "embedded text is generated from",
}  # fmt: skip

FAST = {
    ("greedy", "ragged"), ("beams", "mixed"), ("sampling", "one_video"), ("a text goes on", "one_video"),
    ("a loop by hand", "ragged"), ("cache static", "ragged"), ("streamed", "one_video"),
    ("forward with states", "mixed"),
}  # fmt: skip


def members() -> Iterator[Any]:
    for name, what in CALLS.items():
        for prompt in what.prompts or (None,):
            for config in CONFIGS:
                marks = () if (name, prompt) in FAST else pytest.mark.nightly
                yield pytest.param(name, prompt, config, id=f"{name}-{prompt}-{config}", marks=marks)


@pytest.mark.parametrize(("name", "prompt", "config"), list(members()))
def test_a_client_calls(name: str, prompt: str | None, config: str) -> None:
    wanted = stock(name, prompt)
    got, trace = done(name, prompt, CONFIGS[config])
    if isinstance(got, Exception):
        refused = name in REFUSED and prompt != "text" and isinstance(got, REFUSED[name])
        as_stock = isinstance(wanted, Exception) and isinstance(got, (PruneVidError, type(wanted)))
        if not (refused or as_stock):
            raise got
        return
    if isinstance(wanted, Exception):
        return
    if config != "paper":
        assert same(got, wanted)
    elif prompt != "text" and name not in NOT_OF_THIS_MODEL:
        shown = [sample for sample in trace.samples if sample.tokens]
        assert shown and all(sample.after_stage2 < sample.tokens for sample in shown)


def test_a_copy_made_while_pruning_is_the_stock_model_outside() -> None:
    (_, stock_outside), _ = done("deep-copied inside and used outside", None, None)
    (_, outside), _ = done("deep-copied inside and used outside", None, CONFIGS["paper"])
    assert torch.equal(outside, stock_outside)


def test_a_placeholder_among_candidates_is_text() -> None:
    """Assisted decoding may guess one behind the prompt; stock reads it as the token that it is."""
    model, inputs = tiny_model(), make_inputs(ONE_VIDEO)
    adapter, ids = adapter_for(model), inputs["input_ids"][0]
    positions = model.model.get_rope_index(**{k: v for k, v in inputs.items() if k != "pixel_values_videos"})[0][:, 0]
    more = torch.tensor([20, VIDEO, VIDEO])
    places = torch.cat([positions, positions.max() + 1 + torch.arange(3).expand(3, -1)], 1)
    alone = adapter.layout(ids, positions, len(ids))
    guessed = adapter.layout(torch.cat([ids, more]), places, len(ids))
    assert alone is not None and guessed is not None
    assert guessed.blocks == alone.blocks and torch.equal(guessed.question, alone.question)


def test_the_table_names_calls() -> None:
    assert set(REFUSED) <= set(CALLS) and {name for name, _ in FAST} | NOT_OF_THIS_MODEL <= set(CALLS)
