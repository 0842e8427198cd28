"""The raters of SparseVLM and SparseVLM+: text that resembles the picture."""

from __future__ import annotations

import torch
from torch import Tensor

from prunevid_qwen.kernels.cosines import exact_dtype
from prunevid_qwen.needs import Evidence


def raters(seen: Evidence) -> Tensor:
    """Choose the raters: text tokens that the visual ones resemble more than the average text token.

    All rate where none stands out, as with one text token.

    Args:
        seen: with the input embeddings of visual tokens [N, D] and text [Q, D].

    Returns:
        [Q] bool.
    """
    if not seen.question.shape[0]:  # nothing was asked for, since all are kept
        return seen.question.new_zeros(0, dtype=torch.bool)
    dtype = exact_dtype()
    mean = (seen.hidden.to(dtype) @ seen.question.to(dtype).T).float().softmax(-1).mean(0)
    chosen = mean > mean.mean()
    return chosen | ~chosen.any()
