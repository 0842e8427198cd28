"""DPC-KNN clustering as stage 1 offers it: groups in, labels out."""

from __future__ import annotations

from torch import Tensor

from prunevid_qwen.kernels import dpc_knn as kernel


def dpc_knn(points: Tensor, num_clusters: int, k: int) -> Tensor:
    """Cluster every group of points by density peaks (PruneVid, arXiv 2412.16117, section 3.1; prunevid.md section 5).

    Args:
        points: [B, N, C] of any float dtype and scale (distances are divided by sqrt(C)).
        num_clusters: clusters asked for, at least 1, clipped to N.
        k: neighbours in the density, the point itself included, at least 1, clipped to N.

    Returns:
        [B, N] int64: label j means the j-th best centre's cluster; no label below min(num_clusters, N) is empty.

    Raises:
        ValueError: B or N is 0, ``points`` is not [B, N, C] of floats, or ``num_clusters`` or ``k`` is below 1.

    Differs from the authors' code: ties go to the lower index (theirs: random noise); densities are compared as
    logarithms, which do not underflow.
    """
    return kernel.dpc_knn(points, num_clusters, k).labels
