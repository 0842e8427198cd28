"""The statistics of every summary: means with an interval where what is averaged comes in clusters.

Questions about one video are not independent, so videos (or images) are what was drawn. A difference between two
configurations is the mean of the differences question by question (paired): a question that is hard for both does not
widen its interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

DRAWS = 2000
COVERAGE = 0.95
NORMAL = 1.96
"""Standard errors on either side of a normal mean that cover 95 %."""

LOW, HIGH = 0.2, 0.8
"""Quantiles between which most repeated measurements lie."""

_ROUND = 4


@dataclass(frozen=True)
class Estimate:
    """A mean and how far it can be trusted.

    Args:
        value: the mean over all rows.
        interval: the middle 95 % of the bootstrap, (low, high); None with fewer than two clusters, which can say
            nothing about a third.
        n: how many rows.
        videos: how many clusters they come in.
    """

    value: float
    interval: tuple[float, float] | None
    n: int
    videos: int


def excludes_zero(interval: Sequence[float] | None) -> bool:
    """Tell whether an interval leaves out 0; without one, nothing can be told from noise."""
    return interval is not None and not interval[0] <= 0 <= interval[1]


def clustered_mean(
    values: npt.ArrayLike, clusters: npt.ArrayLike, draws: int = DRAWS, random_seed: int = 0
) -> Estimate:
    """Average values that come in clusters; the interval draws whole clusters with replacement.

    Clusters of every kind are drawn together, not within their kind: rather a little too wide than too narrow. Draws
    are seeded and shared: the same rows give the same figures.

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
    """Average ``values - others``, both ``[n]`` about the same questions in the same order; else as `clustered_mean`.

    Raises:
        ValueError: lengths that differ, or as `clustered_mean`.
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


def rounded(value: float, digits: int = _ROUND) -> float:
    """Round to what a summary stores; never -0.0."""
    return round(float(value), digits) + 0.0


def to_dict(**estimates: Estimate) -> dict[str, Any]:
    """Return estimates over the same rows as a summary stores them: n, videos, and of each its value and interval.

    Rounded to 4 places, so that an end that rounds to 0 counts as 0.

    Args:
        estimates: by the name that they get; the interval's is ``<name>_interval``.
    """
    first = next(iter(estimates.values()))
    row: dict[str, Any] = {"n": first.n, "videos": first.videos}
    for name, estimate in estimates.items():
        row[name] = rounded(estimate.value)
        row[f"{name}_interval"] = None if estimate.interval is None else [rounded(end) for end in estimate.interval]
    return row


def mean_of_clusters(values: npt.ArrayLike, clusters: npt.ArrayLike) -> float:
    """Average within each cluster, then over clusters, so that each weighs the same.

    Args:
        values: ``[n]``, at least one.
        clusters: ``[n]``, whole numbers of at least 0.
    """
    places = np.asarray(clusters)
    sizes = np.bincount(places)
    found = sizes > 0
    return float((np.bincount(places, weights=np.asarray(values, dtype=np.float64))[found] / sizes[found]).mean())


@dataclass(frozen=True)
class MeanOfStrata:
    """The value, and its standard error; None where a stratum has a single cluster, which says nothing of another."""

    value: float
    standard_error: float | None


def mean_of_strata(values: Sequence[float], strata: Sequence[str], clusters: Sequence[str]) -> MeanOfStrata:
    """Average within each stratum, then over strata (a macro average); one stratum gives the plain mean.

    Every stratum weighs the same, whether or not a video has questions in more than one: each video's deviations are
    added up across strata before they are squared (linearisation).

    Args:
        values: ``[n]``, finite, at least one.
        strata: ``[n]``, which task or duration each belongs to.
        clusters: ``[n]``, which video.

    Raises:
        ValueError: no values, or lengths that differ.
    """
    rows = np.asarray(values, dtype=np.float64)
    if not rows.size or not rows.shape == (len(strata),) == (len(clusters),):
        raise ValueError(
            f"{rows.size} values, {len(strata)} strata and {len(clusters)} videos: one of each, at least one"
        )
    _, stratum = np.unique(np.asarray(strata), return_inverse=True)
    _, video = np.unique(np.asarray(clusters), return_inverse=True)
    sizes = np.bincount(stratum)
    means = np.bincount(stratum, weights=rows) / sizes
    value = float(means.mean())
    if min(len(set(video[stratum == each])) for each in range(len(sizes))) < 2:
        return MeanOfStrata(value, None)
    parts = (rows - means[stratum]) / (sizes[stratum] * len(sizes))
    return MeanOfStrata(value, _error_of_sum(np.bincount(video, weights=parts)))


def standard_error(values: Sequence[float], clusters: Sequence[str]) -> float | None:
    """Return the standard error of a mean whose values come in clusters; None for a single cluster.

    With one value in each cluster it is the usual one, sample standard deviation / sqrt(n).

    Args:
        values: ``[n]``, at least one.
        clusters: ``[n]``, which video or image each belongs to.
    """
    deviations = np.asarray(values, dtype=np.float64) - np.mean(values)
    _, place = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.bincount(place, weights=deviations)
    return None if len(sums) < 2 else _error_of_sum(sums) / len(deviations)


def _error_of_sum(sums: npt.NDArray[Any]) -> float:
    return math.sqrt(len(sums) / (len(sums) - 1) * float((sums**2).sum()))


def joint_error(errors: Sequence[float | None]) -> float | None:
    """Return the standard error of the mean of independent means; None where one of theirs is not known."""
    known = [error for error in errors if error is not None]
    if not known or len(known) < len(errors):
        return None
    return math.sqrt(sum(error**2 for error in known)) / len(known)


def normal_interval(value: float, error: float | None) -> list[float] | None:
    """Return 1.96 standard errors on either side of a mean; None where the error is not known."""
    return None if error is None else [value - NORMAL * error, value + NORMAL * error]


@dataclass(frozen=True)
class Quantiles:
    """The middle of some values and how far they spread.

    Args:
        median: the 0.5 quantile.
        low: the 0.2 quantile.
        high: the 0.8 quantile.
        n: how many values.
    """

    median: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Any) -> Quantiles:
        """Summarise at least one value."""
        low, median, high = (float(q) for q in np.quantile(np.asarray(values, dtype=np.float64), (LOW, 0.5, HIGH)))
        return cls(median, low, high, len(values))

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, ready for JSON."""
        return asdict(self)
