"""TokenMap: which tokens are kept, dropped or merged; applied to features, positions, masks and caches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from prunevid_qwen.kernels.cluster_mean import cluster_mean, weighted_sum
from prunevid_qwen.tokens.device import check_on_device, moved


@dataclass(frozen=True)
class Mix:
    """Weights for the groups of a map. Without a mix, a group is the mean of its members.

    With a mix, a group is ``sum(weight * token)`` over its entries. Weights need not add up to 1, and a token may be in
    several groups.

    Args:
        source: [E] int64 in [0, n_in): the token of each entry.
        group: [E] int64 in [0, n_out): the group of each entry.
        weight: [E] fp32: the weight of each entry.
    """

    source: Tensor
    group: Tensor
    weight: Tensor


@dataclass(frozen=True)
class TokenMap:
    """A decision about n_in tokens: each is kept, dropped or merged into one of n_out groups.

    ``target[i] = -1`` drops token i. Tokens with the same target are merged into that group. A token that is alone in
    its group is kept.

    Args:
        target: [n_in] int64 in [-1, n_out): the group of each token, or -1.
        rep: [n_out] int64 in [0, n_in): the input token whose position, mask and cache row each group takes. For a kept
            token it is the token itself. For a merge it may be any token, such as the nearest to the members' mean.
        stratum: [n_out] int64 or None: groups share the next stage's budget with the groups of the same stratum. None
            means the strata of ``rep``.
        mix: weights of the members. None means the mean of the members.

    Raises:
        ValueError: a target, a rep or an entry of the mix is out of range, or a group has no member or no entry.
    """

    target: Tensor
    rep: Tensor
    stratum: Tensor | None = None
    mix: Mix | None = None
    _only_drops: ClassVar[bool] = False  # unless the maker said so

    def __post_init__(self) -> None:
        n_in, n_out = self.n_in, self.n_out
        if self.stratum is not None and self.stratum.numel() != n_out:
            raise ValueError(f"stratum has {self.stratum.numel()} entries for {n_out} groups")
        rep, target = self.rep, self.target
        if n_out:
            check_on_device(
                (rep.min() >= 0) & (rep.max() < n_in),
                lambda: f"rep must lie in [0, {n_in}), got [{int(rep.min())}, {int(rep.max())}]",
            )
        if n_in:
            check_on_device(
                (target.min() >= -1) & (target.max() < n_out),
                lambda: f"target must lie in [-1, {n_out}), got up to {int(target.max())}",
            )
        check_on_device((self.sizes > 0).all(), lambda: "every group needs a member")
        if self.mix is not None:
            self._check_mix(self.mix)

    def _check_mix(self, mix: Mix) -> None:
        entries = {x.numel() for x in (mix.source, mix.group, mix.weight)}
        if len(entries) > 1 or mix.weight.dtype != torch.float32:
            raise ValueError(
                f"a mix needs a source, a group and an fp32 weight for each entry, got sizes {sorted(entries)}"
            )
        for name, x, end in (("source", mix.source, self.n_in), ("group", mix.group, self.n_out)):
            inside = ((x >= 0) & (x < end)).all()
            check_on_device(inside, lambda name=name, end=end: f"{name}s of a mix lie in [0, {end})")  # type: ignore[misc]
        entries_of = torch.zeros_like(self.rep).scatter_add_(0, mix.group, torch.ones_like(mix.group))
        check_on_device((entries_of > 0).all(), lambda: "every group needs an entry in the mix")

    @classmethod
    def trusted(cls, target: Tensor, rep: Tensor, stratum: Tensor | None = None, mix: Mix | None = None) -> TokenMap:
        """Return a map without checking it. The checks are seven small kernels on a GPU."""
        made = object.__new__(cls)
        for name, value in (("target", target), ("rep", rep), ("stratum", stratum), ("mix", mix)):
            object.__setattr__(made, name, value)
        return made

    def _in_order(self) -> TokenMap:
        """Mark the map as one that only drops tokens and keeps their order, to save a question to the device."""
        object.__setattr__(self, "_only_drops", True)
        return self

    @classmethod
    def identity(cls, n: int, device: torch.device | str | None = None) -> TokenMap:
        """Return the map that keeps all of ``n`` tokens."""
        index = torch.arange(n, device=device)
        return cls.trusted(index, index)._in_order()

    @classmethod
    def keep(cls, index: Tensor, n_in: int) -> TokenMap:
        """Return the map that keeps the tokens of ``index`` and drops all others. Kept tokens stay in their order.

        Args:
            index: [K] int64 in [0, n_in), in any order, without repeats.
            n_in: number of tokens.

        Raises:
            ValueError: an index is out of range or repeated.
        """
        rep = index.sort().values
        fits = (rep >= 0) & (rep < n_in)
        fits[1:] &= rep[1:] > rep[:-1]
        check_on_device(fits.all(), lambda: f"indices lie in [0, {n_in}) without repeats, got {index.tolist()}")
        target = torch.full((n_in,), -1, dtype=torch.long, device=index.device)
        target[rep] = torch.arange(rep.numel(), device=index.device)
        return cls.trusted(target, rep)._in_order()

    @classmethod
    def concat(cls, maps: list[TokenMap]) -> TokenMap:
        """Join the maps of consecutive blocks of tokens into one. Strata of different maps stay different."""
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
        mix = _joined(maps) if any(each.mix is not None for each in maps) else None
        whole = cls.trusted(torch.cat(targets), torch.cat(reps), torch.cat(strata) if has_strata else None, mix)
        return whole._in_order() if all(each._only_drops for each in maps) else whole

    @property
    def n_in(self) -> int:
        """Number of tokens before the map."""
        return self.target.numel()

    @property
    def n_out(self) -> int:
        """Number of tokens after the map: its groups."""
        return self.rep.numel()

    @property
    def sizes(self) -> Tensor:
        """Number of members of each group, [n_out] int64."""
        member = (self.target >= 0).long()
        return torch.zeros_like(self.rep).scatter_add_(0, self.target.clamp(min=0), member) if self.n_out else self.rep

    @property
    def is_identity(self) -> bool:
        """True if the map keeps every token. This waits for the device only if a merging map has n_in groups."""
        if self.n_in != self.n_out:
            return False
        if self._only_drops:
            return True
        if self.mix is not None:
            return False
        index = torch.arange(self.n_in, device=self.rep.device)
        return bool(torch.equal(self.target, index) and torch.equal(self.rep, index))

    @property
    def is_selection(self) -> bool:
        """True if the map only drops tokens: every group is one token with its own place."""
        places = torch.arange(self.n_out, device=self.rep.device)
        return self._only_drops or (
            self.mix is None
            and torch.equal(self.target[self.rep], places)
            and int((self.target >= 0).sum()) == self.n_out
        )

    @property
    def alone(self) -> Tensor:
        """[n_out] bool: the group is a single unchanged token."""
        if self.mix is None:
            return self.sizes == 1
        own = (self.target[self.mix.source] == self.mix.group) & (self.mix.weight == 1)
        entries, owned = torch.zeros_like(self.rep), torch.zeros_like(self.rep)
        entries.scatter_add_(0, self.mix.group, torch.ones_like(self.mix.group))
        owned.scatter_add_(0, self.mix.group, own.long())
        return (self.sizes == 1) & (entries == 1) & (owned == 1)

    @property
    def unmixed(self) -> TokenMap:
        """The same map without its mix."""
        return self if self.mix is None else TokenMap.trusted(self.target, self.rep, self.stratum)

    def to(self, device: torch.device) -> TokenMap:
        """Return the map with its tensors on ``device``."""
        if self.rep.device == device:
            return self
        stratum = None if self.stratum is None else moved(self.stratum, device)
        mix = self.mix and Mix(*(moved(x, device) for x in (self.mix.source, self.mix.group, self.mix.weight)))
        there = TokenMap.trusted(moved(self.target, device), moved(self.rep, device), stratum, mix)
        return there._in_order() if self._only_drops else there

    def then(self, other: TokenMap) -> TokenMap:
        """Return the composition: ``self`` first, then ``other`` on the tokens that are left.

        Raises:
            ValueError: ``other.n_in`` is not ``self.n_out``, or one of the maps has a mix. Compose maps with a mix by
                `unmixed`.
        """
        if self.mix is not None or other.mix is not None:
            raise ValueError("maps with a mix are applied one after the other; compose them `unmixed`")
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

        With a mix the result is the weighted sum. It is the same bit for bit in every run. A group of one token is
        unchanged, but a merging map rounds fp64 to fp32.
        """
        if self._only_drops:
            return x.index_select(0, self.rep)
        if self.mix is not None:
            return weighted_sum(x, self.mix.source, self.mix.group, self.mix.weight, self.n_out)
        return cluster_mean(x, self.target, self.n_out)

    def take(self, x: Tensor, dim: int) -> Tensor:
        """Take the entry of each group's ``rep`` along ``dim``: for positions, rotary angles, masks and cache rows."""
        return x.index_select(dim, self.rep.to(x.device))


def _joined(maps: Sequence[TokenMap]) -> Mix:
    """Return the mix of joined maps. A map without a mix has equal weights."""
    parts = []
    n_in = n_out = 0
    for each in maps:
        mix = each.mix
        if mix is None:
            source = (each.target >= 0).nonzero()[:, 0]
            group = each.target[source]
            mix = Mix(source, group, each.sizes[group].float().reciprocal())
        parts.append((mix.source + n_in, mix.group + n_out, mix.weight))
        n_in, n_out = n_in + each.n_in, n_out + each.n_out
    return Mix(*(torch.cat(each) for each in zip(*parts, strict=True)))
