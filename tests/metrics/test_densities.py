"""Scores of densities and calibration against Density, scipy, healpy and counts by hand."""

import math
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from icgeo.metrics.densities import (
    DensityScores,
    calibration_error,
    coverage,
    energy_score,
    recall_by_area,
    reliability,
    score_density,
)
from icgeo.sphere import AREA_KM2, to_lat_lon, to_xyz
from icgeo.sphere.density import Density
from icgeo.sphere.healpix import cell_xyz

PLACE = (10.0, 20.0)


def random_density(seed=0, nside=4):
    generator = torch.Generator().manual_seed(seed)
    return Density(torch.rand(12 * nside**2, generator=generator, dtype=torch.float64) ** 4)


def test_nll_and_entropy_of_von_mises_and_fisher():
    """Against scipy.stats.vonmises_fisher; cells of 1 degree blur a kernel of 10 degrees little."""
    mean = to_xyz(torch.tensor([40.0, 20.0], dtype=torch.float64)).numpy()
    theirs = stats.vonmises_fisher(mean, 30.0)
    density = Density.from_mixture([(40.0, 20.0)], 30.0)
    score = score_density(density, (35.0, 30.0))
    truth = to_xyz(torch.tensor([35.0, 30.0], dtype=torch.float64)).numpy()
    assert score.nll == pytest.approx(-theirs.logpdf(truth), abs=0.1)
    assert score.entropy == pytest.approx(theirs.entropy(), abs=0.005)


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_the_methods_of_the_density(seed):
    density = random_density(seed)
    score = score_density(density, PLACE)
    assert score.level == pytest.approx(density.credible_level(PLACE).item(), abs=1e-12)
    assert score.nll == pytest.approx(-density.log_prob(PLACE).item())
    assert score.area_50_km2 == pytest.approx(density.credible_area_km2(0.5))
    assert score.area_90_km2 == pytest.approx(density.credible_area_km2(0.9))
    assert score.energy_km == energy_score(density, PLACE).item()


def test_searched_area_is_that_of_the_cells_up_to_the_truths():
    """Cells, and the area of one, of healpy."""
    healpy = pytest.importorskip("healpy")
    density = random_density()
    cell = healpy.ang2pix(4, 20.0, 10.0, nest=True, lonlat=True)
    rank = 1 + (density.mass > density.mass[cell]).sum().item()
    area = healpy.nside2pixarea(4) * 6371.0**2
    assert score_density(density, PLACE).searched_area_km2 == pytest.approx(rank * area)


def test_ties_share_the_searched_area():
    """Uniform over the sphere: half of it on average, not nothing."""
    assert score_density(Density.uniform(4), PLACE).searched_area_km2 == pytest.approx(
        AREA_KM2 / 2 * (1 + 1 / 192)
    )


def test_truth_without_mass():
    mass = torch.zeros(192, dtype=torch.float64)
    mass[0] = 1
    score = score_density(Density(mass), (-80.0, 20.0))
    assert (score.nll, score.level) == (math.inf, 1)
    assert score.searched_area_km2 == pytest.approx(AREA_KM2 / 192 * (1 + 192 / 2))


def test_recall_by_area_counts_truths_found():
    """Areas to search of 10, 20, 20 and 500 km2."""
    areas = [0, 10, 19, 20, 499, AREA_KM2]
    recall = recall_by_area([20.0, 500.0, 10.0, 20.0], areas)
    assert recall.tolist() == [0, 0.25, 0.25, 0.75, 0.75, 1]


def test_recall_by_area_of_guesses_is_the_share_of_the_sphere():
    scores = DensityScores()
    rng = np.random.default_rng(0)
    truths = np.stack(
        (np.degrees(np.arcsin(rng.uniform(-1, 1, 150))), rng.uniform(-180, 180, 150)), 1
    )
    scores.add((random_density(seed) for seed in range(150)), truths)
    shares = np.linspace(0, 1, 11)
    recall = recall_by_area(scores.column("searched_area_km2"), shares * AREA_KM2)
    assert recall.numpy() == pytest.approx(shares, abs=1.63 / math.sqrt(150))


