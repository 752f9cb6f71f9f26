"""Densities with cells of several orders."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from icgeo import sphere
from icgeo.sphere.density import Density
from icgeo.sphere.multi_order import MultiOrderDensity

PLACES = st.tuples(st.floats(-90, 90), st.floats(-180, 179.9))
SIGMAS = st.floats(0.02, 3.0)


def _one(place=(48.9, 2.4), sigma=0.1, weight=0.9, base=None):
    return MultiOrderDensity.refined(base or Density.uniform(64), [place], [sigma], [weight])


@settings(max_examples=12)
@given(places=st.lists(PLACES, min_size=1, max_size=3), sigma=SIGMAS, weight=st.floats(0, 1))
def test_kernels_keep_their_mass_and_the_base_the_rest(places, sigma, weight):
    base = Density.from_mixture([[-30.0, 60.0]], 5.0)
    share = weight / len(places)
    density = MultiOrderDensity.refined(base, places, sigma, [share] * len(places))
    assert density.cell_mass.sum().item() == pytest.approx(1)
    assert density.areas.sum().item() == pytest.approx(4 * math.pi)
    assert density.mass.sum().item() == pytest.approx(1)
    xyz = sphere.to_xyz(torch.tensor(places, dtype=torch.float64))
    far = sphere.angle(density._vectors[:, None], xyz).min(1).values > math.radians(5 * sigma + 3)
    # far from all kernels each cell is that of the base
    kept = far & (density.sides == 64)
    cells = density.uniq[kept] - 4 * 64**2
    assert torch.allclose(density.cell_mass[kept], (1 - weight) * base.mass[cells], atol=1e-9)


@settings(max_examples=12)
@given(place=PLACES, sigma=SIGMAS)
def test_log_prob_is_that_of_the_kernel(place, sigma):
    density = _one(place, sigma, 1.0)
    kappa = 1 / math.radians(sigma) ** 2
    expected = math.log(kappa / (2 * math.pi))  # at the mean, of a narrow kernel
    assert density.log_prob(place).item() == pytest.approx(expected, abs=0.35)
    # a normal distribution in two dimensions
    assert density.entropy() == pytest.approx(1 + math.log(2 * math.pi / kappa), abs=0.15)
    radius = math.radians(sigma) * math.sqrt(-2 * math.log(0.1))
    km2 = math.pi * radius**2 * sphere.EARTH_RADIUS_KM**2
    assert density.credible_area_km2(0.9) == pytest.approx(km2, rel=0.25)


@settings(max_examples=8)
@given(place=PLACES, sigma=st.floats(0.02, 1.0))
def test_points_lie_at_the_kernel(place, sigma):
    density = _one(place, sigma, 0.95)
    least = sphere.EARTH_RADIUS_KM * math.radians(sigma)
    for point in (density.mode(), density.best_point(), density.median()):
        assert sphere.distance_km(point, place).item() < 0.8 * least


@settings(max_examples=10)
@given(nside=st.sampled_from((1, 4, 64)), seed=st.integers(0, 99))
def test_even_cells_are_as_a_density(nside, seed):
    generator = torch.Generator().manual_seed(seed)
    even = Density(torch.rand(12 * nside**2, generator=generator, dtype=torch.float64))
    same = MultiOrderDensity(4 * nside**2 + torch.arange(12 * nside**2), even.mass)
    places = sphere.to_lat_lon(sphere.sample_uniform(50, generator=generator))
    assert torch.allclose(same.log_prob(places), even.log_prob(places))
    assert torch.allclose(same.credible_level(places), even.credible_level(places))
    assert same.entropy() == pytest.approx(even.entropy())
    assert same.credible_area_km2(0.7) == pytest.approx(even.credible_area_km2(0.7))
    assert torch.allclose(same.mean(), even.mean(), atol=1e-6)
    assert torch.allclose(same.tempered(2.0).cell_mass, even.tempered(2.0).mass)
    assert same.probability_within("FR") == pytest.approx(even.probability_within("FR"), abs=1e-6)


def test_samples_follow_the_cells():
    density = _one(sigma=0.5, weight=0.7)
    places = density.sample(4000, torch.Generator().manual_seed(0))
    near = sphere.distance_km(places, (48.9, 2.4)) < 3 * 55.6 * math.sqrt(2)
    assert near.double().mean().item() == pytest.approx(0.7, abs=0.03)
    level = density.credible_level(places)
    # the levels of samples are uniform
    assert (level < 0.5).double().mean().item() == pytest.approx(0.5, abs=0.04)


def test_a_region_outlines_cells_of_several_orders():
    import shapely

    density = _one((10.0, 179.95), 0.3, 0.95)
    region = density.credible_region(0.9)
    assert region["mass"].sum() == pytest.approx(0.9, abs=0.02)
    assert region.geometry.is_valid.all()
    assert region["area_km2"].sum() == pytest.approx(density.credible_area_km2(0.9), rel=1e-6)
    whole = shapely.union_all(region.geometry)
    west, _, east, _ = whole.bounds
    assert (west, east) == (-180, 180)  # cut at the antimeridian
    inside = (
        whole.area / (np.degrees(1) ** 2) * sphere.EARTH_RADIUS_KM**2 * math.cos(math.radians(10))
    )
    assert inside == pytest.approx(density.credible_area_km2(0.9), rel=0.02)


@pytest.mark.parametrize("name", ["a.multiorder.fits", "a.parquet"])
def test_files_keep_the_cells(tmp_path, name):
    density = _one()
    density.save(tmp_path / name)
    again = MultiOrderDensity.load(tmp_path / name)
    assert torch.equal(again.uniq, density.uniq)
    assert torch.allclose(again.cell_mass, density.cell_mass)
    even = Density.load(tmp_path / name)  # spread over cells of nside 1024 at most
    assert even.probability_within("FR") == pytest.approx(
        density.probability_within("FR"), abs=0.01
    )


def test_a_window_in_a_geotiff(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    density = _one(sigma=0.2, weight=1.0)
    density.to_geotiff(tmp_path / "w.tif", bounds=(47.9, 1.4, 49.9, 3.4), height=100)
    with rasterio.open(tmp_path / "w.tif") as raster:
        values = raster.read(1)
        assert raster.crs.to_epsg() == 4326
        row, column = np.unravel_index(values.argmax(), values.shape)
        lon, lat = raster.xy(row, column)
    assert (lat, lon) == pytest.approx((48.9, 2.4), abs=0.2)
    rows = np.radians(49.9 - 0.02 * (np.arange(100) + 0.5))
    area = np.radians(0.02) ** 2 * np.cos(rows)[:, None]
    assert (values * area).sum() == pytest.approx(1, abs=0.01)
    with pytest.raises(ValueError, match="antimeridian"):
        density.to_geotiff(tmp_path / "w.tif", bounds=(47.9, 170.0, 49.9, -170.0))


def test_a_product_is_bayes_rule():
    density = _one(sigma=0.2, weight=0.5)
    inside = density * Density.from_region("FR")
    assert inside.probability_within("FR") == pytest.approx(1, abs=0.01)
    assert inside.log_prob((48.9, 2.4)) > density.log_prob((48.9, 2.4))
    back = Density.from_region("FR") * density
    assert isinstance(back, MultiOrderDensity)
    assert torch.allclose(back.cell_mass, inside.cell_mass)


def test_cells_must_cover_the_sphere_once():
    base = 4 + torch.arange(12)
    children = 16 + torch.arange(4)
    MultiOrderDensity(torch.cat((base[1:], children)), torch.ones(15))
    for wrong in (base[1:], torch.cat((base, children)), torch.cat((base[1:], children[1:]))):
        with pytest.raises(ValueError, match="cover the sphere once"):
            MultiOrderDensity(wrong, torch.ones(len(wrong)))
