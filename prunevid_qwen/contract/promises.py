"""What every reducer promises, one after the other; what is broken is said with how to mend it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from prunevid_qwen.errors import ConfigError, ContractBroken, excerpt
from prunevid_qwen.needs import Evidence
from prunevid_qwen.reducer import Reducer, merges, most, why_unchanged
from prunevid_qwen.tokens import TokenLayout, TokenMap


def promised(promise: str, holds: Any, broken: str, mend: str) -> None:
    """Raise unless a promise holds.

    Args:
        promise: in a word or two.
        holds: whether it does.
        broken: what failed.
        mend: what to do.

    Raises:
        ContractBroken: it does not.
    """
    if not holds:
        raise ContractBroken(f"{broken}: {mend}", promise=promise)


@contextmanager
def failures_of(who: str, what: str, may_refuse: bool = False) -> Iterator[None]:
    """Say of whatever fails inside whose it is and on what.

    Args:
        who: the options.
        what: the sample.
        may_refuse: a `ConfigError` is no failure: a method need not spend every budget on every video.

    Raises:
        ContractBroken: anything failed.
    """
    try:
        yield
    except ContractBroken as error:
        raise ContractBroken(f"{who} on {what}: {error}", promise=error.promise) from error.__cause__
    except Exception as error:
        if may_refuse and isinstance(error, ConfigError):
            return
        raise ContractBroken(
            f"{who} on {what}: {type(error).__name__}: {excerpt(str(error))}. Every sample of videos and images has to "
            "be decided on, down to a single token, by what `needs` asks for: other evidence is None",
            promise="decides",
        ) from error


def check_plan(reducer: Reducer, own: Any, seen: Evidence, stage: int) -> tuple[TokenMap, TokenLayout]:
    """Let a reducer decide twice, and check all that is promised of one decision.

    Args:
        reducer: decides.
        own: its options, or itself: they say how many tokens are left at most.
        seen: with what it asks for and no more.
        stage: 1 at the decoder's door, 2 inside the decoder.

    Returns:
        Its decision, and what is left.

    Raises:
        ContractBroken: a promise is broken.
    """
    before = _copied(seen)
    step, again = reducer.plan(seen), reducer.plan(seen)
    promised(
        "a map",
        isinstance(step, TokenMap),
        f"plan returned a {type(step).__name__}",
        "return a TokenMap, such as TokenMap.keep(index, n)",
    )
    for name, value in _copied(seen).items():
        promised(
            "untouched",
            torch.equal(value, before[name]),
            f"plan changed {name}",
            "leave the evidence as it is: copy, then change",
        )
    same = isinstance(again, TokenMap) and _equal(step, again)
    promised(
        "the same",
        same,
        "planned twice, the same evidence gave two decisions",
        "draw random numbers from a seeded Generator",
    )
    n = seen.layout.visual.numel()
    promised(
        "a map",
        step.n_in == n,
        f"the map is over {step.n_in} tokens",
        f"map all {n} visual tokens: TokenMap.keep(index, {n})",
    )
    promised(
        "a map",
        int(step.target.min()) >= -1 and int(step.target.max()) < step.n_out,
        "the map's groups are not 0 to n_out - 1",
        "number groups from 0, and give -1 to what is dropped",
    )
    promised(
        "one of each",
        step.n_out >= 1,
        f"nothing was left of {step.n_in} tokens",
        "keep at least one token of each of seen.layout.blocks, such as max(1, int(n * keep_ratio)) of its n tokens",
    )
    _check_order(reducer, step, stage)
    left = _applied(seen.layout, step)
    scope = getattr(own, "budget_scope", "image")  # of one sample's share a video may lose all, by its authors' count
    promised(
        "one of each",
        scope == "sample" or all(block.stop > block.start for block in left.blocks),
        "a video or image lost its last token",
        "keep at least one token of each of seen.layout.blocks",
    )
    promised("text", left.question.numel() == seen.layout.question.numel(), "text was lost", "map visual tokens alone")
    for i, block in enumerate(left.blocks):
        inside = left.stratum[block.start : block.stop]
        outside = torch.cat([left.stratum[: block.start], left.stratum[block.stop :]])
        apart = not bool(torch.isin(inside, outside).any())
        promised(
            "apart", apart, f"video or image {i} shares a stratum with another one", "number strata of each block anew"
        )
    _check_amount(own, seen, step)
    if stage == 1 and step.is_identity and any(block.stop - block.start > 1 for block in seen.layout.blocks):
        _check_reason(reducer, own, seen)
    return step, left


def _equal(one: TokenMap, other: TokenMap) -> bool:
    first, second = _parts(one), _parts(other)
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def _parts(step: TokenMap) -> dict[str, torch.Tensor]:
    given = {"target": step.target, "rep": step.rep, "stratum": step.stratum}
    if step.mix is not None:
        given |= {"source": step.mix.source, "group": step.mix.group, "weight": step.mix.weight}
    return {name: value for name, value in given.items() if value is not None}


def _copied(seen: Evidence) -> dict[str, torch.Tensor]:
    given = {each.name: getattr(seen, each.name) for each in dataclasses.fields(seen)}
    given |= {f"layout.{name}": getattr(seen.layout, name) for name in ("visual", "question", "stratum")}
    given |= {f"vision[{kind!r}]": value for kind, value in (seen.vision or {}).items()}
    return {name: value.clone() for name, value in given.items() if isinstance(value, torch.Tensor)}


def _check_order(reducer: Reducer, step: TokenMap, stage: int) -> None:
    places, may_merge = step.rep.diff(), stage == 1 or merges(reducer)
    if stage == 2:
        promised(
            "drops only",
            may_merge or step.is_selection,
            "tokens are merged inside the decoder, and it is not declared",
            "drop only, or say `merges = True` in the class",
        )
    if step.is_selection and not (stage == 2 and may_merge):
        promised(
            "in order",
            bool((places > 0).all()),
            "a token is kept twice, or out of order",
            "use TokenMap.keep, which sorts",
        )
    elif stage == 1:
        in_order = bool((places >= 0).all())
        promised(
            "in order", in_order, "places do not run in sequence order", "sort the groups by the places they take (rep)"
        )


def _applied(layout: TokenLayout, step: TokenMap) -> TokenLayout:
    try:
        left, whole = layout.apply(step)
    except ValueError as error:
        raise ContractBroken(f"{error}: decide about each of seen.layout.blocks by itself", promise="apart") from error
    promised("text", whole.n_in == layout.length, "text was lost", "map visual tokens alone")
    return left


def _check_amount(own: Any, seen: Evidence, step: TokenMap) -> None:
    limit = most(own, seen.layout, seen.step)
    promised(
        "budget",
        limit is None or step.n_out <= limit,
        f"{step.n_out} of {step.n_in} tokens were left, and {limit} is the most that its budget allows",
        "round a share down, at least 1 of each video and image, or say in `most(layout, step)` what it may leave",
    )


def _check_reason(reducer: Reducer, own: Any, seen: Evidence) -> None:
    asked = [getattr(own, name, None) for name in ("keep_ratio", "cluster_ratio", "tau")]
    promised(
        "reason",
        any(value == 1 for value in asked) or why_unchanged(reducer, seen.layout.blocks) is not None,
        "every token came through, which a run takes for pruning that did not happen",
        "merge, or say in why_unchanged(blocks) when nothing may change",
    )
