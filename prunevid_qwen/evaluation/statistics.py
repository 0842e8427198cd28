"""Means with an interval, when what is averaged comes in clusters: questions about one video are not independent.

A difference between two methods is the mean of the differences question by question (paired), so what makes a question
hard for both does not widen its interval. Draws are seeded and shared: the same rows give the same figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

DRAWS = 2000
COVERAGE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean and how far it can be trusted.

    Args:
        value: the mean over all rows.
        interval: the middle 95 % of the bootstrap, (low, high); None with fewer than two videos, which can say nothing
            about a third.
        n: how many rows.
        videos: how many clusters they come in.
    """

    value: float
    interval: tuple[float, float] | None
    n: int
    videos: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of 0; never without an interval."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]


def clustered_mean(
    values: npt.ArrayLike, clusters: npt.ArrayLike, draws: int = DRAWS, random_seed: int = 0
) -> Estimate:
    """Average values that come in clusters; the interval draws whole clusters with replacement.

    Clusters of every kind are drawn together, not within their kind: rather a little too wide than too narrow.

    Args:
        values: ``[n]``, finite; for example 1.0 where an answer was right, or a difference of two such.
        clusters: ``[n]``, which video each value belongs to; anything numpy can sort.
        draws: how often the clusters are drawn; at least 1.
        random_seed: the draws' seed; at least 0.

    Raises:
        ValueError: no values, values that are not finite, or another number of clusters than of values.
    """
    rows = np.asarray(values, dtype=np.float64)
    labels = np.asarray(clusters)
    if rows.ndim != 1 or rows.shape != labels.shape:
        raise ValueError(f"values {rows.shape} and clusters {labels.shape} must be one-dimensional and of one length")
    if not rows.size:
        raise ValueError("no values to average: leave the group out instead")
    if not np.isfinite(rows).all():
        raise ValueError("values must be finite: leave out what was not asked")
    names, place = np.unique(labels, return_inverse=True)
    sums = np.bincount(place, weights=rows)  # [videos]
    sizes = np.bincount(place).astype(np.float64)  # [videos]
    interval = None
    if len(names) > 1:
        times = _times_drawn(len(names), draws, random_seed)  # [draws, videos]
        # not by BLAS: its threads fight with the worker processes, and its order of adding is the machine's
        means = np.einsum("dv,v->d", times, sums) / np.einsum("dv,v->d", times, sizes)
        low, high = np.quantile(means, ((1 - COVERAGE) / 2, (1 + COVERAGE) / 2))
        interval = (round(float(low), 12), round(float(high), 12))  # thirds that cancel must give 0, not 1e-17
    return Estimate(float(sums.sum() / sizes.sum()), interval, len(rows), len(names))


def paired_difference(
    values: npt.ArrayLike, others: npt.ArrayLike, clusters: npt.ArrayLike, draws: int = DRAWS, random_seed: int = 0
) -> Estimate:
    """Average ``values - others``, both about the same questions in the same order.

    Args:
        values: ``[n]``, of what is judged.
        others: ``[n]``, of what it is judged against.
        clusters: ``[n]``, which video each question belongs to.
        draws: as in ``clustered_mean``.
        random_seed: as in ``clustered_mean``.

    Raises:
        ValueError: lengths that differ, or as ``clustered_mean``.
    """
    ours, theirs = np.asarray(values, dtype=np.float64), np.asarray(others, dtype=np.float64)
    if ours.shape != theirs.shape:
        raise ValueError(f"{ours.shape} values against {theirs.shape}: a pair needs both answers")
    return clustered_mean(ours - theirs, clusters, draws, random_seed)


@lru_cache(maxsize=64)
def _times_drawn(clusters: int, draws: int, random_seed: int) -> npt.NDArray[np.float64]:
    """How often each cluster comes up in each draw: ``[draws, clusters]``, rows sum to ``clusters``."""
    drawn = np.random.default_rng(random_seed).integers(0, clusters, (draws, clusters))
    times = np.zeros((draws, clusters))
    np.add.at(times, (np.arange(draws)[:, None], drawn), 1.0)
    times.setflags(write=False)  # shared by all callers
    return times
