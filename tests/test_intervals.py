"""Intervals that respect clusters: against closed forms and against a loop that draws the same videos one by one."""

from __future__ import annotations

import numpy as np
import pytest

from prunevid_qwen.evaluation.report.intervals import (
    DRAWS,
    clustered_mean,
    excludes_zero,
    joint_error,
    mean_of_strata,
    normal_interval,
    paired_difference,
    standard_error,
    to_dict,
)


def rows(videos: int = 9, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Answers about videos of unequal size, in no order."""
    rng = np.random.default_rng(seed)
    clusters = np.repeat(np.arange(videos), rng.integers(1, 8, videos))
    values = (rng.random(len(clusters)) < 0.3 + 0.6 * (clusters % 2)).astype(float)
    order = rng.permutation(len(clusters))
    return values[order], clusters[order]


def loop_interval(values: np.ndarray, clusters: np.ndarray, draws: int, seed: int) -> tuple[float, float]:
    videos = sorted(set(clusters.tolist()))
    means = []
    for drawn in np.random.default_rng(seed).integers(0, len(videos), (draws, len(videos))):
        pooled = [value for k in drawn for value in values[clusters == videos[k]]]
        means.append(sum(pooled) / len(pooled))
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


@pytest.mark.parametrize("seed", [0, 5])
def test_the_interval_is_that_of_a_loop_over_the_same_draws(seed):
    values, clusters = rows()
    found = clustered_mean(values, clusters, draws=300, random_seed=seed)
    assert found.interval == pytest.approx(loop_interval(values, clusters, 300, seed), abs=1e-12)
    assert found.value == pytest.approx(values.mean()) and (found.n, found.videos) == (len(values), 9)


def test_two_videos_have_a_closed_form():
    """Means 0 and 1, equally long: drawn as 0, 1/2, 1/2 or 1, a quarter each, so both tails hold more than 2.5 %."""
    assert clustered_mean([0, 0, 1, 1], [4, 4, 7, 7]).interval == (0.0, 1.0)


def test_many_single_rows_give_the_binomial_interval():
    right = np.arange(400) % 5 > 0  # 80 %
    found = clustered_mean(right, np.arange(400), draws=8000)
    half = 1.96 * np.sqrt(0.8 * 0.2 / 400)
    assert found.interval == pytest.approx((0.8 - half, 0.8 + half), abs=0.004)


def test_a_video_copied_many_times_is_no_new_evidence():
    values, clusters = np.arange(40) % 4 > 0, np.arange(40)
    once = clustered_mean(values, clusters)
    tenfold = clustered_mean(np.repeat(values, 10), np.repeat(clusters, 10))
    assert tenfold.interval == once.interval and tenfold.n == 10 * once.n


def test_a_difference_is_paired_by_question():
    """A hard and an easy half widen each method's interval, not that of their difference."""
    clusters = np.repeat(np.arange(40), 4)
    easy = (clusters < 20).astype(float)
    other = np.where(np.arange(160) % 4 == 0, 0.0, easy)
    found = paired_difference(easy, other, clusters)
    assert found.value == pytest.approx(20 / 160)
    apart = clustered_mean(easy, clusters).interval
    assert found.interval is not None and apart is not None
    assert found.interval[1] - found.interval[0] < 0.4 * (apart[1] - apart[0])
    assert excludes_zero(found.interval)


def test_a_method_against_itself_is_exactly_nothing():
    values, clusters = rows()
    found = paired_difference(values, values, clusters)
    assert found.value == 0 and found.interval == (0.0, 0.0) and not excludes_zero(found.interval)


def test_thirds_that_cancel_stay_zero():
    """Three random seeds give thirds; rounding must not push an end of the interval across 0."""
    others = np.array([1 / 3, 2 / 3, 0.0] * 20)
    values = np.array([2 / 3 - 1 / 3, 1 / 3 + 1 / 3, 0.3 - 0.1 - 0.2] * 20)
    found = paired_difference(values, others, np.repeat(np.arange(20), 3))
    assert found.interval == (0.0, 0.0) and not excludes_zero(found.interval)


def test_one_video_has_no_interval():
    found = clustered_mean([1, 0, 1], ["only"] * 3)
    assert found.interval is None and not excludes_zero(found.interval) and found.value == pytest.approx(2 / 3)


def test_order_of_rows_does_not_matter_and_the_seed_does():
    values, clusters = rows()
    order = np.random.default_rng(3).permutation(len(values))
    assert clustered_mean(values, clusters) == clustered_mean(values[order], clusters[order])
    assert clustered_mean(values, clusters) != clustered_mean(values, clusters, random_seed=1)
    assert clustered_mean(values, clusters) == clustered_mean(values, clusters, draws=DRAWS)


@pytest.mark.parametrize(
    ("values", "clusters"), [([], []), ([1.0, np.nan], [0, 1]), ([1.0, 0.0], [0]), ([[1.0]], [[0]])]
)
def test_what_cannot_be_averaged_is_refused(values, clusters):
    with pytest.raises(ValueError, match="one of each, finite"):
        clustered_mean(values, clusters)


def test_a_pair_needs_both():
    with pytest.raises(ValueError, match="needs both"):
        paired_difference([1, 0], [1], [0, 0])


def test_one_stratum_of_lone_rows_has_the_textbook_error():
    values = np.random.default_rng(3).random(40)
    names = [str(k) for k in range(40)]
    expected = values.std(ddof=1) / np.sqrt(40)
    assert standard_error(values, names) == pytest.approx(expected)
    found = mean_of_strata(values, [""] * 40, names)
    assert (found.value, found.standard_error) == pytest.approx((values.mean(), expected))


def test_clusters_and_strata_weigh_the_same_whatever_their_size():
    assert mean_of_strata([1.0, 1.0, 1.0, 0.0], [2, 2, 2, 5], [2, 2, 2, 5]).value == 0.5
    found = mean_of_strata([1.0, 1.0, 1.0, 0.0, 0.0], ["a", "a", "a", "b", "b"], ["1", "2", "3", "4", "5"])
    assert found.value == 0.5
    assert mean_of_strata([1.0, 1.0], ["a", "a"], ["1", "1"]).standard_error is None


def test_errors_of_independent_means_join_and_an_unknown_one_leaves_no_interval():
    assert joint_error([0.3, 0.4]) == pytest.approx(0.25)
    assert joint_error([0.3, None]) is None and joint_error([]) is None
    assert normal_interval(0.5, 0.1) == pytest.approx([0.304, 0.696])
    assert normal_interval(0.5, None) is None


def test_what_is_stored_is_rounded_and_has_no_negative_zero():
    stored = to_dict(difference=clustered_mean([0.0, -1e-9, 0.0, 0.0], [0, 0, 1, 1]))
    assert stored == {"n": 4, "videos": 2, "difference": 0.0, "difference_interval": [0.0, 0.0]}
    assert "-" not in str(stored)
    assert to_dict(accuracy=clustered_mean([1.0], [3]))["accuracy_interval"] is None
