"""Encode a video once, ask about it often: the vision tower answers from memory while the same video is asked about.

The vision tower is most of the work on a short prompt and does not know the question. Inside `shared_vision` the stock
`generate` and the package's `pruned` run as always.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from prunevid_qwen.adapters import adapter_for
from prunevid_qwen.adapters.vision import EncodedVideos, vision_from_memory
from prunevid_qwen.forward.vision_evidence import watched_vision
from prunevid_qwen.inputs.qwen.media import Medium
from prunevid_qwen.reducer import VisionQuery


@dataclass(frozen=True, eq=False)
class EncodedVideo:
    """What the vision tower made of one video.

    Args:
        held: what answers for it.
        features: [N, D] the visual tokens that the decoder gets.
        medium: the video without its pixels, to be put into prompts.
    """

    held: EncodedVideos
    features: Tensor
    medium: Medium


@torch.no_grad()
def encode_video(model: nn.Module, medium: Medium, taps: VisionQuery | None = None) -> EncodedVideo:
    """Run the vision tower of a stock model on one video, looking into some of its blocks if a selector will ask."""
    adapter = adapter_for(model)
    held = EncodedVideos(adapter.parts.vision)
    with nullcontext() if taps is None else watched_vision(adapter, taps):
        features = held.encode(medium.pixels, medium.grid)
    return EncodedVideo(held, features.tokens, replace(medium, pixels=held.hold(features)))


@contextmanager
def shared_vision(model: nn.Module, video: EncodedVideo) -> Iterator[None]:
    """Let every prompt inside the block that holds ``video.medium``, in batches of any size, go without encoding it.

    Args:
        model: the stock model that encoded it.
        video: from `encode_video`.

    Raises:
        ValueError: the medium stands in a prompt with a grid of another size.
    """
    with vision_from_memory(adapter_for(model).parts.vision, video.held):
        yield
