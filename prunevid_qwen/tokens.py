"""The two value objects that flow from stage to stage: TokenMap and TokenLayout. Pure torch; imports only kernels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from prunevid_qwen.kernels.cluster_mean import cluster_mean


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

    def __post_init__(self) -> None:
        n_in, n_out = self.target.numel(), self.rep.numel()
        if self.stratum is not None and self.stratum.numel() != n_out:
            raise ValueError(f"stratum has {self.stratum.numel()} entries for {n_out} groups")
        if n_out and (int(self.rep.min()) < 0 or int(self.rep.max()) >= n_in):
            raise ValueError(f"rep must lie in [0, {n_in}), got [{int(self.rep.min())}, {int(self.rep.max())}]")
        if n_in and (int(self.target.min()) < -1 or int(self.target.max()) >= n_out):
            raise ValueError(f"target must lie in [-1, {n_out}), got up to {int(self.target.max())}")
        if int((self.sizes == 0).sum()):
            raise ValueError("every group needs a member")

    @classmethod
    def identity(cls, n: int, device: torch.device | str | None = None) -> TokenMap:
        """Every one of ``n`` tokens keeps its place."""
        index = torch.arange(n, device=device)
        return cls(index, index)

    @classmethod
    def keep(cls, index: Tensor, n_in: int) -> TokenMap:
        """Select tokens: ``index`` [K] int64 in any order without repeats, out of ``n_in``; the order is restored."""
        rep = index.sort().values
        target = torch.full((n_in,), -1, dtype=torch.long, device=index.device)
        target[rep] = torch.arange(rep.numel(), device=index.device)
        return cls(target, rep)

    @classmethod
    def concat(cls, maps: list[TokenMap]) -> TokenMap:
        """Put maps of consecutive blocks of tokens side by side; strata are kept apart and renumbered."""
        targets, reps, strata = [], [], []
        n_in = n_out = classes = 0
        for each in maps:
            targets.append(torch.where(each.target >= 0, each.target + n_out, each.target))
            reps.append(each.rep + n_in)
            stratum = torch.zeros_like(each.rep) if each.stratum is None else each.stratum
            strata.append(stratum + classes)
            n_in, n_out = n_in + each.n_in, n_out + each.n_out
            classes += int(stratum.max()) + 1 if stratum.numel() else 0
        has_strata = any(each.stratum is not None for each in maps)
        return cls(torch.cat(targets), torch.cat(reps), torch.cat(strata) if has_strata else None)

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
        return torch.bincount(self.target[self.target >= 0], minlength=self.n_out)

    @property
    def is_identity(self) -> bool:
        """True when every token keeps its place."""
        if self.n_in != self.n_out:
            return False
        index = torch.arange(self.n_in, device=self.rep.device)
        return bool(torch.equal(self.target, index) and torch.equal(self.rep, index))

    @property
    def is_selection(self) -> bool:
        """True when groups hold one token each, in their own place: the map only drops."""
        return bool(torch.equal(self.target[self.rep], torch.arange(self.n_out, device=self.rep.device))) and (
            int((self.target >= 0).sum()) == self.n_out
        )

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
        return TokenMap(padded[self.target], self.rep[other.rep], stratum)

    def mean(self, x: Tensor) -> Tensor:
        """Average the members of each group in fp32, in token order: [n_in, ...] -> [n_out, ...], same dtype.

        The result is the same bit for bit in every run. A group of one comes out as it went in.
        """
        if self.is_selection:
            return x.index_select(0, self.rep)
        return cluster_mean(x, self.target, self.n_out)

    def take(self, x: Tensor, dim: int) -> Tensor:
        """Pick each group's place along ``dim``: positions, rotary angles, masks, cache rows."""
        return x.index_select(dim, self.rep.to(x.device))


@dataclass(frozen=True)
class Block:
    """One video or image inside a sample's visual tokens.

    Args:
        kind: "video" or "image".
        grid: (T, H, W) merged tokens before any reduction.
        start: index of its first token among the sample's visual tokens.
        stop: one past its last.
    """

    kind: str
    grid: tuple[int, int, int]
    start: int
    stop: int


