"""Bootstrap of many rows: the Poisson one agrees with the exact one and with theory."""

import math

import numpy as np
import pytest
import torch

from icgeo.metrics import bootstrap_interval, intervals, weighted_mean, weighted_median


def seeded():
    return torch.Generator().manual_seed(0)


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
