"""Which visual tokens are copies where a tower encodes patches of frames and tokens are made of several patches."""

from __future__ import annotations

import torch
from torch import Tensor

from prunevid_qwen.tokens import TokenLayout
from prunevid_qwen.vision.plan import sources

THOUSANDTHS = 1000


def token_sources(layout: TokenLayout, ran: Tensor) -> Tensor:
    """Tell which token of the same video each visual token is a copy of.

    A token is a copy if none of its patches ran through the whole tower: then all have the states of the last frame in
    which one of them did, and so has the token.

    Args:
        layout: of a sample before any reduction.
        ran: [N, 2] fp32 on the CPU, means over the patches of each token: the share that ran through the whole tower,
            and the number of layers that ran on them.

    Returns:
        [N, 2] int64: the token, counted in its video as it stands in the prompt, itself where it is no copy; and
        thousandths of the layers that ran on it.
    """
    source = torch.arange(len(ran), device="cpu")
    for block in layout.blocks:
        own = slice(block.start, block.stop)
        source[own] -= block.start
        if block.kind != "video":
            continue
        cells, frames = layout.cell_of[own].cpu(), block.grid[0]
        for at in ((cells >= 0).nonzero()[:, 0], (cells < 0).nonzero()[:, 0]):
            if not len(at) or len(at) % frames:  # a newline ends the video
                continue
            places = at[cells[at].argsort(stable=True)].view(frames, -1)  # of CLS tokens there is one in each frame
            last = sources(ran[own][places, 0] > 0).clamp(min=0)
            source[own][places] = places.gather(0, last)
    return torch.stack([source, (ran[:, 1] * THOUSANDTHS).round().long()], dim=1)
