"""Which spatial locations look alike during a segment: the paper calls them static, whatever moved in the scene."""

from __future__ import annotations

import torch
from torch import Tensor

from prunevid_qwen.kernels.temporal_similarity import mean_similarity


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