@dataclass(frozen=True)
class TokenLayout:
    """What each position of one sample's sequence is, without padding; it flows from stage to stage.

    Args:
        length: S, tokens in the sequence.
        visual: [N] int64 positions of the visual tokens, in sequence order.
        question: [Q] int64 positions of the question: all tokens after the last visual one.
        blocks: the videos and images, which partition the visual tokens in order.
        stratum: [N] int64: visual tokens compete for the budget inside their stratum; one stratum never spans blocks.
        words: (start, stop) in ``question`` of what the user said there, without the tokens of the chat template; None
            when that is not known.
    """

    length: int
    visual: Tensor
    question: Tensor
    blocks: tuple[Block, ...]
    stratum: Tensor
    words: tuple[int, int] | None = None

    def asking(self, tokens: str) -> Tensor:
        """Return the positions of the text that asks, at least one of ``question``, [Q'] int64.

        Args:
            tokens: "all" of ``question``, "question" for its ``words`` (all where these are not known), or "last".

        Raises:
            ValueError: ``tokens`` is something else.
        """
        if tokens == "all" or (tokens == "question" and self.words is None):
            return self.question
        if tokens == "question" and self.words is not None:
            return self.question[slice(*self.words)]
        if tokens == "last":
            return self.question[-1:]
        raise ValueError(f"the text that asks is 'all', 'question' or 'last', got {tokens!r}")

    def shows_like(self, other: TokenLayout) -> bool:
        """Say whether the same places hold the same videos and images: kinds and grids, not what is seen in them."""
        return self.blocks == other.blocks and torch.equal(self.visual, other.visual)

    @property
    def block_of(self) -> Tensor:
        """[N] int64: the index in ``blocks`` of each visual token's block."""
        sizes = torch.tensor([b.stop - b.start for b in self.blocks], device=self.visual.device)
        return torch.arange(len(self.blocks), device=self.visual.device).repeat_interleave(sizes)

    def to(self, device: torch.device) -> TokenLayout:
        """Return the same layout with its tensors on ``device``."""
        return TokenLayout(
            self.length,
            self.visual.to(device),
            self.question.to(device),
            self.blocks,
            self.stratum.to(device),
            self.words,
        )

    def apply(self, step: TokenMap) -> tuple[TokenLayout, TokenMap]:
        """Lift ``step``, a map over the visual tokens, to the sequence: text keeps its place.

        Each block's groups fill the first slots of that block in the map's order, so a method may reorder tokens inside
        a video and never across one.

        Returns:
            The layout of what is left, and the map over the whole sequence.

        Raises:
            ValueError: the map is for another number of tokens, or its groups mix or reorder blocks.
        """
        n_visual = self.visual.numel()
        if step.n_in != n_visual:
            raise ValueError(f"the sample has {n_visual} visual tokens, the map takes {step.n_in}")
        block_in = self.block_of
        block_out = block_in[step.rep]
        alive = step.target >= 0
        if bool((block_out[1:] < block_out[:-1]).any()) or bool(
            (block_out[step.target[alive]] != block_in[alive]).any()
        ):
            raise ValueError("a reducer may not move or merge tokens across videos or images")
        device = self.visual.device
        # the k-th group of a block stands in the k-th slot of that block, so order inside the block is the map's
        counts = torch.bincount(block_out, minlength=len(self.blocks))
        first_out = counts.cumsum(0) - counts
        first_in = torch.tensor([b.start for b in self.blocks], device=device)
        rank = torch.arange(step.n_out, device=device) - first_out[block_out]
        slot = self.visual[first_in[block_out] + rank]
        is_text = torch.ones(self.length, dtype=torch.bool, device=device)
        is_text[self.visual] = False
        stays = is_text.clone()
        stays[slot] = True
        new_place = torch.where(stays, stays.long().cumsum(0) - 1, -1)
        n_out = int(stays.sum())
        rep = torch.empty(n_out, dtype=torch.long, device=device)
        rep[new_place[is_text]] = is_text.nonzero()[:, 0]
        rep[new_place[slot]] = self.visual[step.rep]
        target = torch.where(is_text, new_place, -1)
        target[self.visual[alive]] = new_place[slot[step.target[alive]]]
        starts = first_out.tolist()
        blocks = tuple(
            Block(b.kind, b.grid, s, s + int(c)) for b, s, c in zip(self.blocks, starts, counts.tolist(), strict=True)
        )
        stratum = self.stratum[step.rep] if step.stratum is None else step.stratum
        layout = TokenLayout(n_out, new_place[slot], new_place[self.question], blocks, stratum, self.words)
        return layout, TokenMap(target, rep)
