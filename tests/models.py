"""Tiny random models of the real architecture and hand-made inputs: the package's own, and the cases tests use."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from prunevid_qwen.adapters import tiny
from prunevid_qwen.adapters.seams import cache_parameter
from prunevid_qwen.adapters.tiny import END, EOS, IMAGE, MERGE, PAD, PATCH, START, VIDEO, VOCAB
from prunevid_qwen.adapters.tiny import tiny_inputs as make_inputs

__all__ = ["CACHE", "CASES", "END", "EOS", "IMAGE", "IMAGES", "MERGE", "MIXED", "ONE_SHRINKS", "ONE_VIDEO", "PAD",
           "PATCH", "RAGGED", "START", "VIDEO", "VOCAB", "make_inputs", "tiny_model"]  # fmt: skip

# what this release calls the cache among the arguments of a model and of its generate()
CACHE = cache_parameter(Qwen2_5_VLForConditionalGeneration.forward)

# one sample is a list of ("text", n), ("video", T, H, W) and ("image", H, W), in merged tokens
ONE_VIDEO = [[("text", 4), ("video", 4, 4, 5), ("text", 6)]]
RAGGED = [
    [("text", 4), ("video", 4, 4, 5), ("text", 6)],
    [("text", 3), ("video", 3, 3, 6), ("text", 2), ("video", 2, 4, 4), ("text", 7)],
]
ONE_SHRINKS = [  # the second row is longer and has a single visual token: it stays whole while the first shrinks
    [("text", 3), ("video", 3, 3, 6), ("text", 5)],
    [("text", 70), ("image", 1, 1), ("text", 6)],
]
MIXED = [
    [("text", 2), ("image", 3, 3), ("text", 1), ("video", 2, 4, 4), ("text", 5)],
    [("text", 2), ("video", 3, 2, 9), ("text", 5)],
    [("text", 9)],
]
IMAGES = [[("text", 2), ("image", 3, 4), ("text", 1), ("image", 2, 4), ("text", 5)]]
CASES = {"one_video": ONE_VIDEO, "ragged": RAGGED, "one_shrinks": ONE_SHRINKS, "mixed": MIXED, "images": IMAGES}


@cache
def tiny_model(
    attention: str = "sdpa", family: str = "qwen2_5_vl", layers: int = 6, dtype: torch.dtype = torch.float32
) -> Any:
    """The model of these options, the same object each time. Shared: leave as is."""
    torch.manual_seed(0)
    return tiny.tiny_model(family, layers, attention, dtype)
