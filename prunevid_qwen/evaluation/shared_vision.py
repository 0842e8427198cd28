"""Encode a video once, ask about it often: a stand-in for the vision tower while the same video is asked about.

The vision tower is most of the work on a short prompt and does not know the question. Inside `shared_vision` the stock
`generate` and the package's `pruned` run as always; only the tower's forward answers from memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.media import Medium


@dataclass(frozen=True, eq=False)
class EncodedVideo:
    """What the vision tower made of one video.

    Args:
        output: what its forward returned, as this release of transformers returns it.
        grid: [1, 3] int64 (t, h, w) in patches.
        features: [N, D] the visual tokens that the decoder gets.
        medium: the video without its pixels, to be put into prompts.
    """

    output: Any
    grid: Tensor
    features: Tensor
    medium: Medium


@torch.no_grad()
def encode_video(model: nn.Module, medium: Medium) -> EncodedVideo:
    """Run the vision tower of a stock model on one video."""
    tower: Any = adapter_for(model).parts.vision
    grid = medium.grid.to(tower.device)
    output = tower(medium.pixels.to(tower.device, tower.dtype), grid_thw=grid)
    # the tower of releases before 5.7 returned the tokens themselves
    features = output if isinstance(output, Tensor) else output.pooler_output
    light = Medium(medium.kind, medium.pixels[:0], medium.grid, medium.seconds_per_grid, medium.facts)
    return EncodedVideo(output, grid, features, light)


@contextmanager
def shared_vision(model: nn.Module, video: EncodedVideo) -> Iterator[None]:
    """Let every prompt inside the block, in batches of any size, show ``video`` without encoding it again.

    Args:
        model: the stock model that encoded it.
        video: from `encode_video`; prompts hold its ``medium``, which carries no pixels.

    Raises:
        ValueError: a prompt inside the block shows a video of another grid, or an image.
    """
    tower: Any = adapter_for(model).parts.vision
    own = vars(tower).get("forward")

    def forward(pixels: Tensor, grid_thw: Tensor, **_ignored: Any) -> Any:
        if pixels.shape[0] or not bool((grid_thw == video.grid).all()):
            raise ValueError(
                f"inside shared_vision every prompt shows the one encoded video of grid {video.grid.tolist()[0]}, "
                f"got grids {grid_thw.tolist()} with {pixels.shape[0]} patches: use EncodedVideo.medium"
            )
        return _repeated(video.output, len(grid_thw))

    tower.forward = forward
    try:
        yield
    finally:
        del tower.forward
        if own is not None:  # somebody else's replacement on this very tower
            tower.forward = own


def _repeated(output: Any, times: int) -> Any:
    """The output for the same video ``times`` times in a row."""
    if isinstance(output, Tensor):
        return output.repeat(times, *[1] * (output.ndim - 1))
    return type(output)(**{name: _repeated(value, times) for name, value in output.items()})
