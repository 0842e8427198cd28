"""The token sequence that Qwen3-VL's processor makes of a video: a time before each frame, brackets around it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from research.bundled_model.fast_forward import Positions
from research.bundled_qwen3vl.tokenizer import VOCABULARY

PREFIX = [VOCABULARY[word] for word in ("<|im_start|>", "user")]
_START, _END = VOCABULARY["<|vision_start|>"], VOCABULARY["<|vision_end|>"]


@dataclass(frozen=True)
class Layout:
    """What stands before the questions.

    Args:
        ids: [P] int64 token ids; a visual token has its placeholder's.
        visual: [V] int64, the places of the visual tokens.
        index: [B, P'] int64, the places that are left in each sample, ascending.
        positions: of what is left, and of the questions.
    """

    ids: Tensor
    visual: Tensor
    index: Tensor
    positions: Positions

    def placed(self, full: Tensor, features: Tensor) -> Tensor:
        """Put visual tokens [B, V, D] at their places in [P, D], and leave those that are left: [B, P', D]."""
        rows = full.expand(len(features), -1, -1).index_copy(1, self.visual, features)
        return rows.gather(1, self.index[..., None].expand(-1, -1, rows.shape[-1]))


def time_ids(seconds: float) -> list[int]:
    """Write a time as the processor does, to a tenth of a second."""
    return [VOCABULARY[word] for word in ("<", *f"{seconds:.1f}", "seconds", ">")]


def layout(
    grid: tuple[int, int, int], times: list[float] | None, length: int, keep: Tensor | None, videos: int, outer: bool
) -> Layout:
    """Lay out a video or a picture.

    Args:
        grid: (t, h, w) merged tokens.
        times: seconds of each temporal position; None for a picture.
        length: tokens of a question's block.
        keep: [B, V'] int64, the visual tokens that are left, or None for all of them.
        videos: samples.
        outer: brackets stand around all frames, too: transformers writes them since 5.10.
    """
    _, rows, columns = grid
    ids: list[int] = []
    places: list[Tensor] = []
    at = 0

    def write(text: list[int]) -> None:
        nonlocal at
        ids.extend(text)
        places.append((at + torch.arange(len(text))).expand(3, -1))
        at += len(text)

    write(PREFIX + [_START] * (outer and times is not None))
    visual: list[int] = []
    kind = VOCABULARY["<|image_pad|>" if times is None else "<|video_pad|>"]
    down, across = (
        part.reshape(-1) for part in torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    )
    for time in [None] if times is None else times:
        write([] if time is None else time_ids(time))
        write([_START])
        visual.extend(range(len(ids), len(ids) + rows * columns))
        ids.extend([kind] * (rows * columns))
        places.append(at + torch.stack([torch.zeros_like(down), down, across]))
        at += max(rows, columns)
        write([_END])
    write([_END] * (outer and times is not None))
    every, shown = torch.cat(places, 1), torch.tensor(visual)  # [3, P], [V]
    left = torch.ones(videos, len(ids), dtype=torch.bool)
    if keep is not None:
        left[:, shown] = False
        left.scatter_(1, shown[keep], True)
    index = left.nonzero()[:, 1].view(videos, -1)
    return Layout(
        torch.tensor(ids), shown, index, Positions(every[:, index], (at + torch.arange(length)).expand(3, -1))
    )
