"""Bootstrap intervals against scipy.stats, naive loops and theory, of few rows and of many."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from icgeo.metrics import intervals
from icgeo.metrics.intervals import (
    bootstrap_interval,
    paired_bootstrap,
    weighted_mean,
    weighted_median,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@given(st.lists(st.tuples(st.floats(0, 2e4), st.integers(0, 3)), min_size=1, max_size=20))
def test_weighted_statistics_are_those_of_repeated_values(rows):
    rows.append((1.0, 1))
    values, times = (
        torch.tensor(column, dtype=torch.float64) for column in zip(*rows, strict=True)
    )
    repeated = np.repeat(values.numpy(), times.int().numpy())
    assert weighted_mean(values, times).item() == pytest.approx(repeated.mean())
    assert weighted_median(values, times).item() == pytest.approx(np.median(repeated))


def test_values_of_no_weight_do_not_count_even_if_infinite():
    values, weights = torch.tensor([1.0, math.inf]), torch.tensor([[2.0, 0.0], [1.0, 1.0]])
    assert weighted_mean(values, weights).tolist() == [1, math.inf]
    assert weighted_median(values, weights).tolist() == [1, math.inf]


@pytest.mark.parametrize(
    ("statistic", "of_numpy"), [(weighted_mean, np.mean), (weighted_median, np.median)]
)
def test_interval_is_that_of_scipy(statistic, of_numpy):
    """Percentile intervals of 5,000 resamples differ by the noise of resampling alone."""
    values = np.random.default_rng(0).exponential(1000, 150)
    theirs = stats.bootstrap(
        (values,), of_numpy, n_resamples=5000, method="percentile", rng=0
    ).confidence_interval
    ours = bootstrap_interval(values, statistic=statistic, resamples=5000, generator=seeded())
    width = theirs.high - theirs.low
    assert ours.estimate == pytest.approx(of_numpy(values))
    assert ours.low == pytest.approx(theirs.low, abs=0.05 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.05 * width)


def test_resamples_take_clusters_whole():
    """Against a loop that concatenates the drawn episodes, with the same draws."""
    rng = np.random.default_rng(0)
    clusters = np.array(["a", "b", "b", "c", "c", "c", "d", "e"])
    values = rng.normal(size=len(clusters))
    drawn = torch.randint(5, (200, 5), generator=seeded()).numpy()
    members = [values[clusters == name] for name in np.unique(clusters)]
    medians = [np.median(np.concatenate([members[i] for i in row])) for row in drawn]
    ours = bootstrap_interval(
        values, statistic=weighted_median, clusters=clusters, resamples=200, generator=seeded()
    )
    assert ours.low == pytest.approx(np.quantile(medians, 0.025, method="lower"))
    assert ours.high == pytest.approx(np.quantile(medians, 0.975, method="higher"))


def test_clustered_intervals_hold_the_truth_where_plain_ones_do_not():
    """300 data sets of 30 episodes x 10 queries, half of the variance between episodes."""
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(30), 10)
    held = np.zeros(2)
    for _ in range(300):
        values = rng.normal(size=30)[clusters] + rng.normal(size=300)
        for which, names in enumerate((clusters, None)):
            interval = bootstrap_interval(
                values, clusters=names, resamples=200, generator=seeded(1)
            )
            held[which] += interval.low <= 0 <= interval.high
    assert 0.9 <= held[0] / 300 <= 0.97
    assert held[1] / 300 < 0.7


def test_pairing_cancels_what_is_hard_for_both():
    rng = np.random.default_rng(0)
    hard = rng.exponential(1000, 300)
    better = hard * rng.uniform(0.7, 0.9, 300)
    alone = [bootstrap_interval(values, generator=seeded()) for values in (better, hard)]
    assert alone[0].high > alone[1].low, "apart, the two systems overlap"
    paired = paired_bootstrap(better, hard, generator=seeded())
    assert paired.estimate == pytest.approx(np.mean(better) - np.mean(hard))
    assert paired.high < 0
    ratio = paired_bootstrap(
        better, hard, statistic=weighted_median, ratio=True, generator=seeded()
    )
    assert ratio.estimate == pytest.approx(np.median(better) / np.median(hard))
    assert 0.7 <= ratio.low < ratio.estimate < ratio.high <= 0.95


def test_a_system_is_no_better_than_itself():
    values = [3.0, 1.0, 2.0]
    zero = paired_bootstrap(values, values, generator=seeded())
    assert (zero.estimate, zero.low, zero.high) == (0, 0, 0)
    one = paired_bootstrap(values, values, ratio=True, generator=seeded())
    assert (one.estimate, one.low, one.high) == (1, 1, 1)


def test_same_generator_same_interval_and_memory_is_bounded(monkeypatch):
    run = partial(bootstrap_interval, torch.arange(50.0), resamples=300)
    whole = run(generator=seeded())
    assert run(generator=seeded()) == whole
    monkeypatch.setattr(intervals, "_WEIGHTS_AT_ONCE", 1000)
    parts = run(generator=seeded())
    assert parts.low == pytest.approx(whole.low, abs=1)


@pytest.mark.parametrize("clusters", [None, ["one"]])
def test_one_cluster_has_an_estimate_and_no_interval(clusters):
    interval = bootstrap_interval([5.0], clusters=clusters)
    assert interval.estimate == 5
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)


def test_missing_answers_widen_the_interval_to_infinity():
    values = [1.0] * 9 + [math.inf]
    interval = bootstrap_interval(values, resamples=100, generator=seeded())
    assert (interval.low, interval.high) == (1, math.inf)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_interval([1.0], clusters=[1, 2]), "one cluster for each of 1"),
        (lambda: bootstrap_interval([1.0], resamples=0), "at least 1 resample, got 0"),
        (lambda: bootstrap_interval([math.nan]), "got nan at index"),
        (lambda: paired_bootstrap([1.0], [1.0, 2.0]), "values of b of 1 queries, got 2"),
    ],
)
def test_wrong_inputs_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("statistic", [weighted_mean, weighted_median])
def test_poisson_bootstrap_is_that_of_resampled_rows(statistic, monkeypatch):
    """1,000 rows both ways; bounds differ by the noise of 3,000 resamples."""
    values = np.random.default_rng(0).exponential(1000, 1000)
    exact = bootstrap_interval(values, statistic=statistic, resamples=3000, generator=seeded())
    monkeypatch.setattr(intervals, "_RUNS", 250)
    runs = bootstrap_interval(values, statistic=statistic, resamples=3000, generator=seeded())
    width = exact.high - exact.low
    assert runs.estimate == exact.estimate
    assert runs.low == pytest.approx(exact.low, abs=0.08 * width)
    assert runs.high == pytest.approx(exact.high, abs=0.08 * width)


def test_interval_of_an_accuracy_is_that_of_the_binomial_distribution():
    """A million rows, 30 % right: 1.96 standard errors to both sides."""
    right = torch.arange(1_000_000) % 10 < 3
    interval = bootstrap_interval(right.double(), generator=seeded())
    half = 1.96 * math.sqrt(0.3 * 0.7 / 1e6)
    assert interval.estimate == pytest.approx(0.3)
    assert interval.high - 0.3 == pytest.approx(half, rel=0.12)
    assert 0.3 - interval.low == pytest.approx(half, rel=0.12)


def test_interval_of_the_mean_of_many_rows_is_that_of_the_normal_distribution():
    values = np.random.default_rng(0).exponential(1000, 40_000)
    interval = bootstrap_interval(values, resamples=200, generator=seeded())
    assert interval.estimate == pytest.approx(values.mean())
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert interval.high - interval.low == pytest.approx(2 * half, rel=0.2)


def test_runs_keep_rows_and_their_sum(monkeypatch):
    monkeypatch.setattr(intervals, "_RUNS", 7)
    values = torch.rand(100, generator=seeded(), dtype=torch.float64)
    at, counts = intervals._runs(values)
    assert len(at) == 7
    assert counts.sum() == 100
    assert (at * counts).sum().item() == pytest.approx(values.sum().item())
    assert (at.diff() > 0).all()


def test_weights_of_resamples_are_not_held_together(monkeypatch):
    """A million rows would take 8 GB: each part goes before the next comes."""
    monkeypatch.setattr(intervals, "_WEIGHTS_AT_ONCE", 20)
    seen = []

    def statistic(values, weights):
        seen.append(weights.shape)
        return weighted_mean(values, weights)

    bootstrap_interval(torch.arange(10.0), statistic=statistic, resamples=5)
    assert seen == [(1, 10), (2, 10), (2, 10), (1, 10)]
