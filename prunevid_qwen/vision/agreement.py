"""Would stage 1 have merged what the encoder need not make? Counted on videos that the stock encoder made whole.

A unit (a visual token's place at a temporal position) that is not encoded gets the token of the last encoded one at its
place. That is harmless where stage 1 would have merged the two: where their tokens, as the stock encoder makes them,
are more alike than the merger's ``tau``. No label is needed to count how often this holds.

The states are those of the stock encoder. Where units are left out, those that are encoded see borrowed keys and
values instead, so their states differ a little from these.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from prunevid_qwen.vision.plan import PatchForm, last_encoded, plan_reuse, sources

_PAIRS = 4096  # tokens compared at a time


class Candidate(NamedTuple):
    """What decides that a unit is not encoded.

    Args:
        threshold: ``reuse_threshold``, or None.
        block: index of ``early_block``, or None.
        tau: ``early_tau``, or None.
    """

    threshold: float | None
    block: int | None = None
    tau: float | None = None


@dataclass
class Counts:
    """What a candidate does to some videos, in units.

    Args:
        units: all of them.
        still: not encoded, because their pixels hardly changed.
        still_agreed: of these, those that stage 1 would have merged with what they copy.
        early: dropped after the early block, because their states hardly changed.
        early_agreed: of these, the same.
    """

    units: int = 0
    still: int = 0
    still_agreed: int = 0
    early: int = 0
    early_agreed: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    @property
    def share(self) -> float:
        """Of all units, those that do not go through the whole encoder."""
        return (self.still + self.early) / self.units if self.units else 0.0

    @property
    def still_agreement(self) -> float | None:
        """Share of the units left out by their pixels that stage 1 would have merged; None where there are none."""
        return self.still_agreed / self.still if self.still else None

    @property
    def early_agreement(self) -> float | None:
        """Share of the units dropped after the early block that stage 1 would have merged; None: there are none."""
        return self.early_agreed / self.early if self.early else None

    def saved(self, candidate: Candidate, depth: int) -> float:
        """Share of the work of an encoder of ``depth`` blocks that is not done; a unit's work is that of its blocks."""
        behind = 0 if candidate.block is None else depth - 1 - candidate.block
        return (self.still + self.early * behind / depth) / self.units if self.units else 0.0


@dataclass
class _Copyable:
    """Rows that may still be copied, and which of them each candidate would copy at each place."""

    tokens: Tensor  # [M, D]
    place: Tensor  # [M] of each row
    states: dict[int, Tensor]  # block -> [M, C]
    row: dict[Candidate, Tensor] = field(default_factory=dict)  # [L]
    pixels: dict[float, Tensor] = field(default_factory=dict)  # threshold -> [L, P, C] as last encoded