def test_summary_is_of_all_rows_however_they_came():
    densities, truths = [random_density(seed) for seed in range(6)], [PLACE, (-50.0, 100.0)] * 3
    whole, parts = DensityScores(), DensityScores()
    whole.add(densities, truths)
    parts.add(densities[:1], truths[:1])
    parts.add(iter(densities[1:]), truths[1:])
    summary = whole.summary()
    assert parts.summary() == summary
    rows = [score_density(*row) for row in zip(densities, truths, strict=True)]
    assert whole.column("nll").tolist() == [row.nll for row in rows]
    assert summary.queries == len(whole) == 6
    assert summary.mean_nll == pytest.approx(np.mean([row.nll for row in rows]))
    assert summary.coverage_90 == coverage([row.level for row in rows], 0.9)
    assert summary.median_area_90_km2 == np.median([row.area_90_km2 for row in rows])
    assert summary.mean_energy_km == pytest.approx(np.mean([row.energy_km for row in rows]))


def test_memory_does_not_grow_with_the_stream():
    """Of 60 densities of 1.5 kB each, 81 kB together, none is kept."""
    scores = DensityScores()
    scores.add([random_density()] * 6, [PLACE] * 6)
    tracemalloc.start()
    scores.add((random_density(seed) for seed in range(54)), [PLACE] * 54)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(scores) == 60
    assert held < 60_000


def test_wrong_streams_are_named():
    with pytest.raises(ValueError, match="zip"):
        DensityScores().add([Density.uniform(1)], [PLACE, PLACE])
    with pytest.raises(ValueError, match="got none; add some"):
        DensityScores().summary()
    with pytest.raises(ValueError, match="expected a column out of"):
        DensityScores().column("area")
    with pytest.raises(ValueError, match=r"expected a truth .*got shape \(1, 2, 2\)"):
        score_density(Density.uniform(1), [PLACE, PLACE])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_likelihood_is_relative_to_the_uniform_density():
    """A density that is uniform over half of the sphere and right knows log 2 more."""
    scores = DensityScores()
    scores.add([Density.uniform(4)], [PLACE])
    assert scores.summary().information_gain == pytest.approx(0, abs=1e-12)
    half = Density((torch.arange(192) < 96).double())
    scores = DensityScores()
    scores.add([half], [half.mode().tolist()])
    assert scores.summary().mean_nll == pytest.approx(math.log(2 * math.pi))
    assert scores.summary().information_gain == pytest.approx(math.log(2))
    scores.add([half], [to_lat_lon(-cell_xyz(4)[0]).tolist()])
    assert scores.summary().information_gain == -math.inf


def test_reliability_counts_levels_up_to_each_probability():
    levels = [0.9, 0.2, 0.5, 0.5]
    assert reliability(levels, [0, 0.2, 0.5, 0.89, 1]).tolist() == [0, 0.25, 0.75, 0.75, 1]
    assert coverage(levels, 0.9) == 1
    assert coverage([1 + 1e-9], 1) == 1, "masses sum to 1 up to rounding"
    with pytest.raises(ValueError, match="credible level in"):
        coverage([90.0], 0.9)
    with pytest.raises(ValueError, match="probability in"):
        coverage([0.9], 90)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_calibration_error_is_that_of_kolmogorov_and_smirnov(levels):
    expected = stats.kstest(levels, "uniform").statistic
    assert calibration_error(levels) == pytest.approx(expected, abs=1e-12)


def test_calibrated_levels_follow_the_diagonal():
    levels = torch.rand(10_000, generator=seeded())
    grid = torch.linspace(0, 1, 21)
    assert (reliability(levels, grid) - grid).abs().max() < 0.0136
    assert calibration_error(levels) < 0.0136  # 1.36 / sqrt(10 000)
    assert calibration_error(levels.square()) > 0.2  # 1/4: too wide
