"""How much attention each token of a vision tower gets, without ever holding an attention matrix.

`reference` is the law: the whole softmax of each segment in fp32. `received_attention` gives the same numbers from
chunks of rows, on CPUs and GPUs alike; segments of equal length, as windows and frames are, go together.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from prunevid_qwen.kernels.products import names_its_dtypes

CHUNK_BYTES = 32 * 2**20  # of one fp32 block of logits; two are alive at a time


def reference(q: Tensor, k: Tensor, lengths: Sequence[int], scale: float) -> Tensor:
    """Average the attention that tokens get inside their segment (VisionZip's signal, arXiv 2412.04467).

    Args:
        q: [H, P, d] queries.
        k: [H, P, d] keys.
        lengths: of the segments, in order, P in all: attention never leaves one.
        scale: factor on the logits.

    Returns:
        [P] fp32: the mean over heads, and over the queries of the token's segment, of the probability.
    """
    out, at = [], 0
    for n in lengths:
        own = slice(at, at + n)
        out.append((q[:, own].float() @ k[:, own].float().transpose(1, 2) * scale).softmax(-1).mean((0, 1)))
        at += n
    return torch.cat(out) if out else q.new_zeros(0, dtype=torch.float32)


@names_its_dtypes
def received_attention(q: Tensor, k: Tensor, lengths: Sequence[int], scale: float) -> Tensor:
    """Compute `reference` without its memory; same arguments, same result to rounding."""
    heads, _, _ = q.shape
    out = torch.empty(k.shape[1], dtype=torch.float32, device=q.device)
    starts = [0, *accumulate(lengths)][: len(lengths)]
    for n in dict.fromkeys(lengths):
        if not n:
            continue
        first = torch.tensor([start for start, own in zip(starts, lengths, strict=True) if own == n], device="cpu")
        first = first.to(q.device, non_blocking=q.is_cuda)
        rows = max(1, min(n, CHUNK_BYTES // (4 * heads * n)))
        together = max(1, CHUNK_BYTES // (4 * heads * n * rows))  # segments at a time
        for some in torch.split(first, together):
            at = some[:, None] + torch.arange(n, device=q.device)  # [segments, n]
            keys = k[:, at].float().transpose(2, 3)  # [H, segments, d, n]
            queries = q[:, at].float()
            sums = out.new_zeros(some.numel(), n)
            for start in range(0, n, rows):
                logits = (queries[:, :, start : start + rows] @ keys).mul_(scale)
                sums += logits.softmax(-1).sum((0, 2))
            out[at] = sums / (heads * n)
    return out
