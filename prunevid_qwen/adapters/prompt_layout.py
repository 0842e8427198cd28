"""Where the images and videos of a prompt stand in it, put together from its token types and their grids."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from prunevid_qwen.adapters.picture_grids import CODES, PictureGrid
from prunevid_qwen.errors import ConfigError
from prunevid_qwen.tokens import Block, TokenLayout


def layout_of(types: Tensor, shown: Sequence[PictureGrid], question_end: int) -> TokenLayout | None:
    """Say what each token of one unpadded sample is; None when none is visual.

    Args:
        types: [S] int64: 0 text, 1 image, 2 video.
        shown: images and videos, those of each kind in the order in which they stand there. One may stand in several
            runs of the sequence, with text between them.
        question_end: tokens from here on are not part of the prompt.

    Returns:
        The layout, without the words that the user said.

    Raises:
        ConfigError: no token follows the last visual one.
    """
    here = types[:question_end]  # a candidate is text, whatever it is
    visual = here.nonzero()[:, 0]
    if not visual.numel():
        return None
    left = {code: iter([each for each in shown if each.kind == kind]) for kind, code in CODES.items()}
    blocks: list[Block] = []
    cells: list[Tensor] = []
    count, split = 0, False
    while count < visual.numel():
        picture = next(left[int(here[visual[count]])])
        stop = count + picture.tokens
        own = torch.arange(picture.tokens, device=types.device)
        if picture.cells is not None:
            own = torch.tensor(picture.cells, device=types.device)
        split |= int(visual[stop - 1] - visual[count]) != picture.tokens - 1
        blocks.append(Block(picture.kind, picture.grid, count, stop, int((own < 0).sum()), picture.part))
        cells.append(own)
        count = stop
    question = torch.arange(int(visual[-1]) + 1, min(question_end, types.numel()), device=types.device)
    if not question.numel():
        raise ConfigError(
            "no token follows the last image or video: put the question (or at least the generation prompt) after it"
        )
    sizes = torch.tensor([block.stop - block.start for block in blocks], device=types.device)
    stratum = torch.arange(len(blocks), device=types.device).repeat_interleave(sizes)
    placed = None if not any(block.unplaced for block in blocks) else torch.cat(cells)
    return TokenLayout(types.numel(), visual, question, tuple(blocks), stratum, None, placed, split)


def words_of_turn(ids: Sequence[int], ends: Sequence[int], leads: Sequence[int]) -> tuple[int, int] | None:
    """Where in the text after the last visual token the user's words stand: up to the end of that turn.

    Args:
        ids: of that text.
        ends: tokens that end a turn: those on which `generate` stops.
        leads: tokens that stand before the words, and are none.

    Returns:
        Their start and stop; None where no turn ends, or no word is said.
    """
    stop = next((i for i, token in enumerate(ids) if token in ends), 0)
    start = next((i for i, token in enumerate(ids[:stop]) if token not in leads), stop)
    return (start, stop) if start < stop else None
