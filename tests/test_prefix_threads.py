"""Threads that share a prefix: none is given states under another prompt's tokens; what was let go stays let go."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunevid_qwen import PruneVidConfig, pruned
from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.forward.prefix import Prefixes, fingerprint
from tests.families import family_model
from tests.test_prefix import BOTH, NEW, QUESTIONS, answered, asked, same
from tests.tolerances import LOGITS, close

FAMILY, PATIENCE = "qwen2_5_vl", 60
CONFIG = PruneVidConfig(**BOTH)


def beginning(word: int) -> dict[str, Tensor]:
    """The family's prompt whose first token is another word."""
    inputs = asked(FAMILY, QUESTIONS[0])
    inputs["input_ids"] = inputs["input_ids"].clone()
    inputs["input_ids"][:, 0] = word
    return inputs


def logits(inputs: dict[str, Tensor]) -> Tensor:
    out = family_model(FAMILY).generate(
        **inputs, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, pad_token_id=0, output_logits=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    return torch.stack(out.logits)


def side_by_side(prefixes: Prefixes, words: tuple[int, int]) -> list[Tensor]:
    """Run two prompts in threads, each of which waits for the other before the first layer, and return their logits."""
    model, meeting = family_model(FAMILY), threading.Barrier(2)
    met, found = threading.local(), dict[int, Any]()

    def wait(*_: Any) -> None:
        if not getattr(met, "once", False):
            met.once = True
            meeting.wait(PATIENCE)

    def run(word: int) -> None:
        with torch.no_grad():
            found[word] = logits(beginning(word))

    layer = adapter_for(model).parts.layers[0].input_layernorm
    handle = layer.register_forward_pre_hook(wait)
    try:
        with pruned(model, CONFIG, prefixes=prefixes):
            threads = [threading.Thread(target=run, args=(word,)) for word in words]
            for each in threads:
                each.start()
            for each in threads:
                each.join(PATIENCE)
    finally:
        handle.remove()
    return [found[word] for word in words]


def test_prompts_that_begin_otherwise_leave_their_own_states() -> None:
    words, fresh = (21, 22), {}
    for word in words:
        with torch.no_grad(), pruned(family_model(FAMILY), CONFIG):
            fresh[word] = logits(beginning(word))
    for order in (words, words[::-1]):
        prefixes = Prefixes()
        for word, got in zip(order, side_by_side(prefixes, order), strict=True):
            close(got, fresh[word], LOGITS)
        assert prefixes.held is not None
        outcomes = set()
        for word in words:  # one of them is held; asked again, both are right
            with torch.no_grad(), pruned(family_model(FAMILY), CONFIG, prefixes=prefixes):
                close(logits(beginning(word)), fresh[word], LOGITS)
                outcomes.add(prefixes.outcome)
        assert outcomes == {"reused", None}


def test_a_prompt_under_way_leaves_nothing_after_clear() -> None:
    prefixes = Prefixes()
    layer = adapter_for(family_model(FAMILY)).parts.layers[0].input_layernorm
    handle = layer.register_forward_pre_hook(lambda *_: threading.Thread(target=prefixes.clear).run())
    try:
        answered(FAMILY, CONFIG, QUESTIONS[0], prefixes)
    finally:
        handle.remove()
    assert prefixes.held is None and prefixes.outcome is None


def test_another_threads_outcome_is_its_own() -> None:
    prefixes = Prefixes()
    other = threading.Thread(target=answered, args=(FAMILY, CONFIG, QUESTIONS[0], prefixes))
    other.start()
    other.join(PATIENCE)
    assert prefixes.held is not None and prefixes.outcome is None
    same(answered(FAMILY, CONFIG, QUESTIONS[1], prefixes), answered(FAMILY, CONFIG, QUESTIONS[1]))
    assert prefixes.outcome == "reused"


def test_what_is_held_is_no_view_of_the_cache() -> None:
    """A cache is written in place by decoding, cut by stage 3 and belongs to the caller."""
    model, prefixes = family_model(FAMILY), Prefixes()
    config = PruneVidConfig(**BOTH, enable_cache_compression=False)
    with torch.no_grad(), pruned(model, config, prefixes=prefixes):
        out = model.generate(**asked(FAMILY, QUESTIONS[0]), max_new_tokens=1, return_dict_in_generate=True)
        for each in out.past_key_values.layers:
            each.keys.zero_()
            each.values.zero_()
    same(answered(FAMILY, config, QUESTIONS[1], prefixes), answered(FAMILY, config, QUESTIONS[1]))
    assert prefixes.outcome == "reused"


def test_a_prompt_that_shows_more_runs_whole_and_says_so() -> None:
    prefixes, once = Prefixes(), asked(FAMILY, QUESTIONS[0])
    answered(FAMILY, CONFIG, QUESTIONS[0], prefixes)
    twice = {name: torch.cat([each, each], dim=int(each.ndim == 2 and len(each) == 1 and name != "video_grid_thw"))
             for name, each in once.items()}  # fmt: skip
    assert torch.equal(twice["input_ids"][:, : once["input_ids"].shape[1]], once["input_ids"])
    with torch.no_grad(), pruned(family_model(FAMILY), CONFIG, prefixes=prefixes):
        got = logits(twice)
        assert prefixes.outcome is None and prefixes.why
    with torch.no_grad(), pruned(family_model(FAMILY), CONFIG):
        close(got, logits(twice), LOGITS)


class Switched(nn.Module):
    """A layer with an adapter's switches, as peft names them."""

    active_adapters: tuple[str, ...] = ("a",)
    disable_adapters = False
    merged_adapters: tuple[str, ...] = ()
    scaling: dict[str, float] = {"a": 1.0}  # noqa: RUF012  as peft has it

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))


def _set(name: str, value: Any) -> Callable[[Switched], None]:
    return lambda module: setattr(module, name, value)


def _write(module: Switched) -> None:
    with torch.no_grad():
        module.weight.add_(1)


@pytest.mark.parametrize(
    "change",
    [
        _set("active_adapters", ("b",)), _set("disable_adapters", True), _set("merged_adapters", ("a",)),
        _set("scaling", {"a": 2.0}), _write, _set("weight", nn.Parameter(torch.ones(2))),
    ],
    ids=["another", "off", "merged", "scaled", "written", "replaced"],
)  # fmt: skip
def test_other_weights_and_adapters_are_told_apart(change: Callable[[Switched], None]) -> None:
    module = nn.Sequential(Switched())
    before = fingerprint(module)
    assert fingerprint(module) == before
    change(module[0])  # type: ignore[arg-type]
    assert fingerprint(module) != before
