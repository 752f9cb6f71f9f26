"""Likelihood and calibration against hand-computed numbers and scipy.stats."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from icgeo import metrics


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_likelihood_is_relative_to_the_uniform_density():
    assert metrics.mean_nll([1.0, 3.0]) == 2
    assert metrics.information_gain([math.log(4 * math.pi)] * 3) == pytest.approx(0, abs=1e-12)
    # A density that is uniform over half of the sphere and right knows log 2 more.
    assert metrics.information_gain([math.log(2 * math.pi)]) == pytest.approx(math.log(2))
    assert metrics.information_gain([0.0, math.inf]) == -math.inf


def test_reliability_counts_levels_up_to_each_probability():
    levels = [0.9, 0.2, 0.5, 0.5]
    assert metrics.reliability(levels, [0, 0.2, 0.5, 0.89, 1]).tolist() == [0, 0.25, 0.75, 0.75, 1]
    assert metrics.coverage(levels, 0.9) == 1
    assert metrics.coverage([1 + 1e-9], 1) == 1, "masses sum to 1 up to rounding"
    with pytest.raises(ValueError, match="credible level in"):
        metrics.coverage([90.0], 0.9)
    with pytest.raises(ValueError, match="probability in"):
        metrics.coverage([0.9], 90)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_calibration_error_is_that_of_kolmogorov_and_smirnov(levels):
    expected = stats.kstest(levels, "uniform").statistic
    assert metrics.calibration_error(levels) == pytest.approx(expected, abs=1e-12)


def test_calibrated_levels_follow_the_diagonal():
    levels = torch.rand(10_000, generator=seeded())
    grid = torch.linspace(0, 1, 21)
    assert (metrics.reliability(levels, grid) - grid).abs().max() < 0.0136
    assert metrics.calibration_error(levels) < 0.0136  # 1.36 / sqrt(10 000)
    assert metrics.calibration_error(levels.square()) > 0.2  # 1/4: too wide
