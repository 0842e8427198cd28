"""Budgets of methods that cut several times: what all layers together see, and the schedule that spends a budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Protocol

from prunevid_qwen.config.amounts import percent
from prunevid_qwen.config.schedules import PAPER_TOKENS
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.needs import Evidence

Schedules = Callable[[int, float], Sequence[int]]
"""What each cut leaves of so many tokens, for a number in (0, 1]: 1 leaves all, and a smaller one never more."""

_GRID = 2**20  # numbers in (0, 1] that are tried: finer than a token of any video
_MANY = 100_000  # tokens, of which a rounded one is nothing
_NEAR = 1e-6  # a share of a number of tokens that is whole stays whole


class ScheduleBudget(Protocol):
    """Options that hold a budget as an average over layers; one of the two is set."""

    @property
    def keep_ratio(self) -> float | None:
        """A share of the tokens that came to the first cut."""
        ...

    @property
    def keep_tokens(self) -> int | None:
        """Tokens of each video and image."""
        ...


def entered(seen: Evidence) -> tuple[int, ...]:
    """Return how many tokens of each video and image came to this method's first cut."""
    return seen.entered or tuple(block.stop - block.start for block in seen.layout.blocks)


def processed(left: Sequence[int], tokens: int, places: Sequence[int], depth: int) -> int:
    """Count the visual tokens that all layers together see.

    Args:
        left: what each cut leaves.
        tokens: that came to the first cut.
        places: the layers after which the cuts stand, ascending; none where that is not known: then the cut at hand is
            all there is, and one layer sees what it leaves.
        depth: layers of the decoder.
    """
    edges = (*(at + 1 for at in places), depth) if places else (0, 1)
    return tokens * edges[0] + sum(n * (stop - start) for n, (start, stop) in zip(left, pairwise(edges), strict=True))


def spending(schedules: Schedules, budget: ScheduleBudget, tokens: int, seen: Evidence) -> float:
    """Return the number in (0, 1] of the schedule that spends a budget on a video or image: the largest within it.

    One token of each is always left, and where a share is less than that it is exceeded.

    Args:
        schedules: of the method, for as many cuts as ``seen.steps_at`` has, one where it has none.
        budget: what a layer may see, averaged over all layers.
        tokens: that came to the first cut.
        seen: says where the cuts stand.

    Raises:
        ConfigError: a number of tokens that is below what the layers before the first cut see.
    """
    depth, count = seen.depth if seen.steps_at else 1, budget.keep_tokens
    share = 1.0 if budget.keep_ratio is None else budget.keep_ratio
    allowed = depth * (tokens * share if count is None else min(tokens, count)) + _NEAR
    low, high = 1, _GRID + 1
    while high - low > 1:
        middle = (low + high) // 2
        fits = processed(schedules(tokens, middle / _GRID), tokens, seen.steps_at, depth) <= allowed
        low, high = (middle, high) if fits else (low, middle)
    least = processed(schedules(tokens, low / _GRID), tokens, seen.steps_at, depth)
    if count is not None and seen.steps_at and least > allowed and tokens > 1:
        raise ConfigError(
            f"keep_tokens={count} is asked for as an average over {depth} layers, and those before layer "
            f"{seen.steps_at[0] + 1} see all {tokens} tokens of a video or image: {least / depth:.1f} is the least. "
            "Ask for more, cut earlier (layers), or merge before the decoder"
        )
    return low / _GRID


def check_budget(schedules: Schedules, budget: ScheduleBudget, places: Sequence[int], depth: int, name: str) -> None:
    """Refuse a share that these cuts cannot meet, since the layers before the first one see everything.

    Raises:
        ConfigError: it is below the least.
    """
    least = processed(schedules(_MANY, 1 / _GRID), _MANY, places, depth) / (_MANY * depth)
    if budget.keep_ratio is not None and budget.keep_ratio < least:
        raise ConfigError(
            f"{name} is asked for keep_ratio={budget.keep_ratio:g} as an average over {depth} layers, and those before "
            f"layer {places[0] + 1} see everything: {percent(least, 1)} is the least. Ask for more, cut earlier "
            "(layers), or merge before the decoder"
        )


def between(x: float, tokens: int, cuts: int, table: Mapping[int, tuple[int, int, int]]) -> list[int]:
    """Say what each cut keeps, ``x`` of the way from nothing over the entries of a table to everything.

    Args:
        x: in (0, 1]. With one cut it is the share that this cut keeps.
        tokens: that came to the first cut.
        cuts: 1, or as many as an entry of the table has.
        table: for each budget of 576 tokens, the tokens kept of 576 at each cut.
    """
    if cuts == 1:
        return [int(tokens * x)]
    rows = [(0, (0,) * cuts), *sorted(table.items()), (PAPER_TOKENS, (PAPER_TOKENS,) * cuts)]
    for (low, fewer), (high, more) in pairwise(rows):
        if x * PAPER_TOKENS <= high:
            part = (x * PAPER_TOKENS - low) / (high - low)
            shares = [(a + part * (b - a)) / PAPER_TOKENS for a, b in zip(fewer, more, strict=True)]
            return [int(tokens * share) for share in shares]
    raise AssertionError(f"a number in (0, 1], got {x}")
