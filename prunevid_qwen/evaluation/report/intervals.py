"""The statistics of every summary. Questions about one video are not independent: videos are what was drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

DRAWS = 2000


@dataclass(frozen=True)
class Estimate:
    """The mean of ``n`` rows in ``videos`` clusters and the middle of its bootstrap, 95 % unless it was asked for
    otherwise; None for a single cluster."""

    value: float
    interval: tuple[float, float] | None
    n: int
    videos: int


def excludes_zero(interval: Sequence[float] | None) -> bool:
    """Tell whether an interval leaves out 0; without one, nothing can be told from noise."""
    return interval is not None and not interval[0] <= 0 <= interval[1]


def clustered_mean(
    values: npt.ArrayLike, clusters: npt.ArrayLike, draws: int = DRAWS, random_seed: int = 0, level: float = 0.95
) -> Estimate:
    """Average ``[n]`` finite values of ``[n]`` clusters; the interval, of ``level``, draws whole clusters, seeded."""
    rows, labels = np.asarray(values, dtype=np.float64), np.asarray(clusters)
    if rows.ndim != 1 or rows.shape != labels.shape or not rows.size or not np.isfinite(rows).all():
        raise ValueError(f"values {rows.shape} and clusters {labels.shape}: one of each, finite, at least one")
    names, place = np.unique(labels, return_inverse=True)
    sums, sizes = np.bincount(place, weights=rows), np.bincount(place).astype(np.float64)  # [videos]
    interval = None
    if len(names) > 1:
        times = _times_drawn(len(names), draws, random_seed)  # [draws, videos]
        # not by BLAS: its threads fight with the worker processes, and its order of adding is the machine's
        means = np.einsum("dv,v->d", times, sums) / np.einsum("dv,v->d", times, sizes)
        low, high = np.quantile(means, ((1 - level) / 2, (1 + level) / 2))
        interval = (round(float(low), 12), round(float(high), 12))  # thirds that cancel must give 0, not 1e-17
    return Estimate(float(sums.sum() / sizes.sum()), interval, len(rows), len(names))


def paired_difference(values: npt.ArrayLike, others: npt.ArrayLike, clusters: npt.ArrayLike) -> Estimate:
    """Average ``values - others``, both ``[n]`` about the same questions in order; else as `clustered_mean`."""
    ours, theirs = np.asarray(values, dtype=np.float64), np.asarray(others, dtype=np.float64)
    if ours.shape != theirs.shape:
        raise ValueError(f"{ours.shape} values against {theirs.shape}: a pair needs both answers")
    return clustered_mean(ours - theirs, clusters)


@lru_cache(maxsize=64)
def _times_drawn(clusters: int, draws: int, random_seed: int) -> npt.NDArray[np.float64]:
    """How often each cluster comes up in each draw: ``[draws, clusters]``, rows sum to ``clusters``."""
    drawn = np.random.default_rng(random_seed).integers(0, clusters, (draws, clusters))
    times = np.zeros((draws, clusters))
    np.add.at(times, (np.arange(draws)[:, None], drawn), 1.0)
    times.setflags(write=False)  # shared by all callers
    return times


def rounded(value: float) -> float:
    """Round to what a summary stores; never -0.0."""
    return round(float(value), 4) + 0.0


def to_dict(**estimates: Estimate) -> dict[str, Any]:
    """Return estimates over the same rows as a summary stores them: n, videos, of each ``name`` and ``name_interval``.

    Rounded to 4 places, so that an end that rounds to 0 counts as 0.
    """
    first = next(iter(estimates.values()))
    row: dict[str, Any] = {"n": first.n, "videos": first.videos}
    for name, estimate in estimates.items():
        row[name] = rounded(estimate.value)
        row[f"{name}_interval"] = None if estimate.interval is None else [rounded(end) for end in estimate.interval]
    return row


class MeanOfStrata(NamedTuple):
    """The value, and its standard error; None where a stratum has a single cluster, which says nothing of another."""

    value: float
    standard_error: float | None


def mean_of_strata(values: npt.ArrayLike, strata: npt.ArrayLike, clusters: npt.ArrayLike) -> MeanOfStrata:
    """Average ``[n]`` values within each stratum, then over strata (a macro average); one gives the plain mean.

    A video may have questions in several strata: its deviations are added up before they are squared (linearisation).
    """
    rows = np.asarray(values, dtype=np.float64)
    _, stratum = np.unique(strata, return_inverse=True)
    _, video = np.unique(clusters, return_inverse=True)
    if not rows.size or not rows.shape == stratum.shape == video.shape:
        raise ValueError(f"{rows.size} values, {stratum.size} strata, {video.size} videos: one of each, at least one")
    sizes = np.bincount(stratum)
    means = np.bincount(stratum, weights=rows) / sizes
    value = float(means.mean())
    if min(len(set(video[stratum == each])) for each in range(len(sizes))) < 2:
        return MeanOfStrata(value, None)
    parts = (rows - means[stratum]) / (sizes[stratum] * len(sizes))
    return MeanOfStrata(value, _error_of_sum(np.bincount(video, weights=parts)))


def standard_error(values: Sequence[float], clusters: Sequence[str]) -> float | None:
    """Return the standard error of a mean of ``[n]`` values in clusters; None for a single cluster."""
    deviations = np.asarray(values, dtype=np.float64) - np.mean(values)
    _, place = np.unique(clusters, return_inverse=True)
    sums = np.bincount(place, weights=deviations)
    return None if len(sums) < 2 else _error_of_sum(sums) / len(deviations)


def _error_of_sum(sums: npt.NDArray[Any]) -> float:
    return math.sqrt(len(sums) / (len(sums) - 1) * float((sums**2).sum()))


def joint_error(errors: Sequence[float | None]) -> float | None:
    """Return the standard error of the mean of independent means; None where one of theirs is not known."""
    known = [error for error in errors if error is not None]
    return math.sqrt(sum(error**2 for error in known)) / len(known) if known and len(known) == len(errors) else None


def normal_interval(value: float, error: float | None) -> list[float] | None:
    """Return 1.96 standard errors on either side of a mean; None where the error is not known."""
    return None if error is None else [value - 1.96 * error, value + 1.96 * error]


@dataclass(frozen=True)
class Quantiles:
    """The median of ``n`` values, and the quantiles 0.2 and 0.8 between which most of them lie."""

    median: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Any) -> Quantiles:
        """Summarise at least one value."""
        low, median, high = (float(q) for q in np.quantile(np.asarray(values, dtype=np.float64), (0.2, 0.5, 0.8)))
        return cls(median, low, high, len(values))

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, ready for JSON."""
        return asdict(self)
