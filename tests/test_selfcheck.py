"""The canary: a release that nobody tested shows on a tiny model that pruning works, once, or is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from prunevid_qwen.adapters.tiny import installed_families
from prunevid_qwen.errors import SetupError
from prunevid_qwen.forward.hooks import self_check
from prunevid_qwen.forward.pruned_run import Run
from prunevid_qwen.forward.selfcheck import checks
from prunevid_qwen.forward.selfcheck.masked_forward import units_apart
from prunevid_qwen.version import TESTED
from tests.families import FAMILIES, often
from tests.models import tiny_model
from tests.untested_release import FAMILY, UNTESTED, enter, untested

__all__ = ["untested"]

# ---- what is checked


@pytest.mark.parametrize("family", often(installed_families()))
def test_the_installed_release_passes(family: str) -> None:
    found = self_check(family)
    assert [str(check) for check in found.failed] == []
    assert (found.ok, found.family, found.transformers, found.torch) == (True, family, UNTESTED, torch.__version__)
    names = [check.name for check in found.checks]
    stages = len(checks.STAGES) - FAMILIES[family].linear  # whose first layer cannot be cut
    assert len(set(names)) == len(names) == 2 * (3 + 2 * stages)  # eager and sdpa
    assert all(check.seconds > 0 and check.figures and check.error is None for check in found.checks)
    exact = [check for check in found.checks if check.name.startswith("keep everything")]
    assert [check.figures["units in the last place"] for check in exact] == [0, 0]


def no_more_hooks(monkeypatch: pytest.MonkeyPatch, kinds: dict[str, Any]) -> None:
    """As a layer that a release runs without `__call__`."""
    monkeypatch.setattr(kinds["layer"], "__call__", lambda self, *args, **kwargs: self.forward(*args, **kwargs))


def another_name_for_the_cache(monkeypatch: pytest.MonkeyPatch, kinds: dict[str, Any]) -> None:
    """As 5.24 did: the keyword that the decoder's door sees is another one."""
    decoder, names = kinds["decoder"], ("cache", "past_key_values")
    call, forward = decoder.__call__, decoder.forward

    def renamed(self: Any, *args: Any, **kwargs: Any) -> Any:
        return call(self, *args, **{f"memory_{k}" if k in names else k: value for k, value in kwargs.items()})

    def back(self: Any, *args: Any, **kwargs: Any) -> Any:
        return forward(self, *args, **{k.removeprefix("memory_"): value for k, value in kwargs.items()})

    monkeypatch.setattr(decoder, "__call__", renamed)
    monkeypatch.setattr(decoder, "forward", back)


def a_mask_that_is_ignored(monkeypatch: pytest.MonkeyPatch, kinds: dict[str, Any]) -> None:
    """Single tokens see all of the cache anyway; here every row does."""
    forward = kinds["attention"].forward

    def blind(self: Any, *args: Any, **kwargs: Any) -> Any:
        return forward(self, *args, **{**kwargs, "attention_mask": None})

    monkeypatch.setattr(kinds["attention"], "forward", blind)


def angles_of_other_places(monkeypatch: pytest.MonkeyPatch, kinds: dict[str, Any]) -> None:
    """As a layer that makes its own angles again, from what it holds instead of from what it is given."""
    forward = kinds["layer"].forward

    def own(self: Any, hidden_states: Any, *args: Any, **kwargs: Any) -> Any:
        cos, sin = kwargs["position_embeddings"]
        if hidden_states.shape[1] > 1:
            cos, sin = cos.roll(1, dims=-2), sin.roll(1, dims=-2)
        return forward(self, hidden_states, *args, **{**kwargs, "position_embeddings": (cos, sin)})

    monkeypatch.setattr(kinds["layer"], "forward", own)


def a_mask_function_that_moved(monkeypatch: pytest.MonkeyPatch, _kinds: dict[str, Any]) -> None:
    def moved(config: Any, states: Any, mask: Any, memory: Any) -> Any:
        raise AssertionError("nobody knows these names")

    monkeypatch.setattr("transformers.masking_utils.create_causal_mask", moved)


