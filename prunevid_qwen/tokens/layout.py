"""TokenLayout: what each position of a sample's sequence is, and its blocks: the videos and images."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from prunevid_qwen.tokens.device import check_on_device, moved, tensor_on
from prunevid_qwen.tokens.token_map import TokenMap


@dataclass(frozen=True)
class Block:
    """One video or image inside a sample's visual tokens.

    Args:
        kind: "video" or "image".
        grid: (T, H, W) merged tokens before any reduction.
        start: index of its first token among the sample's visual tokens, as they come to the step: a row of
            `Evidence.hidden`, not a position in the sequence.
        stop: one past its last, counted alike.
        unplaced: how many tokens it has beside those of its grid, before any reduction: newlines, CLS.
    """

    kind: str
    grid: tuple[int, int, int]
    start: int
    stop: int
    unplaced: int = 0


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
        cells: [N] int64 which cell of its block's grid (t * H * W + row * W + column) each visual token stands for, -1
            for one without a place there (a newline, CLS); None while all blocks are whole and all tokens have a place.
        split: some block stands in several runs of the sequence, with text between them.
    """

    length: int
    visual: Tensor
    question: Tensor
    blocks: tuple[Block, ...]
    stratum: Tensor
    words: tuple[int, int] | None = None
    cells: Tensor | None = None
    split: bool = False

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
        if self.blocks != other.blocks or not torch.equal(self.visual, other.visual):
            return False
        return self.cells is None or other.cells is None or torch.equal(self.cells, other.cells)

    @property
    def block_of(self) -> Tensor:
        """[N] int64: the index in ``blocks`` of each visual token's block."""
        sizes = [b.stop - b.start for b in self.blocks]
        if len(sizes) == 1:
            return torch.zeros(sizes[0], dtype=torch.long, device=self.visual.device)
        blocks = torch.arange(len(sizes), device=self.visual.device)
        return blocks.repeat_interleave(tensor_on(sizes, self.visual.device), output_size=sum(sizes))

    @property
    def run_of(self) -> Tensor:
        """[N] int64: the number of the run of consecutive places, of one block, in which each visual token stands."""
        new = torch.ones_like(self.visual)
        new[1:] = (self.visual[1:] != self.visual[:-1] + 1) | (self.block_of[1:] != self.block_of[:-1])
        return new.cumsum(0) - 1

    @property
    def cell_of(self) -> Tensor:
        """[N] int64: ``cells``, counted where all blocks are whole. A merged token stands where its group does."""
        if self.cells is not None:
            return self.cells
        device = self.visual.device
        return torch.cat([torch.arange(b.stop - b.start, device=device) for b in self.blocks])

    def to(self, device: torch.device) -> TokenLayout:
        """Return the same layout with its tensors on ``device``."""
        if self.visual.device == device:
            return self
        visual, question, stratum = (moved(x, device) for x in (self.visual, self.question, self.stratum))
        cells = None if self.cells is None else moved(self.cells, device)
        return replace(self, visual=visual, question=question, stratum=stratum, cells=cells)

    def apply(self, step: TokenMap) -> tuple[TokenLayout, TokenMap]:
        """Lift ``step``, a map over the visual tokens, to the sequence: text keeps its place.

        Each block's groups fill the first slots of that block in the map's order, so a method may reorder tokens inside
        a video and never across one. Of a block in several runs each run's groups fill the first slots of that run: a
        group stands in the run of its ``rep``, and no token crosses the text between runs.

        Returns:
            The layout of what is left, and the map over the whole sequence, without the mix of ``step``: `made` has it.

        Raises:
            ValueError: the map is for another number of tokens, its groups mix or reorder blocks, or reorder runs.
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
            cells=cells,
        )  # fmt: skip
        whole = TokenMap.trusted(target, rep)
        return layout, whole._in_order() if step._only_drops else whole

    def _slots_of_runs(self, rep: Tensor) -> Tensor:
        run_in = self.run_of
        run_out = run_in[rep]
        check_on_device(
            (run_out[1:] >= run_out[:-1]).all(),
            lambda: (
                "a video stands in several runs with text between them, and a reducer may not move tokens across "
                "it: order its groups by `layout.run_of[rep]`"
            ),
        )
        rank = torch.arange(rep.numel(), device=rep.device) - torch.searchsorted(run_out, run_out)
        return self.visual[torch.searchsorted(run_in, run_out) + rank]

    def made(self, x: Tensor, step: TokenMap, left: TokenLayout, whole: TokenMap) -> Tensor:
        """Make the states of what is left after `apply`: text as it came, each group of ``step`` by its mean or mix.

        Args:
            x: [S, ...] states of the whole sequence.
            step: as `apply` was given it.
            left: as it returned it.
            whole: as it returned it.
        """
        if step.mix is None:
            return whole.mean(x)
        return whole.take(x, 0).index_copy(0, left.visual, step.mean(x.index_select(0, self.visual)))
