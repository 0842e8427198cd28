"""Which spatial locations stand still during a segment, and the means over time that this and clustering need."""

from __future__ import annotations

import torch
from torch import Tensor

from prunevid_qwen.kernels.dpc_knn import products_are_rounded

_PAIRWISE = 12  # segments up to this long: all products over time in one pass; longer ones: norms, then their sum


def frame_means(features: Tensor) -> Tensor:
    """Average each temporal position over space: [T, L, C] -> [T, C] fp32."""
    if features.dtype != torch.float32 or products_are_rounded():
        return features.mean(dim=1, dtype=torch.float32)
    t, locations, _ = features.shape
    ones = features.new_ones(1, 1, locations).expand(t, -1, -1)
    return torch.bmm(ones, features)[:, 0] / locations


def time_means(segment: Tensor) -> Tensor:
    """Average each location over the positions of a segment: [W, L, C] -> [L, C] fp32."""
    if segment.dtype != torch.float32 or products_are_rounded():
        return segment.mean(dim=0, dtype=torch.float32)
    length, locations, _ = segment.shape
    ones = segment.new_ones(1, 1, length).expand(locations, -1, -1)
    return torch.bmm(ones, segment.transpose(0, 1))[:, 0] / length


def static_locations(features: Tensor, windows: list[int], tau: float) -> Tensor:
    """Find the locations whose mean cosine similarity over a segment exceeds ``tau`` (prunevid.md section 2.2).

    Args:
        features: [T, L, C] of any float dtype.
        windows: the segments' lengths, which sum to T.
        tau: threshold; from 1 on nothing is static, however the similarity is rounded.

    Returns:
        [S, L] bool. A segment of one position has no static location.
    """
    rows = []
    for segment in torch.split(features, windows):
        if segment.shape[0] == 1:
            rows.append(torch.zeros(features.shape[1], dtype=torch.bool, device=features.device))
        else:
            rows.append(mean_similarity(segment).clamp(max=1.0) > tau)
    return torch.stack(rows)


def mean_similarity(segment: Tensor) -> Tensor:
    """Mean cosine similarity of each location with itself over time (arXiv 2412.16117, section 3.1).

    The similarities of all ordered pairs sum to the squared norm of the sum of the normalised vectors; a vector with
    itself counts as exactly 1, as in the authors' code.

    Args:
        segment: [W, L, C] of any float dtype, W at least 2. A zero vector is similar to nothing.

    Returns:
        [L] fp64, from products in fp32.
    """
    segment = segment.double() if products_are_rounded() else segment.float()
    x = segment.transpose(0, 1)  # [L, W, C]
    length = x.shape[1]
    if length <= _PAIRWISE:
        product = torch.bmm(x, x.mT)
        inverse = _inverse_norm(product.diagonal(dim1=1, dim2=2).sqrt())  # [L, W]
        total = (product.double() * inverse[:, :, None] * inverse[:, None, :]).sum(dim=(1, 2))
    else:
        inverse = _inverse_norm(torch.linalg.vector_norm(segment, dim=2).T)
        total = torch.bmm(inverse[:, None, :].to(x.dtype), x)[:, 0].double().square().sum(dim=1)
    return (total - length) / (length * (length - 1))


def _inverse_norm(norm: Tensor) -> Tensor:
    return norm.double().clamp(min=1e-12).reciprocal()