@pytest.mark.parametrize(
    ("broken", "kind"),
    [
        (no_more_hooks, "PruningNotApplied"),
        (another_name_for_the_cache, None),
        (a_mask_that_is_ignored, None),
        (angles_of_other_places, None),
        (a_mask_function_that_moved, "SetupError"),
    ],
)
def test_a_library_that_moved_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, untested: Path, broken: Callable[..., None], kind: str | None
) -> None:
    model = tiny_model("eager")
    layer = model.model.language_model.layers[0]
    kinds = {"decoder": type(model.model.language_model), "layer": type(layer), "attention": type(layer.self_attn)}
    monkeypatch.setattr(checks, "attentions", lambda: ("eager",))
    with monkeypatch.context() as patch:
        broken(patch, kinds)
        with pytest.raises(SetupError, match=UNTESTED) as raised:
            enter()
    said = str(raised.value)
    assert said.count(f"pip install 'transformers=={TESTED[-1]}'") == 1, "the next step, once"
    assert any(point in said for point in ("masking", "keep everything", "forward", "counts"))
    if kind is not None:
        assert type(raised.value.__cause__).__name__ == kind and kind in said
    assert not untested.exists()


def test_what_was_asked_and_did_not_happen_shows_in_the_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits alone would not tell: a prompt that was not merged equals the masking of nothing."""
    monkeypatch.setattr(checks, "attentions", lambda: ("eager",))
    monkeypatch.setattr(Run, "_merge", lambda *_given: None)
    wrong = {check.name: check for check in self_check(FAMILY).failed}
    counts = {name for name in wrong if name.startswith("counts")}
    assert counts == {f"counts of {stages}, eager" for stages in checks.STAGES if stages != "stages 2 and 3"}
    assert not any("masking" in name for name in wrong)
    assert all(wrong[name].figures["got"] != wrong[name].figures["asked"] for name in counts)


def test_two_cuts_are_proved_apart_from_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decode steps whose last layers are given what those between the cuts are given: of one cut there are none."""
    monkeypatch.setattr(checks, "attentions", lambda: ("eager",))
    stock = Run.before_later_layer

    def first_of_all(self: Run, *given: Any) -> Any:
        late, self.late = self.late, replace(self.late, spans=self.late.spans[:1])
        try:
            return stock(self, *given)
        finally:
            self.late = late

    monkeypatch.setattr(Run, "before_later_layer", first_of_all)
    wrong = [check.name for check in self_check(FAMILY).failed]
    assert wrong and all(checks.TWO_CUTS in name for name in wrong)


def test_a_model_that_cannot_be_built_is_a_finding_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "tiny_model", lambda *_given: {}["text_config"])
    found = self_check(FAMILY)
    assert [type(check.error) for check in found.checks] == [KeyError, KeyError] and not found.ok


def test_what_cannot_repeat_itself_to_the_bit_is_held_to_the_tolerance(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose stock model differs from itself by a unit is no reason to refuse a release; one by a share is."""
    monkeypatch.setattr(checks, "attentions", lambda: ("eager",))
    generate = checks._Subject._generate
    for size, ok in ((2.0**-23, True), (2.0**-8, False)):
        calls: list[None] = []

        def noisy(subject: Any, size: float = size, calls: list[None] = calls) -> Any:
            calls.append(None)
            out = generate(subject)
            out.logits = tuple(one * (1 + size * len(calls)) for one in out.logits)
            return out

        monkeypatch.setattr(checks._Subject, "_generate", noisy)
        found = next(check for check in self_check(FAMILY).checks if check.name.startswith("keep everything"))
        assert (found.ok, found.figures["allowed"]) == (ok, checks.UNITS)


def test_units_are_those_of_fp32_at_the_largest_number() -> None:
    wanted = torch.tensor([3.0, -0.001], dtype=torch.float64)  # between 2 and 4 neighbours are 2^-22 apart
    assert units_apart(wanted, wanted) == 0
    assert units_apart(wanted + 2.0**-21, wanted) == 2
    assert units_apart(torch.tensor([3.0, float("nan")]), wanted) == float("inf")
    assert units_apart(wanted, wanted * float("inf")) == float("inf")
