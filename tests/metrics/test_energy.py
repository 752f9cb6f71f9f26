"""The energy score against closed forms, its form over hemispheres, samples; it is proper."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate

from icgeo.metrics import densities
from icgeo.metrics.densities import energy_score
from icgeo.sphere import distance_km, sample_uniform, to_lat_lon, to_xyz
from icgeo.sphere.density import Density
from icgeo.sphere.healpix import mean_vectors

RADIUS = 6371.0
PLACES = [(41.0, 23.0), (-80.0, 170.0)]


def kernel(kappa=30.0, *, floor=0.1, nside=16):
    return Density.from_mixture([(40, 20), (0, 0)], [kappa, 0], [1 - floor, floor], nside=nside)


def test_uniform_density_has_a_quarter_of_half_way_around():
    """E d = pi R / 2 to any place and between two draws, so that pi R / 4 remains."""
    scores = energy_score(Density.uniform(16), PLACES)
    assert scores.tolist() == pytest.approx([math.pi / 4 * RADIUS] * 2, rel=0.005)


def test_narrow_density_has_the_error_of_its_point():
    narrow = Density.from_mixture([PLACES[0]], 1e6, nside=64)
    assert energy_score(narrow, PLACES[1]).item() == pytest.approx(
        distance_km(*PLACES).item(), rel=0.005
    )


def test_von_mises_fisher_at_its_mean_against_an_integral():
    """E d by the density of the angle; the spread by that of two draws, 3 million pairs."""
    kappa = 30.0
    exact = integrate.quad(
        lambda a: a * kappa * math.exp(kappa * (math.cos(a) - 1)) * math.sin(a), 0, math.pi
    )[0]
    density = Density.from_mixture([PLACES[0]], kappa, nside=16)
    samples = density.sample(2000, torch.Generator().manual_seed(0))
    spread = torch.cat([distance_km(part[:, None], samples) for part in samples.split(200)]).mean()
    expected = RADIUS * exact - spread.item() / 2
    assert energy_score(density, PLACES[0]).item() == pytest.approx(expected, rel=0.02)


def test_equals_the_mean_over_hemispheres():
    """Crofton: pi R E_h (F(h) - [y in h])^2, the CRPS with half-spaces for half-lines."""
    density, truth = kernel(nside=8), to_xyz(torch.tensor(PLACES, dtype=torch.float64))
    samples = to_xyz(density.sample(2000, torch.Generator().manual_seed(0)))
    poles = sample_uniform(8_000, generator=torch.Generator().manual_seed(1))
    inside = torch.cat([(part @ samples.T > 0).double().mean(1) for part in poles.split(2000)])
    gaps = (inside[:, None] - (poles @ truth.T > 0).double()).square()
    expected = math.pi * RADIUS * gaps.mean(0)
    assert energy_score(density, PLACES).tolist() == pytest.approx(expected.tolist(), rel=0.04)


@pytest.mark.parametrize("density", [kernel(), kernel(300, floor=0.5), kernel(3, floor=0)])
def test_patches_agree_with_all_cells(density):
    """Within the 1 % that the docstring states."""
    exact = energy_score(density, PLACES, resolution=None)
    assert energy_score(density, PLACES).tolist() == pytest.approx(exact.tolist(), rel=0.01)


def test_patches_keep_the_mass_and_its_moment():
    density = kernel()
    vector = mean_vectors(16).numpy()
    held, middle = densities._patches(density.mass.numpy(), vector, 1 / 128)
    assert held.sum() == pytest.approx(1)
    assert len(held) < 700
    assert held @ middle == pytest.approx(density.mass.numpy() @ vector)


def test_any_chunk_size_gives_the_same(monkeypatch):
    density = kernel(nside=8)
    whole = energy_score(density, PLACES)
    monkeypatch.setattr(densities, "_PAIRS_AT_ONCE", 130)
    assert energy_score(density, PLACES).tolist() == pytest.approx(whole.tolist(), rel=1e-12)


def test_truth_has_the_least_expected_score():
    """Proper: among wider, narrower, moved and floored forecasts, the truth is best."""
    truth = kernel(30, floor=0.1)
    places = truth.sample(400, torch.Generator().manual_seed(0))
    moved = Density.from_mixture([(50, 20), (0, 0)], [30, 0], [0.9, 0.1], nside=16)
    others = [
        kernel(8),
        kernel(200),
        kernel(floor=0.3),
        kernel(floor=0),
        moved,
        Density.uniform(16),
    ]
    best = energy_score(truth, places)
    assert all((energy_score(other, places) - best).mean() > 0 for other in others)


def test_expected_score_of_a_wrong_forecast_exceeds_that_of_the_truth_exactly():
    """Over all cells the excess is E d(X, Y) - E d(X, X') / 2 - E d(Y, Y') / 2, never negative."""
    cells = mean_vectors(4).numpy()
    kernel = densities._angles(cells, cells)
    rng = np.random.default_rng(0)
    gaps = np.diff(rng.dirichlet(np.full(len(cells), 0.05), size=40), axis=0)
    excess = -np.einsum("ni,ij,nj->n", gaps, kernel, gaps) / 2
    assert (excess > 0).all()


def test_antipodal_pairs_of_any_axis_score_alike():
    """Why the score is not strictly proper; to the extent of the cells."""
    xyz = sample_uniform(2, generator=torch.Generator().manual_seed(0))
    pairs = [Density.from_mixture(to_lat_lon(torch.stack((a, -a))), 1e6, nside=64) for a in xyz]
    scores = [energy_score(pair, PLACES[0]).item() for pair in pairs]
    assert scores == pytest.approx([math.pi / 4 * RADIUS] * 2, rel=0.005)
