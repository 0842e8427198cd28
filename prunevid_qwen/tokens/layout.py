"""TokenLayout: the kind of each position of a sample's sequence, and its blocks: the videos and images."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from prunevid_qwen.tokens.device import check_on_device, moved, tensor_on
from prunevid_qwen.tokens.token_map import Mix, TokenMap


@dataclass(frozen=True)
class Block:
    """One video or image inside a sample's visual tokens.

    Args:
        kind: "video" or "image".
        grid: (T, H, W) visual tokens in time, height and width before any reduction.
        start: index of its first token among the sample's visual tokens before the step: a row of `Evidence.hidden`,
            not a position in the sequence.
        stop: the index after its last token.
        unplaced: number of its tokens outside the grid, before any reduction: newlines, CLS.
        part: it goes on with the image or video of the block before it, as tiles do with an image shown whole.
    """

    kind: str
    grid: tuple[int, int, int]
    start: int
    stop: int
    unplaced: int = 0
    part: bool = False


@dataclass(frozen=True)
class TokenLayout:
    """The kind of each position of one sample's sequence, without padding. Each step makes a new layout.

    Args:
        length: S, number of tokens in the sequence.
        visual: [N] int64 positions of the visual tokens, in sequence order.
        question: [Q] int64 positions of the question: all tokens after the last visual one.
        blocks: the videos and images, which partition the visual tokens in order.
        stratum: [N] int64: visual tokens of the same stratum compete for the same budget. A stratum lies in one block.
        words: (start, stop) of the user's words in ``question``, without the tokens of the chat template; None if
            unknown.
        cells: [N] int64: the cell of each visual token in its block's grid, t * H * W + row * W + column; -1 for a
            token outside the grid (a newline, CLS). None: all blocks are whole and all tokens are in the grid.
        split: True if text lies between the tokens of some block.
        frames: [S] int64: the frame to which a position belongs, numbered over all videos: its visual tokens, its
            timestamp, its brackets; -1 for none. The text of a frame goes with the last of its visual tokens. None:
            all text stays.
    """

    length: int
    visual: Tensor
    question: Tensor
    blocks: tuple[Block, ...]
    stratum: Tensor
    words: tuple[int, int] | None = None
    cells: Tensor | None = None
    split: bool = False
    frames: Tensor | None = None

    def asking(self, tokens: str) -> Tensor:
        """Return the positions of the question's tokens whose attention is read, [Q'] int64 with Q' at least 1.

        Args:
            tokens: "all" of ``question``; "question" for the user's ``words`` (all if unknown); or "last".

        Raises:
            ValueError: ``tokens`` is none of these.
        """
        if tokens == "all" or (tokens == "question" and self.words is None):
            return self.question
        if tokens == "question" and self.words is not None:
            return self.question[slice(*self.words)]
        if tokens == "last":
            return self.question[-1:]
        raise ValueError(f"question tokens are 'all', 'question' or 'last', got {tokens!r}")

    def shows_like(self, other: TokenLayout) -> bool:
        """Return True if both layouts have videos and images of the same kinds and grids at the same positions."""
        if self.blocks != other.blocks or not torch.equal(self.visual, other.visual):
            return False
        return self.cells is None or other.cells is None or torch.equal(self.cells, other.cells)

    @property
    def block_of(self) -> Tensor:
        """[N] int64: index of each visual token's block in ``blocks``."""
        sizes = [b.stop - b.start for b in self.blocks]
        if len(sizes) == 1:
            return torch.zeros(sizes[0], dtype=torch.long, device=self.visual.device)
        blocks = torch.arange(len(sizes), device=self.visual.device)
        return blocks.repeat_interleave(tensor_on(sizes, self.visual.device), output_size=sum(sizes))

    @property
    def run_of(self) -> Tensor:
        """[N] int64: number of each visual token's run: consecutive positions of one block."""
        new = torch.ones_like(self.visual)
        new[1:] = (self.visual[1:] != self.visual[:-1] + 1) | (self.block_of[1:] != self.block_of[:-1])
        return new.cumsum(0) - 1

    @property
    def cell_of(self) -> Tensor:
        """[N] int64: ``cells``, also for whole blocks. A merged token has the cell of its group's ``rep``."""
        if self.cells is not None:
            return self.cells
        device = self.visual.device
        return torch.cat([torch.arange(b.stop - b.start, device=device) for b in self.blocks])

    def to(self, device: torch.device) -> TokenLayout:
        """Return the layout with its tensors on ``device``."""
        if self.visual.device == device:
            return self
        visual, question, stratum = (moved(x, device) for x in (self.visual, self.question, self.stratum))
        cells, frames = (None if x is None else moved(x, device) for x in (self.cells, self.frames))
        return replace(self, visual=visual, question=question, stratum=stratum, cells=cells, frames=frames)

    def apply(self, step: TokenMap) -> tuple[TokenLayout, TokenMap]:
        """Apply a map over the visual tokens to the whole sequence.

        Text stays in its order, but for that of ``frames`` that lose all their tokens. The groups of a block fill its
        first positions in the map's order, so a method may reorder tokens inside a block only. If text lies between the
        tokens of a block, a group stays in the run of its ``rep``.

        Args:
            step: the map over the visual tokens.

        Returns:
            The layout of the tokens that are left, and the map over the whole sequence. This map has no mix; `made`
            applies the mix of ``step``.

        Raises:
            ValueError: the map has another number of tokens, or moves or merges tokens across blocks or runs.
        """
        n_visual = self.visual.numel()
        if step.n_in != n_visual:
            raise ValueError(f"the sample has {n_visual} visual tokens, the map takes {step.n_in}")
        device, n_out = self.visual.device, step.n_out
        block_in = self.block_of
        block_out = block_in[step.rep]
        alive, group = step.target >= 0, step.target.clamp(min=0)
        if len(self.blocks) > 1 and n_out:
            inside = (block_out[1:] >= block_out[:-1]).all() & ((block_out[group] == block_in) | ~alive).all()
            check_on_device(inside, lambda: "a reducer may not move or merge tokens across videos or images")
        none = torch.zeros(len(self.blocks), dtype=torch.long, device=device)
        counts = none.scatter_add(0, block_out, torch.ones_like(block_out))
        # the k-th group of a block (or run) stands in its k-th slot, so order inside it is the map's
        if self.split:
            slot = self._slots_of_runs(step.rep)
        else:
            first_out = counts.cumsum(0) - counts
            first_in = tensor_on([b.start for b in self.blocks], device)
            rank = torch.arange(n_out, device=device) - first_out[block_out]
            slot = self.visual[first_in[block_out] + rank]
        is_text = torch.ones(self.length, dtype=torch.bool, device=device)
        is_text[self.visual] = False
        text = (~is_text).byte().argsort(stable=True)[: self.length - n_visual]
        if self.frames is not None:  # here the host has to ask the device how many are left
            shown = torch.zeros(self.length + 1, dtype=torch.bool, device=device)  # its last entry is that of -1
            shown[self.frames[self.visual[step.rep]]] = shown[-1] = True
            is_text &= shown[self.frames]
            text = is_text.nonzero()[:, 0]
        stays = is_text.clone()
        stays[slot] = True
        place = stays.long().cumsum(0) - 1
        rep = torch.empty(text.numel() + n_out, dtype=torch.long, device=device)
        rep[place[text]] = text
        rep[place[slot]] = self.visual[step.rep]
        target = torch.where(is_text, place, -1)
        if n_out:
            target[self.visual] = torch.where(alive, place[slot[group]], -1)
        # with several videos the host has to ask how many are left of each: lengths, but for the last one's
        sizes = [n_out] if len(self.blocks) == 1 else counts.tolist()
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        blocks = tuple(replace(b, start=s, stop=s + n) for b, s, n in zip(self.blocks, starts, sizes, strict=True))
        stratum = self.stratum[step.rep] if step.stratum is None else step.stratum
        cells = self.cell_of[step.rep]
        layout = replace(
            self, length=rep.numel(), visual=place[slot], question=place[self.question], blocks=blocks, stratum=stratum,
            cells=cells, frames=None if self.frames is None else self.frames[rep],
        )  # fmt: skip
        whole = TokenMap.trusted(target, rep)
        return layout, whole._in_order() if step._only_drops else whole

    def by_run(self, step: TokenMap) -> TokenMap:
        """Order the groups of a map by the runs of their ``rep``, where blocks stand in several; else as they came."""
        if not self.split or step._only_drops:
            return step
        order = self.run_of[step.rep].argsort(stable=True)
        rank = order.argsort()
        target = torch.where(step.target >= 0, rank[step.target.clamp(min=0)], -1)
        stratum, mix = step.stratum, step.mix
        return TokenMap.trusted(
            target, step.rep[order], None if stratum is None else stratum[order],
            mix and Mix(mix.source, rank[mix.group], mix.weight),
        )  # fmt: skip

    def _slots_of_runs(self, rep: Tensor) -> Tensor:
        run_in = self.run_of
        run_out = run_in[rep]
        check_on_device(
            (run_out[1:] >= run_out[:-1]).all(),
            lambda: (
                "there is text between the tokens of a video, and a reducer may not move tokens across it: order its "
                "groups by `layout.run_of[rep]`"
            ),
        )
        rank = torch.arange(rep.numel(), device=rep.device) - torch.searchsorted(run_out, run_out)
        return self.visual[torch.searchsorted(run_in, run_out) + rank]

    def made(self, x: Tensor, step: TokenMap, left: TokenLayout, whole: TokenMap) -> Tensor:
        """Return the states of the tokens left by `apply`: text unchanged, each group of ``step`` by its mean or mix.

        Args:
            x: [S, ...] states of the whole sequence.
            step: the argument of `apply`.
            left: the layout that `apply` returned.
            whole: the map that `apply` returned.
        """
        if step.mix is None:
            return whole.mean(x)
        return whole.take(x, 0).index_copy(0, left.visual, step.mean(x.index_select(0, self.visual)))
