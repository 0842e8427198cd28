"""The rows that a tower's blocks hold when some units of a video are copies, and whose keys each row attends to."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from prunevid_qwen.adapters.windows import window_order
from prunevid_qwen.vision.plan import sources


class AttentionCall(NamedTuple):
    """Groups of rows that attend to equally many keys each: one call of attention.

    Args:
        queries: [G, q] patch rows; a group of fewer repeats its last unit.
        keys: [G, k] patch rows of the pool: what was carried in, and behind it the rows.
    """

    queries: Tensor
    keys: Tensor


class AttentionCalls(NamedTuple):
    """All calls of attention of a block.

    Args:
        parts: the calls.
        place: [patch rows] where the output of each row stands among those of all calls, one after the other.
    """

    parts: list[AttentionCall]
    place: Tensor


class UnitRows:
    """The encoded units of some positions of one video, position by position, in the order of the tower.

    Args:
        encoded: [T, L] bool on the CPU.
        grid: (T, h, w) in units, L = h * w.
        side: units along a window, or None.
        unit: patches of a unit.
        carried: the last encoded state of each place of earlier positions is there: L rows of the pool, in raster
            order. Without it every place is encoded before it is copied.
    """

    def __init__(self, encoded: Tensor, grid: tuple[int, int, int], side: int | None, unit: int, carried: bool) -> None:
        t, h, w = grid
        cells = h * w
        self.encoded, self.grid, self.side, self.unit, self.carried = encoded, grid, side, unit, carried
        one = torch.arange(cells) if side is None else window_order([(1, h, w)], side)
        chosen = encoded[:, one]  # [T, L] in the tower's order
        self.at_tower = chosen.flatten().nonzero()[:, 0]  # [n] places of the rows in the tower's order of all units
        position = self.at_tower.div(cells, rounding_mode="floor")
        self.place = one[self.at_tower % cells]  # [n] raster place of each row
        self.number = position * cells + self.place  # [n] raster number of each row
        self.sizes: list[int] = chosen.sum(1).tolist()  # rows of each position
        self.whole = len(self.number) == t * cells
        rank = torch.full((t * cells,), -1)
        rank[self.number] = torch.arange(len(self.number))
        at = sources(encoded)
        self.source = torch.where(at >= 0, at * cells + torch.arange(cells), -1)  # [T, L] raster number; -1: carried in
        ahead = cells if carried else 0
        pool = torch.where(at >= 0, rank[self.source.clamp(min=0)] + ahead, torch.arange(cells))  # [T, L]
        self.last = pool[-1]  # [L] of the pool: what the next positions may copy
        self._pool = pool[:, one]  # [T, L] in the tower's order
        self._held: dict[tuple[str, torch.device], Tensor] = {}
        self._batches: dict[tuple[bool, torch.device], AttentionCalls] = {}
        self._edges = self._window_edges(one, h, w, side)

    @staticmethod
    def _window_edges(one: Tensor, h: int, w: int, side: int | None) -> Tensor:
        """Where windows begin in the tower's order of one position, and where the last ends."""
        if side is None:
            return torch.tensor([0, h * w])
        window = one.div(w, rounding_mode="floor").div(side, rounding_mode="floor") * -(-w // side) + one % w // side
        begins = torch.nonzero(torch.diff(window, prepend=window[:1] - 1))[:, 0]
        return torch.cat([begins, torch.tensor([h * w])])

    def patches(self, which: str, device: torch.device) -> Tensor:
        """Return ``number``, ``at_tower`` or ``last`` for patches instead of units, on a device."""
        return self._on(f"{which} of patches", device, lambda: of_patches(getattr(self, which), self.unit))

    def units(self, which: str, device: torch.device) -> Tensor:
        """Return ``place`` or ``last`` on a device; "spread" is [T * L] of the pool, in the tower's order."""
        return self._on(which, device, lambda: self._pool.flatten() if which == "spread" else getattr(self, which))

    def _on(self, name: str, device: torch.device, make: Callable[[], Tensor]) -> Tensor:
        if (name, device) not in self._held:
            self._held[name, device] = make().to(device)
        return self._held[name, device]

    def batches(self, full: bool, device: torch.device) -> AttentionCalls:
        """Return the calls of attention of a block that sees the whole position, or of one that sees windows."""
        if (full, device) not in self._batches:
            edges = self._edges[[0, -1]] if full else self._edges
            self._batches[full, device] = self._batched(edges, pad=not full, device=device)
        return self._batches[full, device]

    def _batched(self, edges: Tensor, pad: bool, device: torch.device) -> AttentionCalls:
        there = torch.zeros(len(self.encoded), self.encoded.shape[1] + 1, dtype=torch.long)
        chosen = torch.zeros(self.encoded.numel(), dtype=torch.long)
        chosen[self.at_tower] = 1
        there[:, 1:] = chosen.view(len(self.encoded), -1).cumsum(1)
        upto = there[:, edges]  # [T, windows + 1]
        count = upto.diff(dim=1)
        begin = torch.tensor([0, *self.sizes]).cumsum(0)[:-1, None] + upto[:, :-1]
        size = edges.diff().expand_as(count)
        position, window = count.nonzero().unbind(1)
        count, begin, size = (x[position, window] for x in (count, begin, size))
        # queries of windows are padded to a power of two: few calls, and less than twice the work
        powers = 2 ** torch.arange(32)
        wide = torch.minimum(powers[torch.searchsorted(powers, count)], size) if pad else count
        parts, rows = [], [torch.empty(0, dtype=torch.long)]
        for k, q in sorted(set(zip(size.tolist(), wide.tolist(), strict=True))):
            group = ((size == k) & (wide == q)).nonzero()[:, 0]
            step = torch.arange(q)
            valid = step < count[group, None]
            queries = begin[group, None] + torch.minimum(step, count[group, None] - 1)
            keys = self._pool[position[group, None], edges[window[group], None] + torch.arange(k)]
            parts.append(AttentionCall(*(of_patches(each, self.unit).to(device) for each in (queries, keys))))
            rows.append(torch.where(valid, queries, -1).flatten())
        flat = torch.cat(rows)
        place = torch.empty(len(self.number), dtype=torch.long)
        stands = flat >= 0
        place[flat[stands]] = stands.nonzero()[:, 0]
        return AttentionCalls(parts, of_patches(place, self.unit).to(device))

    def without(self, gone: Tensor) -> UnitRows:
        """Return the rows that are left when some of them, [n] bool on the CPU, become copies."""
        encoded = self.encoded.clone().flatten()
        encoded[self.number[gone]] = False
        return UnitRows(encoded.view_as(self.encoded), self.grid, self.side, self.unit, self.carried)


def of_patches(units: Tensor, unit: int) -> Tensor:
    """Return the rows of the patches of units: [..., n] -> [..., n * unit]."""
    return (units[..., None] * unit + torch.arange(unit, device=units.device)).flatten(-2)
