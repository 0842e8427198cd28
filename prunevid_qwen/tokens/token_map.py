"""TokenMap: what joins what, decided once and applied to features, positions, masks and caches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunevid_qwen.kernels.cluster_mean import cluster_mean
from prunevid_qwen.tokens.device import on, require


@dataclass(frozen=True)
class TokenMap:
    """A partial many-to-one map of tokens: decided once, applied to features, positions, masks and caches.

    ``target[i] = -1`` drops token ``i``; a target of its own keeps it; a shared target merges it.

    Args:
        target: [n_in] int64 in [-1, n_out).
        rep: [n_out] int64 in [0, n_in): the input token whose place (position, mask, cache row) the group takes. For a
            selection it is the member itself; for a merge it may be any token, such as the rounded mean of the members.
        stratum: [n_out] int64 or None: the budget class in which each group competes at the next stage; None inherits
            that of ``rep``.

    Raises:
        ValueError: a target or rep is out of range, or a group has no member.
    """

    target: Tensor
    rep: Tensor
    stratum: Tensor | None = None
    _only_drops: ClassVar[bool] = False  # unless the maker said so

    def __post_init__(self) -> None:
        n_in, n_out = self.n_in, self.n_out
        if self.stratum is not None and self.stratum.numel() != n_out:
            raise ValueError(f"stratum has {self.stratum.numel()} entries for {n_out} groups")
        rep, target = self.rep, self.target
        if n_out:
            require(
                (rep.min() >= 0) & (rep.max() < n_in),
                lambda: f"rep must lie in [0, {n_in}), got [{int(rep.min())}, {int(rep.max())}]",
            )
        if n_in:
            require(
                (target.min() >= -1) & (target.max() < n_out),
                lambda: f"target must lie in [-1, {n_out}), got up to {int(target.max())}",
            )
        require((self.sizes > 0).all(), lambda: "every group needs a member")

    @classmethod
    def trusted(cls, target: Tensor, rep: Tensor, stratum: Tensor | None = None) -> TokenMap:
        """Make a map that is valid by construction, without the checks: seven small kernels on a GPU."""
        made = object.__new__(cls)
        for name, value in (("target", target), ("rep", rep), ("stratum", stratum)):
            object.__setattr__(made, name, value)
        return made

    def _in_order(self) -> TokenMap:
        """Note that the map only drops and keeps the order, which its maker knows, so that nobody asks the device."""
        object.__setattr__(self, "_only_drops", True)
        return self

    @classmethod
    def identity(cls, n: int, device: torch.device | str | None = None) -> TokenMap:
        """Every one of ``n`` tokens keeps its place."""
        index = torch.arange(n, device=device)
        return cls.trusted(index, index)._in_order()

    @classmethod
    def keep(cls, index: Tensor, n_in: int) -> TokenMap:
        """Select tokens: ``index`` [K] int64 in any order without repeats, out of ``n_in``; the order is restored.

        Raises:
            ValueError: an index is out of range or stands there twice.
        """
        rep = index.sort().values
        fits = (rep >= 0) & (rep < n_in)
        fits[1:] &= rep[1:] > rep[:-1]
        require(fits.all(), lambda: f"indices lie in [0, {n_in}) without repeats, got {index.tolist()}")
        target = torch.full((n_in,), -1, dtype=torch.long, device=index.device)
        target[rep] = torch.arange(rep.numel(), device=index.device)
        return cls.trusted(target, rep)._in_order()

    @classmethod
    def concat(cls, maps: list[TokenMap]) -> TokenMap:
        """Put maps of consecutive blocks of tokens side by side; strata are kept apart and renumbered."""
        if len(maps) == 1:
            return maps[0]
        targets, reps, strata = [], [], []
        n_in = n_out = 0
        classes = torch.zeros((), dtype=torch.long, device=maps[0].rep.device)
        for each in maps:
            targets.append(torch.where(each.target >= 0, each.target + n_out, each.target))
            reps.append(each.rep + n_in)
            stratum = torch.zeros_like(each.rep) if each.stratum is None else each.stratum
            strata.append(stratum + classes)
            n_in, n_out = n_in + each.n_in, n_out + each.n_out
            if stratum.numel():
                classes = classes + stratum.max() + 1
        has_strata = any(each.stratum is not None for each in maps)
        whole = cls.trusted(torch.cat(targets), torch.cat(reps), torch.cat(strata) if has_strata else None)
        return whole._in_order() if all(each._only_drops for each in maps) else whole

    @property
    def n_in(self) -> int:
        """Tokens that go in."""
        return self.target.numel()

    @property
    def n_out(self) -> int:
        """Tokens that come out."""
        return self.rep.numel()

    @property
    def sizes(self) -> Tensor:
        """Members of each group, [n_out] int64."""
        member = (self.target >= 0).long()
        return torch.zeros_like(self.rep).scatter_add_(0, self.target.clamp(min=0), member) if self.n_out else self.rep

    @property
    def is_identity(self) -> bool:
        """True when every token keeps its place; asks the device only where as many come out as go in by merging."""
        if self.n_in != self.n_out:
            return False
        if self._only_drops:
            return True
        index = torch.arange(self.n_in, device=self.rep.device)
        return bool(torch.equal(self.target, index) and torch.equal(self.rep, index))

    @property
    def is_selection(self) -> bool:
        """True when groups hold one token each, in their own place: the map only drops. `keep` and `then` know."""
        places = torch.arange(self.n_out, device=self.rep.device)
        return self._only_drops or (
            torch.equal(self.target[self.rep], places) and int((self.target >= 0).sum()) == self.n_out
        )

    def to(self, device: torch.device) -> TokenMap:
        """Return the same map with its tensors on ``device``."""
        if self.rep.device == device:
            return self
        stratum = None if self.stratum is None else on(self.stratum, device)
        there = TokenMap.trusted(on(self.target, device), on(self.rep, device), stratum)
        return there._in_order() if self._only_drops else there

    def then(self, other: TokenMap) -> TokenMap:
        """Return the map that does ``self`` first and ``other`` on what is left.

        Raises:
            ValueError: ``other`` does not take as many tokens as ``self`` gives.
        """
        if other.n_in != self.n_out:
            raise ValueError(f"cannot compose: {self.n_out} tokens come out, the next map takes {other.n_in}")
        padded = torch.cat([other.target, other.target.new_full((1,), -1)])  # index -1 stays -1
        stratum = other.stratum
        if stratum is None and self.stratum is not None:
            stratum = self.stratum[other.rep]
        both = TokenMap.trusted(padded[self.target], self.rep[other.rep], stratum)
        return both._in_order() if self._only_drops and other._only_drops else both

    def mean(self, x: Tensor) -> Tensor:
        """Average the members of each group in fp32, in token order: [n_in, ...] -> [n_out, ...], same dtype.

        The result is the same bit for bit in every run. A group of one comes out as it went in (of a map that is not
        known to be a selection, fp64 as fp32): the device is not asked whether it is one.
        """
        if self._only_drops:
            return x.index_select(0, self.rep)
        return cluster_mean(x, self.target, self.n_out)

    def take(self, x: Tensor, dim: int) -> Tensor:
        """Pick each group's place along ``dim``: positions, rotary angles, masks, cache rows."""
        return x.index_select(dim, self.rep.to(x.device))
