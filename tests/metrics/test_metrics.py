"""Scores against hand-computed numbers, scipy.stats and naive loops."""

import math
from dataclasses import asdict
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from icgeo import metrics

DISTANCES = [0.0, 100.0, 200.0, 3000.0]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_geoscore_of_hand_computed_distances():
    """5000 exp(-d / 1492.7): half at 1492.7 ln 2 km, as in Haas et al. 2024, section 3."""
    half = 1492.7 * math.log(2)
    assert metrics.geoscore([0, half, math.inf]).tolist() == pytest.approx([5000, 2500, 0])
    assert metrics.geoscore(torch.full((2, 3), half)).shape == (2, 3)
    assert metrics.geoscore(0).item() == 5000


def test_accuracy_is_strict():
    assert metrics.accuracy_within(DISTANCES, 200) == 0.5
    assert metrics.accuracy_within(DISTANCES, 200.001) == 0.75
    assert metrics.accuracy_within([math.inf], 25_000) == 0


@pytest.mark.parametrize(
    ("distance", "mean", "median"),
    [
        (DISTANCES, 825, 150),
        ([7], 7, 7),
        ([1.0, 2.0, math.inf], math.inf, 2),
        ([1.0, math.inf], math.inf, math.inf),
    ],
)
def test_errors_in_km(distance, mean, median):
    assert metrics.mean_error(distance) == mean
    assert metrics.median_error(np.array(distance)) == median


@pytest.mark.parametrize("score", [metrics.geoscore, metrics.mean_error, metrics.median_error])
@pytest.mark.parametrize("wrong", [math.nan, -1.0])
def test_distances_that_are_none_name_the_row(score, wrong):
    with pytest.raises(ValueError, match=rf"expected distance_km in \[0, inf\], got {wrong:g}.*2"):
        score([1.0, 2.0, wrong])


@pytest.mark.parametrize(
    "score", [metrics.mean_error, metrics.median_error, metrics.mean_nll, metrics.summarise]
)
@pytest.mark.parametrize("wrong", [[], 3.0, [[1.0]]])
def test_columns_have_one_row_a_query(score, wrong):
    with pytest.raises(ValueError, match="each of at least one query, got shape"):
        score(wrong)


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


@given(st.lists(st.tuples(st.floats(0, 2e4), st.integers(0, 3)), min_size=1, max_size=20))
def test_weighted_statistics_are_those_of_repeated_values(rows):
    rows.append((1.0, 1))
    values, times = (
        torch.tensor(column, dtype=torch.float64) for column in zip(*rows, strict=True)
    )
    repeated = np.repeat(values.numpy(), times.int().numpy())
    assert metrics.weighted_mean(values, times).item() == pytest.approx(repeated.mean())
    assert metrics.weighted_median(values, times).item() == pytest.approx(np.median(repeated))


def test_values_of_no_weight_do_not_count_even_if_infinite():
    values, weights = torch.tensor([1.0, math.inf]), torch.tensor([[2.0, 0.0], [1.0, 1.0]])
    assert metrics.weighted_mean(values, weights).tolist() == [1, math.inf]
    assert metrics.weighted_median(values, weights).tolist() == [1, math.inf]


@pytest.mark.parametrize(
    ("statistic", "of_numpy"),
    [(metrics.weighted_mean, np.mean), (metrics.weighted_median, np.median)],
)
def test_interval_is_that_of_scipy(statistic, of_numpy):
    """Percentile intervals of 5,000 resamples differ by the noise of resampling alone."""
    values = np.random.default_rng(0).exponential(1000, 150)
    theirs = stats.bootstrap(
        (values,), of_numpy, n_resamples=5000, method="percentile", rng=0
    ).confidence_interval
    ours = metrics.bootstrap_interval(
        values, statistic=statistic, resamples=5000, generator=seeded()
    )
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
    ours = metrics.bootstrap_interval(
        values,
        statistic=metrics.weighted_median,
        clusters=clusters,
        resamples=200,
        level=0.9,
        generator=seeded(),
    )
    assert ours.low == pytest.approx(np.quantile(medians, 0.05, method="lower"))
    assert ours.high == pytest.approx(np.quantile(medians, 0.95, method="higher"))


