"""MemoryBound: whether what waits fits into memory, by the arithmetic of ``prunevid estimate``."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from prunevid_qwen.config import PruneVidConfig
from prunevid_qwen.errors import UnsupportedError
from prunevid_qwen.evaluation.estimate.estimating import PromptNumbers, bytes_needed
from prunevid_qwen.evaluation.estimate.memory import check_counted
from prunevid_qwen.tokens.device import input_device

MARGIN = 1.15
"""The estimate has been up to 11 % low, docs/estimate.md."""


@dataclass(frozen=True)
class PromptLength:
    """How large a prompt is before pruning.

    Args:
        positions: temporal positions of all videos, and one for each image.
        rows: of the visual tokens of the largest position.
        columns: the same.
        text: its other tokens.
        answer: tokens of the answer at most, of all its sequences together.
        sequences: that are drawn from it.
    """

    positions: int
    rows: int
    columns: int
    text: int
    answer: int
    sequences: int = 1

    @property
    def tokens(self) -> int:
        """Of the whole prompt, at most."""
        return self.positions * self.rows * self.columns + self.text


def free_bytes(model: Any) -> int:
    """Return the bytes that are free where a model is: of its GPU's memory, or of this machine's."""
    device = input_device(model)
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class MemoryBound:
    """What fits beside the weights and the videos that are held.

    Args:
        shape: the model's config.
        bytes_each: of a weight.
        free: bytes.
    """

    shape: Any
    bytes_each: int
    free: int

    @classmethod
    def of(cls, model: Any, free: int) -> MemoryBound:
        """Return the bound of a loaded transformers model."""
        return cls(model.config, model.dtype.itemsize, free)

    @functools.cached_property
    def counted(self) -> bool:
        """The memory of this family is counted; of others nothing is refused by it."""
        try:
            check_counted(self.shape)
        except UnsupportedError:
            return False
        return True

    def needed(self, config: PruneVidConfig, prompts: Sequence[PromptLength]) -> int:
        """Return the bytes that prompts need as one padded batch: as many of the largest, with a margin."""
        if not prompts or not self.counted:
            return 0
        largest = PromptLength(*(max(getattr(each, name) for each in prompts) for name in PromptLength.__annotations__))
        return int(MARGIN * self._bytes(config, largest, len(prompts)))

    def fits(self, config: PruneVidConfig, prompts: Sequence[PromptLength]) -> bool:
        """Tell whether they fit."""
        return self.needed(config, prompts) <= self.free

    def _bytes(self, config: PruneVidConfig, prompt: PromptLength, rows: int) -> int:
        batch = rows * prompt.sequences
        numbers = PromptNumbers(2 * max(1, prompt.positions), max(1, prompt.rows), max(1, prompt.columns),
                                max(4, prompt.text), max(1, prompt.answer), batch)  # fmt: skip
        return bytes_needed(self.shape, config, numbers, self.bytes_each)
