"""A mean of means, and how sure it is, when questions about one video are not independent.

With one stratum this is the plain mean and its cluster-robust standard error. With several, every stratum weighs the
same (a macro average), whether or not a video has questions in more than one: each video's deviations are added up
across strata before they are squared (linearisation).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class MeanOfStrata:
    """The value, and its standard error; None where a stratum has a single video, which says nothing of another."""

    value: float
    standard_error: float | None


def mean_of_strata(values: Sequence[float], strata: Sequence[str], videos: Sequence[str]) -> MeanOfStrata:
    """Average within each stratum, then over strata.

    Args:
        values: ``[n]``, finite, at least one.
        strata: ``[n]``, which task or duration each belongs to.
        videos: ``[n]``, which video.

    Raises:
        ValueError: no values, or lengths that differ.
    """
    rows = np.asarray(values, dtype=np.float64)
    if not rows.size or not rows.shape == (len(strata),) == (len(videos),):
        raise ValueError(
            f"{rows.size} values, {len(strata)} strata and {len(videos)} videos: one of each, at least one"
        )
    _, stratum = np.unique(np.asarray(strata), return_inverse=True)
    _, video = np.unique(np.asarray(videos), return_inverse=True)
    sizes = np.bincount(stratum)
    means = np.bincount(stratum, weights=rows) / sizes
    value = float(means.mean())
    lone = min(len(set(video[stratum == each])) for each in range(len(sizes))) < 2
    if lone:
        return MeanOfStrata(value, None)
    parts = (rows - means[stratum]) / (sizes[stratum] * len(sizes))
    sums = np.bincount(video, weights=parts)
    return MeanOfStrata(value, math.sqrt(len(sums) / (len(sums) - 1) * float((sums**2).sum())))