def test_clustered_intervals_hold_the_truth_where_plain_ones_do_not():
    """300 data sets of 30 episodes x 10 queries, half of the variance between episodes."""
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(30), 10)
    held = np.zeros(2)
    for _ in range(300):
        values = rng.normal(size=30)[clusters] + rng.normal(size=300)
        for which, names in enumerate((clusters, None)):
            interval = metrics.bootstrap_interval(
                values, clusters=names, resamples=200, generator=seeded(1)
            )
            held[which] += interval.low <= 0 <= interval.high
    assert 0.9 <= held[0] / 300 <= 0.97
    assert held[1] / 300 < 0.7


def test_pairing_cancels_what_is_hard_for_both():
    rng = np.random.default_rng(0)
    hard = rng.exponential(1000, 300)
    better = hard * rng.uniform(0.7, 0.9, 300)
    alone = [metrics.bootstrap_interval(values, generator=seeded()) for values in (better, hard)]
    assert alone[0].high > alone[1].low, "apart, the two systems overlap"
    paired = metrics.paired_bootstrap(better, hard, generator=seeded())
    assert paired.estimate == pytest.approx(np.mean(better) - np.mean(hard))
    assert paired.high < 0
    ratio = metrics.paired_bootstrap(
        better, hard, statistic=metrics.weighted_median, ratio=True, generator=seeded()
    )
    assert ratio.estimate == pytest.approx(np.median(better) / np.median(hard))
    assert 0.7 <= ratio.low < ratio.estimate < ratio.high <= 0.95


def test_a_system_is_no_better_than_itself():
    values = [3.0, 1.0, 2.0]
    zero = metrics.paired_bootstrap(values, values, generator=seeded())
    assert (zero.estimate, zero.low, zero.high) == (0, 0, 0)
    one = metrics.paired_bootstrap(values, values, ratio=True, generator=seeded())
    assert (one.estimate, one.low, one.high) == (1, 1, 1)


def test_same_generator_same_interval_and_memory_is_bounded(monkeypatch):
    run = partial(metrics.bootstrap_interval, torch.arange(50.0), resamples=300)
    whole = run(generator=seeded())
    assert run(generator=seeded()) == whole
    monkeypatch.setattr(metrics.intervals, "_WEIGHTS_AT_ONCE", 1000)
    parts = run(generator=seeded())
    assert parts.low == pytest.approx(whole.low, abs=1)


@pytest.mark.parametrize("clusters", [None, ["one"]])
def test_one_cluster_has_an_estimate_and_no_interval(clusters):
    interval = metrics.bootstrap_interval([5.0], clusters=clusters)
    assert interval.estimate == 5
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)


def test_missing_answers_widen_the_interval_to_infinity():
    values = [1.0] * 9 + [math.inf]
    interval = metrics.bootstrap_interval(values, resamples=100, generator=seeded())
    assert (interval.low, interval.high) == (1, math.inf)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.bootstrap_interval([1.0], clusters=[1, 2]), "one cluster for each of 1"),
        (lambda: metrics.bootstrap_interval([1.0], level=95), "between 0 and 1, got 95"),
        (lambda: metrics.bootstrap_interval([1.0], resamples=0), "at least 1 resample, got 0"),
        (lambda: metrics.bootstrap_interval([math.nan]), "got nan at index"),
        (lambda: metrics.paired_bootstrap([1.0], [1.0, 2.0]), "got 1 and 2 rows"),
        (lambda: metrics.summarise([1.0], [1.0, 2.0]), "expected nll of 1 queries, got 2"),
    ],
)
def test_wrong_inputs_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_summary_of_hand_computed_numbers():
    summary = metrics.summarise(
        [100.0, 500.0, 1000.0, math.inf],
        [1.0, 2.0, 3.0, 4.0],
        area_km2=[1e6, 3e6, 5e6, 5e8],
        seconds=[0.1, 0.1, 0.2, 0.2],
    )
    scores = [5000 * math.exp(-d / 1492.7) for d in (100, 500, 1000)]
    assert asdict(summary) == {
        "queries": 4,
        "median_km": 750,
        "mean_km": math.inf,
        "mean_geoscore": pytest.approx(sum(scores) / 4),
        "within_1": 0,
        "within_25": 0,
        "within_200": 0.25,
        "within_750": 0.5,
        "within_2500": 0.75,
        "mean_nll": 2.5,
        "median_area_km2": 4e6,
        "mean_seconds": pytest.approx(0.15),
    }


def test_summary_leaves_out_what_was_not_given():
    summary = metrics.summarise([100.0])
    assert (summary.median_km, summary.within_200) == (100, 1)
    assert (summary.mean_nll, summary.median_area_km2, summary.mean_seconds) == (None, None, None)
