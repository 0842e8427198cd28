"""How much each location of a segment resembles itself over time, and the means over space and time beside it.

`reference` is the law: all pairs of positions, one formula a line. `mean_similarity` gives the same numbers by the sum
identity, in one pass over the features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from prunevid_qwen.kernels.launch import wants_triton, where_of
from prunevid_qwen.kernels.products import names_its_dtypes, products_are_rounded

_CAST_BYTES = 2**24  # a copy in a wider type is made of so many positions at a time


def reference(segment: Tensor) -> Tensor:
    """Mean cosine similarity of each location with itself over time, from all pairs (prunevid.md section 2.2).

    Args:
        segment: [W, L, C] of any float dtype, W at least 2; computed in fp32. A zero vector is similar to nothing.

    Returns:
        [L] fp64.
    """
    length = segment.shape[0]
    x = torch.nn.functional.normalize(segment.float(), dim=2, eps=1e-12)
    pairs = [(x[a] * x[b]).sum(dim=1).double() for a in range(length) for b in range(length)]
    return (torch.stack(pairs).sum(dim=0) - length) / (length * (length - 1))  # a zero vector loses here too


@names_its_dtypes
def mean_similarity(segment: Tensor) -> Tensor:
    """Compute `reference` in one pass: same argument, same result to rounding (arXiv 2412.16117, section 3.1).

    The similarities of all ordered pairs sum to the squared norm of the sum of the normalised vectors; a vector with
    itself counts as exactly 1, as in the authors' code.

    Args:
        segment: [W, L, C] of any float dtype, W at least 2. A zero vector is similar to nothing.

    Returns:
        [L] fp64, from products in fp32.
    """
    if wants_triton(segment):
        from prunevid_qwen.kernels import temporal_similarity_triton

        with where_of(segment):
            return temporal_similarity_triton.mean_similarity(segment)
    length, locations, width = segment.shape
    # products that may be rounded are taken in fp64
    dtype = torch.float64 if products_are_rounded() or segment.dtype == torch.float64 else torch.float32
    total = torch.zeros(locations, width, dtype=dtype, device=segment.device)
    step = length if segment.dtype == dtype else max(1, _CAST_BYTES // (locations * width * dtype.itemsize))
    for part in torch.split(segment, step):
        x = part.to(dtype)
        inverse = torch.linalg.vector_norm(x, dim=2).clamp(min=1e-12).reciprocal()  # [W, L]
        weights = inverse.T.contiguous()[:, None]  # [L, 1, W]: of another layout torch copies them one by one
        total += torch.bmm(weights, x.transpose(0, 1))[:, 0]
    squared: Tensor = torch.linalg.vector_norm(total, dim=1).double().square()
    return (squared - length) / (length * (length - 1))


@names_its_dtypes
def frame_means(features: Tensor) -> Tensor:
    """Average each temporal position over space: [T, L, C] -> [T, C] fp32."""
    if features.dtype != torch.float32 or products_are_rounded():
        return features.mean(dim=1, dtype=torch.float32)
    t, locations, _ = features.shape
    ones = features.new_ones(1, 1, locations).expand(t, -1, -1)
    return torch.bmm(ones, features)[:, 0].div_(locations)


@names_its_dtypes
def time_means(segment: Tensor) -> Tensor:
    """Average each location over the positions of a segment: [W, L, C] -> [L, C] fp32."""
    if segment.dtype != torch.float32 or products_are_rounded():
        return segment.mean(dim=0, dtype=torch.float32)
    length, locations, _ = segment.shape
    ones = segment.new_ones(1, 1, length).expand(locations, -1, -1)
    return torch.bmm(ones, segment.transpose(0, 1))[:, 0].div_(length)
