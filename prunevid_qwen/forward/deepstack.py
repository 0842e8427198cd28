"""DeepStack: features of a vision tower's inner blocks, which a decoder adds to its first layers' outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from prunevid_qwen.adapters import Adapter
from prunevid_qwen.forward.plan import Plan
from prunevid_qwen.tokens import TokenMap
from prunevid_qwen.tokens.device import moved


def adds_here(adapter: Adapter, plan: Plan) -> range:
    """Return the layers whose features hooks have to add: a step after one of them has to see them, and to cut them.

    Where no step acts that early, the decoder adds what it is given back.
    """
    first = adapter.deepstack
    return range(first if any(step.at < first for step in plan.cuts) else 0)


class DeepStack:
    """The features of one prompt, one level for each of the first layers. They follow their tokens through each step.

    Args:
        mask: [B, S] bool, True where a visual token stands.
        levels: each [n, D]: of the visual tokens of all rows, one after the other.
    """

    def __init__(self, mask: Tensor, levels: Sequence[Tensor]) -> None:
        self._mask, self._levels = mask, list(levels)
        self._at: Tensor | None = None  # [n] where they stand in the flattened mask, once it is known

    @classmethod
    def taken(cls, adapter: Adapter, kwargs: dict[str, Any]) -> DeepStack | None:
        """Take them out of a call of the decoder; None where it brings none."""
        taken = adapter.take_deepstack(kwargs)
        return None if taken is None else cls(*taken)

    def give_back(self, adapter: Adapter, kwargs: dict[str, Any], plan: Plan) -> None:
        """Put them back into the call, where hooks do not add them."""
        if not adds_here(adapter, plan):
            adapter.give_deepstack(kwargs, self._mask, self._levels)

    def follow(self, maps: Sequence[TokenMap | None], places: Sequence[Tensor | None], width: int) -> None:
        """Cut and average the features as a step did with the tokens.

        Args:
            maps: of each row, over its visual tokens; None for a text.
            places: [n'] of each row, where they stand now.
            width: of the rows.
        """
        sizes = [0 if each is None else each.n_in for each in maps]
        self._levels = [_made(level, sizes, maps) for level in self._levels]
        there = [moved(at, self._mask.device) + b * width for b, at in enumerate(places) if at is not None]
        self._at = torch.cat(there)
        self._mask = torch.zeros(len(maps) * width, dtype=torch.bool, device=self._mask.device)
        self._mask = self._mask.index_fill(0, self._at, True).view(-1, width)

    def added(self, layer: int, out: Any) -> Any:
        """Add the features of a level to the output [B, S, D] of its layer, as the decoder would."""
        hidden: Tensor = out[0] if isinstance(out, tuple) else out
        if self._at is None:
            self._at = self._mask.flatten().nonzero()[:, 0]  # the host waits once, and not for each level
        at, level = self._at.to(hidden.device), self._levels[layer].to(hidden.device, hidden.dtype)
        flat = hidden.flatten(0, 1)
        summed = flat.index_copy(0, at, flat.index_select(0, at) + level).view_as(hidden)
        return (summed, *out[1:]) if isinstance(out, tuple) else summed


def _made(level: Tensor, sizes: Sequence[int], maps: Sequence[TokenMap | None]) -> Tensor:
    """Make the features of the tokens that are left: [n, D] -> [n', D]."""
    rows = zip(level.split(list(sizes)), maps, strict=True)
    return torch.cat([own if done is None else done.to(own.device).mean(own) for own, done in rows])
