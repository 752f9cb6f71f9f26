"""The best points against brute force on a finer grid and against closed forms."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from icgeo.sphere import (
    angle,
    as_lat_lon,
    distance_km,
    random_rotation,
    sample_cap,
    sample_uniform,
    spherical_mean,
    to_lat_lon,
    to_xyz,
    von_mises_fisher_log_prob,
)
from icgeo.sphere.best_point import GEOSCORE_SCALE_KM, best_points
from icgeo.sphere.healpix import cell_xyz

MEDIAN = 1e9


def mixture(mean, kappa, weight, nside):
    cells = cell_xyz(nside)[:, None]
    return (von_mises_fisher_log_prob(cells, mean, kappa).exp() @ weight) * math.pi / 3 / nside**2


def random_mixture(seed, nside=8):
    """Up to five kernels of 2 to 60 degrees, every other time within 25 degrees of each other."""
    rng = torch.Generator().manual_seed(seed)
    count = 1 + seed % 5
    mean = sample_uniform(count, generator=rng)
    if seed % 2:
        mean = sample_cap(mean[:1].expand(count, 3), 25.0, generator=rng)
    kappa = 10 ** (3 * torch.rand(count, generator=rng, dtype=torch.float64))
    return mixture(mean, kappa, 0.7 + 0.3 * torch.rand(count, generator=rng).double(), nside)


def expected_score(point, mass, scale_km):
    """Expectation over 64 points in each cell: `point` [points, 3], `mass` [cells]."""
    children = len(mass) * 64
    fine = cell_xyz(math.isqrt(children // 12))
    angles = angle(point[:, None], fine)
    value = -angles if scale_km == MEDIAN else torch.exp(-angles * 6371 / scale_km)
    return value @ (mass / mass.sum()).repeat_interleave(64) / 64


@pytest.mark.parametrize("scale_km", [GEOSCORE_SCALE_KM, MEDIAN])
@pytest.mark.parametrize("seed", range(8))
def test_nothing_beats_it_on_a_grid(seed, scale_km):
    mass = random_mixture(seed, nside=4)
    mass = mass / mass.sum()
    best = to_xyz(best_points(mass, scale_km))
    score = expected_score(torch.cat((best[None], cell_xyz(4))), mass, scale_km)
    # the blocks' distances are root mean squares: 1e-3 of a score, 0.06 degrees of a distance
    assert score[0] > score[1:].max() - 1e-3


@pytest.mark.parametrize("nside", [1, 2, 8, 64])
def test_one_cell_is_answered_by_its_centre(nside):
    mass = torch.zeros(12 * nside**2, dtype=torch.float64)
    mass[5 * nside**2 + 1 - (nside == 1)] = 3.0
    centre = to_lat_lon(cell_xyz(nside)[mass.argmax()])
    assert distance_km(best_points(mass), centre) < 1e-3
    assert distance_km(best_points(mass, MEDIAN), centre) < 1e-3


@given(st.floats(-90, 90), st.floats(-180, 179.99), st.floats(1, 3))
@settings(max_examples=30)
def test_a_bump_is_answered_between_the_cells(lat, lon, log_kappa):
    """Within a twentieth of a cell's side, at any place."""
    place = as_lat_lon((lat, lon))
    mass = mixture(to_xyz(place)[None], 10**log_kappa, torch.ones(1).double(), 64)
    side_km = 6371 * math.sqrt(math.pi / 3) / 64
    assert distance_km(best_points(mass), place) < side_km / 20
    assert distance_km(best_points(mass, MEDIAN), place) < side_km / 20


def test_the_heavier_of_two_far_kernels_wins():
    mean = to_xyz(as_lat_lon([[50, 10], [-30, -120]]))
    mass = mixture(mean, 300.0, torch.tensor([0.45, 0.55]).double(), 64)
    assert distance_km(best_points(mass), (-30, -120)) < 10
    # while the mean lies in between
    mean_point = to_lat_lon(spherical_mean(cell_xyz(64), mass))
    assert distance_km(mean_point, (-30, -120)) > 3000


def test_a_ring_is_answered_by_its_middle():
    """At a radius of 5 degrees the middle, without mass, scores better than the ring."""
    ring = 5 * torch.tensor([[math.cos(i), math.sin(i)] for i in torch.arange(0, 6.28, 0.1)])
    mass = mixture(to_xyz(ring.double()), 3e3, torch.ones(len(ring)).double(), 64)
    assert distance_km(best_points(mass), (0, 0)) < 10


@given(st.integers(0, 10**6))
@settings(max_examples=20)
def test_it_turns_with_the_density(seed):
    rng = torch.Generator().manual_seed(seed)
    mean = sample_cap(sample_uniform(generator=rng).expand(3, 3), 30.0, generator=rng)
    weight = torch.tensor([0.6, 0.3, 0.1]).double()
    rotation = random_rotation(generator=rng)
    for scale_km in (GEOSCORE_SCALE_KM, MEDIAN):
        still = best_points(mixture(mean, 100.0, weight, 64), scale_km)
        turned = best_points(mixture(mean @ rotation.T, 100.0, weight, 64), scale_km)
        assert distance_km(to_lat_lon(rotation @ to_xyz(still)), turned) < 5


def test_median_of_cells_is_that_of_scipy():
    mass, cells = random_mixture(3, nside=4), cell_xyz(4)

    def cost(vector):
        return (mass * angle(cells, torch.as_tensor(vector / np.linalg.norm(vector)))).sum().item()

    expected = minimize(cost, cells[mass.argmax()].numpy() + 1e-3, method="Nelder-Mead").x
    # points instead of cells of 15 degrees: a tenth of a cell
    assert distance_km(best_points(mass, MEDIAN), to_lat_lon(torch.tensor(expected))) < 160


def test_batches_of_any_shape_and_precision():
    mass = torch.stack([random_mixture(seed) for seed in range(40)])
    single = torch.stack([best_points(row) for row in mass])
    assert distance_km(best_points(mass), single).max() < 1e-6
    assert best_points(mass.reshape(2, 20, -1)).shape == (2, 20, 2)
    rough = best_points(mass.float())
    assert rough.dtype == torch.float32
    assert distance_km(rough, single).max() < 5


def test_scale_of_the_masses_does_not_matter():
    mass = random_mixture(4)
    assert distance_km(best_points(mass), best_points(1e-20 * mass)) < 1e-6


def test_masses_too_small_to_be_exact_do_no_harm():
    mass = random_mixture(2, nside=16) ** 90
    assert (mass == 0).any()
    assert best_points(mass).isfinite().all()
    assert best_points(mass, MEDIAN).isfinite().all()
