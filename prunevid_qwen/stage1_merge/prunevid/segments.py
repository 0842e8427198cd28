"""Temporal segments: clusters of temporal positions, refined until each is a contiguous stretch of the video."""

from __future__ import annotations

from itertools import groupby

import torch
from torch import Tensor

from prunevid_qwen.config.amounts import count_of
from prunevid_qwen.stage1_merge.prunevid.cluster import dpc_knn


def temporal_segments(frames: Tensor, ratio: float, k: int) -> list[int]:
    """Cut a video into segments of similar temporal positions (arXiv 2412.16117, section 3.1; prunevid.md section 2.1).

    Args:
        frames: [T, C] mean token of each temporal position, T at least 1.
        ratio: clusters asked for per temporal position, in (0, 1]; at least one is made.
        k: neighbours in the DPC-KNN density, at least 1.

    Returns:
        The segments' lengths, which sum to T.
    """
    labels = dpc_knn(frames[None], count_of(frames.shape[0], ratio), k)[0]
    return [length for _, length in _runs(refine_segments(labels).tolist())]


def refine_segments(labels: Tensor) -> Tensor:
    """Make labels of temporal positions contiguous: only each label's longest runs stay, the rest joins a neighbour.

    A run of one position never stays. An unassigned stretch, from left to right, takes the label of the longer of the
    two runs beside it as they then stand; the left one's on a tie; 0 where there is none.

    Args:
        labels: [T] int64, any values.

    Returns:
        [T] int64 on the same device: the segments are its maximal runs of equal values.
    """
    runs = _runs(labels.tolist())
    longest: dict[int, int] = {}
    for label, length in runs:
        longest[label] = max(length, longest.get(label, 0))
    kept: list[tuple[int | None, int]] = []  # None: unassigned; neighbouring stretches are one
    for run, length in runs:
        stays = length == longest[run] > 1
        if not stays and kept and kept[-1][0] is None:
            kept[-1] = (None, kept[-1][1] + length)
        else:
            kept.append((run if stays else None, length))
    done: list[tuple[int, int]] = []
    for i, (own, length) in enumerate(kept):
        if own is None:
            left = done[-1] if done else (0, 0)
            right = kept[i + 1] if i + 1 < len(kept) else (None, 0)
            label = right[0] if right[0] is not None and right[1] > left[1] else left[0]
        else:
            label = own
        if done and done[-1][0] == label:
            done[-1] = (label, done[-1][1] + length)
        else:
            done.append((label, length))
    flat = [one for one, length in done for _ in range(length)]
    return torch.tensor(flat, dtype=torch.long, device=labels.device)


def _runs(labels: list[int]) -> list[tuple[int, int]]:
    return [(label, len(list(run))) for label, run in groupby(labels)]
