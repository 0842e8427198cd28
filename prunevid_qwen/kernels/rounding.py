"""How far two routes to the same logits may be apart: the unit of the tests' table of tolerances, and of near ties."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

LOGITS: Mapping[torch.dtype, int] = {torch.float32: 512, torch.float16: 8, torch.bfloat16: 8}
"""Units in the last place between logits of a whole model by two routes: with and without a cache, in a batch and
alone. Seen: 54 in fp32."""


def spacing(largest: float, dtype: torch.dtype) -> float:
    """Return the unit in the last place of a number of a type; 0 of 0."""
    if not largest:
        return 0.0
    return max(torch.finfo(dtype).eps * 2.0 ** math.floor(math.log2(largest)), torch.finfo(dtype).tiny)
