"""DeepStack: features of a vision tower's inner blocks, which a decoder adds to its first layers' outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from prunevid_qwen.tokens import TokenMap

if TYPE_CHECKING:  # which holds what is here
    from prunevid_qwen.forward.prefill import Prefill


class DeepStack:
    """The features of one prompt, one level for each of the first layers. They follow their tokens through each step.

    Args:
        mask: [B, S] bool, True where a visual token stands.
        levels: each [n, D]: of the visual tokens of all rows, one after the other.
    """

    def __init__(self, mask: Tensor, levels: Sequence[Tensor]) -> None:
        self.mask, self.levels = mask, list(levels)

    def follow(self, state: Prefill) -> None:
        """Cut and average the features as the step that has just acted did with the tokens: each row's last map."""
        done = [None if row.layout is None else row.reductions[-1].map for row in state.rows]
        sizes = [0 if each is None else each.n_in for each in done]
        self.levels = [_made(level, sizes, done) for level in self.levels]
        mask = torch.zeros(state.valid.shape, dtype=torch.bool, device=self.mask.device)
        for b, row in enumerate(state.rows):
            if row.layout is not None:
                mask[b, state.places(b, mask.device)[row.layout.visual.to(mask.device)]] = True
        self.mask = mask

    def added(self, layer: int, out: Any) -> Any:
        """Add the features of a level to the output [B, S, D] of its layer, as the decoder would."""
        hidden: Tensor = out[0] if isinstance(out, tuple) else out
        mask, level = self.mask.to(hidden.device), self.levels[layer].to(hidden.device, hidden.dtype)
        summed = hidden.clone()
        summed[mask, :] = hidden[mask, :] + level
        return (summed, *out[1:]) if isinstance(out, tuple) else summed


def _made(level: Tensor, sizes: Sequence[int], maps: Sequence[TokenMap | None]) -> Tensor:
    """Make the features of the tokens that are left: [n, D] -> [n', D]."""
    rows = zip(level.split(list(sizes)), maps, strict=True)
    return torch.cat([own if done is None else done.to(own.device).mean(own) for own, done in rows])
