"""How much attention the tokens of a frame get from the mean of the frame's queries: one row a frame and no matrix.

`reference` is the law, one formula a line. `pooled_attention` gives the same numbers for all segments of one length at
once.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from prunevid_qwen.kernels.products import names_its_dtypes


def reference(q: Tensor, k: Tensor, lengths: Sequence[int], unit: int, scale: float) -> Tensor:
    """Average over heads the attention that tokens get from their segment's mean query (FastVID, arXiv 2503.11187).

    Args:
        q: [H, P, d] queries of the patches.
        k: [H, P, d] keys.
        lengths: patches of each segment, in order, P in all; multiples of ``unit``.
        unit: patches of a token, which stand together. A token's key is their mean.
        scale: factor on the logits.

    Returns:
        [P / unit] fp32: of a segment they add up to 1.
    """
    out, at = [], 0
    for n in lengths:
        query = q[:, at : at + n].float().mean(dim=1, keepdim=True)  # [H, 1, d]
        keys = k[:, at : at + n].float().reshape(len(k), n // unit, unit, k.shape[2]).mean(dim=2)  # [H, n / unit, d]
        out.append((query @ keys.mT * scale).softmax(dim=-1).mean(dim=(0, 1)))
        at += n
    return torch.cat(out) if out else q.new_zeros(0, dtype=torch.float32)


@names_its_dtypes
def pooled_attention(q: Tensor, k: Tensor, lengths: Sequence[int], unit: int, scale: float) -> Tensor:
    """Compute `reference` without a loop over segments: same arguments, same result to rounding."""
    out = torch.empty(k.shape[1] // unit, dtype=torch.float32, device=q.device)
    starts = [0, *accumulate(lengths)][: len(lengths)]
    for n in dict.fromkeys(lengths):
        if not n:
            continue
        first = torch.tensor([start for start, own in zip(starts, lengths, strict=True) if own == n], device="cpu")
        first = first.to(q.device, non_blocking=q.is_cuda)
        at = first[:, None] + torch.arange(n, device=q.device)  # [segments, n]
        query = q[:, at].mean(dim=2, keepdim=True, dtype=torch.float32)  # [H, segments, 1, d]
        keys = (
            k[:, at].view(len(k), len(at), n // unit, unit, -1).mean(dim=3, dtype=torch.float32)
        )  # [H, segments, n / unit, d]
        logits = (query @ keys.mT)[:, :, 0] * scale
        out[at[:, ::unit] // unit] = logits.softmax(dim=-1).mean(dim=0)
    return out