class Agreement:
    """Counts for many candidates at once what they would leave out of one video, which comes in chunks.

    Memory is that of a chunk and of the rows that a later unit may copy: at most one a place and candidate.

    Args:
        thresholds: of ``reuse_threshold``, grey levels.
        blocks: of ``early_block``, indices.
        taus: of ``early_tau``.
        merge_tau: of stage 1: tokens whose cosine is above it are merged.
        form: of a patch.
    """

    def __init__(
        self, thresholds: Sequence[float], blocks: Sequence[int], taus: Sequence[float], merge_tau: float,
        form: PatchForm,
    ) -> None:  # fmt: skip
        self._thresholds, self._merge_tau, self._form = tuple(thresholds), merge_tau, form
        self._early = {
            block: [Candidate(threshold, block, tau) for threshold in (None, *thresholds) for tau in taus]
            for block in blocks
        }
        self._held: _Copyable | None = None
        self.positions = 0
        self.counts = {candidate: Counts() for candidate in self.candidates}

    @property
    def candidates(self) -> list[Candidate]:
        """Every threshold alone, then every pair of block and tau, without and behind each threshold."""
        return [Candidate(each) for each in self._thresholds] + [each for own in self._early.values() for each in own]

    @torch.no_grad()
    def add(self, pixels: Tensor, states: Mapping[int, Tensor], tokens: Tensor) -> None:
        """Count the next temporal positions of the video.

        Args:
            pixels: [T, L, P, C] of each unit's patches, normalised, before they are cast to the encoder's dtype.
            states: of each block [T, L, P * C'], what the stock encoder made of each unit's patches.
            tokens: [T, L, D], what it made of each unit in the end.
        """
        positions, places = tokens.shape[:2]
        device, before = tokens.device, self._held
        plans: dict[float | None, Tensor] = {None: torch.ones(positions, places, dtype=torch.bool, device=device)}
        last: dict[float, Tensor] = {}
        for each in self._thresholds:
            held = None if before is None else before.pixels[each]
            plan = plan_reuse(pixels, each, held, form=self._form)
            plans[each], last[each] = plan.to(device), last_encoded(pixels, plan, held)
        known = 0 if before is None else len(before.tokens)
        own = (torch.arange(positions * places, device=device) + known).view(positions, places)
        here = torch.arange(places, device=device)
        rows = _Copyable(
            torch.cat([*([before.tokens] if before else []), tokens.flatten(0, 1)]),
            torch.cat([*([before.place] if before else []), here.repeat(positions)]),
            {
                block: torch.cat([*([before.states[block]] if before else []), states[block].flatten(0, 1)])
                for block in self._early
            },
        )
        kept: dict[Candidate, Tensor] = {}  # [T, L] row that each unit's token is of
        for threshold in self._thresholds:
            source = sources(plans[threshold])
            carried = own[0] if before is None else before.row[Candidate(threshold)]
            kept[Candidate(threshold)] = torch.where(source >= 0, own.gather(0, source.clamp(min=0)), carried)
        for block, candidates in self._early.items():
            kept |= self._kept_early(candidates, plans, rows.states[block], rows.place, own)
        self._count(kept, plans, own, rows.tokens)
        self._hold(rows, {candidate: row[-1] for candidate, row in kept.items()}, last)
        self.positions += positions

    def _kept_early(
        self, candidates: Sequence[Candidate], plans: Mapping[float | None, Tensor], states: Tensor, place: Tensor,
        own: Tensor,
    ) -> dict[Candidate, Tensor]:  # fmt: skip
        """Return the rows [T, L] that units copy where the states after one block decide."""
        taus = torch.tensor([each.tau for each in candidates], device=own.device)[:, None]
        encoded = torch.stack([plans[each.threshold] for each in candidates])  # [K, T, L]
        held = None if self._held is None else torch.stack([self._held.row[each] for each in candidates])  # [K, L]
        taken = []
        for now, going in zip(own, encoded.unbind(1), strict=True):
            if held is None:
                held = now.expand(len(candidates), -1)
            else:  # most candidates hold the same rows: each is compared once
                rows, number = held.unique(return_inverse=True)
                cosine = _cosines(states[rows], states[now[place[rows]]])[number]
                held = torch.where(going & ~(cosine > taus), now, held)
            taken.append(held)
        return dict(zip(candidates, torch.stack(taken, dim=1), strict=True))

    def _count(
        self, kept: Mapping[Candidate, Tensor], plans: Mapping[float | None, Tensor], own: Tensor, tokens: Tensor
    ) -> None:
        pairs, number = torch.stack([own.expand_as(row) * len(tokens) + row for row in kept.values()]).unique(
            return_inverse=True
        )
        alike = torch.cat([
            _cosines(tokens[part // len(tokens)], tokens[part % len(tokens)]) > self._merge_tau
            for part in pairs.split(_PAIRS)
        ])  # fmt: skip
        for (candidate, row), agreed in zip(kept.items(), alike[number], strict=True):
            copied, still = row != own, ~plans[candidate.threshold]
            found = (copied & still, copied & still & agreed, copied & ~still, copied & ~still & agreed)
            self.counts[candidate] += Counts(own.numel(), *(int(each.sum()) for each in found))

    def _hold(self, rows: _Copyable, row: dict[Candidate, Tensor], pixels: dict[float, Tensor]) -> None:
        used, number = torch.stack(list(row.values())).unique(return_inverse=True)
        states = {block: each[used] for block, each in rows.states.items()}
        numbers = dict(zip(row, number, strict=True))
        self._held = _Copyable(rows.tokens[used], rows.place[used], states, numbers, pixels)


def total(counts: Iterable[Mapping[Candidate, Counts]]) -> dict[Candidate, Counts]:
    """Add the counts of several videos, candidate by candidate."""
    found: dict[Candidate, Counts] = {}
    for each in counts:
        found |= {candidate: found.get(candidate, Counts()) + own for candidate, own in each.items()}
    return found


def _cosines(one: Tensor, other: Tensor) -> Tensor:
    """Return the cosines of rows [N, C], at most 1, as merger ``rlt`` computes them."""
    one, other = (normalize(each.float(), dim=1, eps=1e-12) for each in (one, other))
    return (one * other).sum(dim=1).clamp(max=1.0)
