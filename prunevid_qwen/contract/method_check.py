"""The check of a whole method: every layout, content and variant of its options, one step after the other."""

from __future__ import annotations

import dataclasses
from typing import Any

import prunevid_qwen.stage2_select  # noqa: F401  importing a stage enters its methods in the registry
from prunevid_qwen.config.method_base import check_amounts, checked_layers
from prunevid_qwen.config.option_classes import options_class
from prunevid_qwen.contract.promises import check_plan, failures_of, promised
from prunevid_qwen.contract.samples import CONTENT, LAYOUTS, evidence, only_what_it_asks_for
from prunevid_qwen.contract.variants import EVERYTHING, variants_of, varied
from prunevid_qwen.errors import ConfigError, ContractBroken, excerpt, quoted
from prunevid_qwen.needs import Evidence, Needs
from prunevid_qwen.reducer import Reducer, is_reducer, made_by, merges, registered_as
from prunevid_qwen.stage1_merge import Pool, PruneVidMerge, RandomMerge

_DEPTH = 32  # layers of the decoder that several cuts are placed in
_BEFORE: dict[str, Reducer | None] = {
    "nothing before it": None,
    "pooled tokens": Pool(),
    "merged tokens": PruneVidMerge(min_cluster_tokens=3, token_order="grouped"),
    "dropped tokens": RandomMerge(merge_images=True),
}
"""What may stand at the decoder's door before a selector."""


def check_reducer(what: Any) -> None:
    """Check a method against the contract of reducers, on made-up videos and images; takes seconds.

    It has to decide on each of them, the same each time, without changing what it is shown; about each video and image
    by itself, leaving at least one token of it; within its own budget. A selector is also shown what mergers leave, and
    may only drop unless it says ``merges = True``. With options that ask for everything it keeps everything.

    Args:
        what: a registered class, its class of options, such options, or a reducer. Of options, those whose names
            methods share (``keep_ratio``, ``selection_scope``, ...) are varied.

    Raises:
        ContractBroken: a promise is broken; it names which, on what, and how to mend it.
        ConfigError: ``what`` is none of these, or a budget of it is out of range.
    """
    stage, given = _given(what)
    check_amounts(given)
    for name, own in variants_of(given).items():
        who = f"{type(own).__name__} ({name})"
        with failures_of(who, "construction"):
            reducer = _made(own, stage)
        _check_evidence(who, reducer, own, stage, may_refuse=own is not given)
    for changes in EVERYTHING:
        own = varied(given, changes) if dataclasses.is_dataclass(given) else None
        if own is not None:
            _check_identity(f"{type(own).__name__} with {changes}", _made(own, stage), own, stage)


def _given(what: Any) -> tuple[int, Any]:
    """Return the stage of a method, and its options or reducer."""
    known = registered_as(what if isinstance(what, type) else type(what))
    if isinstance(what, type):
        if known is None and not callable(getattr(what, "plan", None)):
            raise ConfigError(
                f"no method is made of {what.__name__}: pass a class that @register(name, ItsOptions) has entered, its "
                "options, or a reducer"
            )
        return known[0] if known else 2, _options_of(what, known)
    if known is None and not is_reducer(what):
        raise ConfigError(f"a method is options of a registered one, or a reducer; got {quoted(what)}")
    return known[0] if known else 2, what


def _options_of(cls: type, known: tuple[int, str] | None) -> Any:
    if known is None:
        try:
            return cls()
        except TypeError as error:
            raise ConfigError(
                f"{cls.__name__} is not made without arguments ({excerpt(str(error))}): pass one that is made, or give "
                "each option a default"
            ) from error
    return options_class("merger" if known[0] == 1 else "selector", known[1])()


def _made(own: Any, stage: int) -> Reducer:
    """Return the reducer, one of these options where they are not one."""
    reducer: Any = own if is_reducer(own) else made_by(own, stage)
    for name in ("needs", "plan"):
        promised(
            "a reducer",
            hasattr(reducer, name),
            f"it has no {name}",
            "a reducer has `needs` and `plan(seen) -> TokenMap`",
        )
    needs = reducer.needs
    promised(
        "a reducer",
        isinstance(needs, Needs),
        f"needs is {quoted(needs)}",
        "return Needs(), with what `plan` reads beyond states",
    )
    made: Reducer = reducer
    return made


def _check_evidence(who: str, reducer: Reducer, own: Any, stage: int, may_refuse: bool) -> None:
    for before, merger in _BEFORE.items() if stage == 2 else (("nothing before it", None),):
        for content in CONTENT:
            for layout in LAYOUTS:
                if merger is not None and content == "all equal":
                    continue
                with failures_of(who, f"{layout}, {content}, {before}", may_refuse):
                    _check_steps(reducer, own, _after(merger, evidence(layout, content)), stage)


def _after(merger: Reducer | None, seen: Evidence) -> Evidence:
    """Return what a merger leaves of a sample."""
    if merger is None:
        return seen
    step = merger.plan(seen)
    left, _ = seen.layout.apply(step)
    hidden = step.mean(seen.hidden)
    return dataclasses.replace(seen, layout=left, hidden=hidden, attention=hidden[:, 0].clone())


def _check_steps(reducer: Reducer, own: Any, seen: Evidence, stage: int) -> None:
    """Check every step that a method of several makes, each on what the one before left."""
    places = _places(reducer, own, stage)
    entered = tuple(block.stop - block.start for block in seen.layout.blocks)
    shown = only_what_it_asks_for(reducer, seen)
    note = shown.note
    for number, at in enumerate(places):
        place: dict[str, Any] = {"step": number, "layer": at, "note": note}
        place |= {"entered": entered, "steps_at": places, "depth": _DEPTH}
        shown = only_what_it_asks_for(reducer, seen, **place)
        step, left = check_plan(reducer, own, shown, stage)
        hidden = step.mean(seen.hidden)
        seen = dataclasses.replace(seen, layout=left, hidden=hidden, attention=hidden[:, 0].clone())


def _places(reducer: Reducer, own: Any, stage: int) -> tuple[int, ...]:
    """Return on whose outputs the method's steps act in a decoder of 32 layers."""
    if stage == 1:
        return (-1,)
    given = own.layers_for(_DEPTH) if hasattr(own, "layers_for") else getattr(own, "layers", None)
    mend = "give `layers` as indices from 1, shares of the depth in (0, 1), or None"
    try:
        layers = checked_layers(given, most=None) or (11,)
    except ConfigError as error:
        raise ContractBroken(f"{error}: {mend}", promise="places") from error
    several = getattr(reducer, "several", False)
    promised(
        "places",
        len(layers) == 1 or several,
        f"layers={layers}, and it does not say that it acts several times",
        "say `several = True` in the class, or give one layer",
    )
    return tuple(each - 1 if isinstance(each, int) else int(each * _DEPTH) for each in layers)


def _check_identity(who: str, reducer: Reducer, own: Any, stage: int) -> None:
    for layout in LAYOUTS:
        with failures_of(who, layout):
            seen = only_what_it_asks_for(reducer, evidence(layout), layer=_places(reducer, own, stage)[0])
            kept = reducer.plan(seen)
            promised(
                "everything",
                kept.is_identity or (merges(reducer) and kept.n_out == kept.n_in),
                f"{kept.n_out} of {kept.n_in} tokens were left, and all were asked for",
                "return TokenMap.identity(n, device) where the budget is everything",
            )
