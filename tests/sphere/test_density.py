"""Densities against closed forms, scipy, astropy-healpix, and files as other tools read them."""

import math

import numpy as np
import pytest
import torch
from astropy import units
from astropy_healpix import HEALPix
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest
from shapely import Point

from icgeo.sphere import (
    AREA_KM2,
    as_lat_lon,
    distance_km,
    random_rotation,
    sample_cap,
    sample_uniform,
    sample_von_mises_fisher,
    to_lat_lon,
    to_xyz,
    von_mises_fisher_log_prob,
)
from icgeo.sphere.density import Density
from icgeo.sphere.healpix import cell_of, cell_xyz

latitudes = st.one_of(st.sampled_from([-90.0, 0.0, 90.0]), st.floats(-90, 90))
longitudes = st.one_of(st.sampled_from([-180.0, 0.0, 179.9999999]), st.floats(-180, 179.9999999))
places = st.tuples(latitudes, longitudes)
seeds = st.integers(0, 2**31)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_density(seed, nside=16):
    rng = generator(seed)
    mean = to_lat_lon(sample_uniform(3, generator=rng))
    return Density.from_mixture(mean, [3.0, 20.0, 100.0], [0.5, 0.3, 0.2], nside=nside)


def check_is_distribution(density):
    assert density.mass.dtype == torch.float64
    assert (density.mass >= 0).all()
    assert density.mass.sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("nside", [1, 64])
def test_its_text_is_a_line(nside):
    """log(4 pi) = 2.53 nats."""
    assert repr(Density.uniform(nside)) == f"Density(nside={nside}, entropy 2.53 nats)"


@given(places, st.floats(0, 1e6), st.sampled_from([1, 4, 32]))
def test_every_constructor_makes_a_distribution(place, kappa, nside):
    check_is_distribution(Density.uniform(nside))
    check_is_distribution(Density(torch.rand(12 * nside**2)))
    check_is_distribution(Density.from_mixture([place, (0, 0)], [kappa, 1.0], nside=nside))
    check_is_distribution(Density.from_mixture([place], 1e8, nside=nside))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0] * 13, r"12 nside\^2 cells .* got shape \(13,\)"),
        ([1.0] * (12 * 9), "power of two"),
        (np.ones((12, 12)), r"got shape \(12, 12\)"),
        ([], r"got shape \(0,\)"),
        ([0.0] * 12, "at least one positive mass"),
        ([1.0] * 11 + [-1.0], "not negative, got -1 .1 of 12"),
        ([1.0] * 11 + [float("nan")], "got nan"),
        ([1.0] * 11 + [float("inf")], "got inf"),
    ],
)
def test_wrong_masses_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Density(values)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Density.uniform(3), "power of two, got 3"),
        (lambda: Density.from_mixture([(0, 0)], [-1.0]), "every kappa"),
        (lambda: Density.from_mixture([(0, 0)], [1.0, 2.0]), "one kappa, or one for each of 1"),
        (lambda: Density.from_mixture([(0, 0)], [1.0], [0.0]), "positive weight"),
        (lambda: Density.from_mixture(torch.zeros(0, 2), 1.0), "positive weight"),
        (lambda: Density.from_mixture([(99, 0)], [1.0]), "latitude"),
        (lambda: Density.uniform(2).credible_region(0.0), r"in \(0, 1\], got 0"),
        (lambda: Density.uniform(2).credible_area_km2(1.5), r"in \(0, 1\], got 1.5"),
        (lambda: Density.uniform(2).tempered(-1.0), "temperature above 0"),
        (lambda: Density.uniform(2).tempered(0.0), "temperature above 0"),
        (lambda: Density.uniform(2).save("density.csv"), r"\.parquet, got 'density.csv'"),
    ],
)
def test_wrong_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("make", [list, np.array, torch.tensor])
def test_masses_are_lists_arrays_or_tensors(make):
    density = Density(make([1, 3] * 6))
    check_is_distribution(density)
    assert density.mass[:2].tolist() == [1 / 24, 3 / 24]


def test_huge_and_tiny_masses_are_normalised():
    for scale in (1e308, 1e-310):
        check_is_distribution(Density(torch.full((48,), scale, dtype=torch.float64)))


@pytest.mark.parametrize("kappa", [0.0, 1.0, 30.0, 300.0])
def test_log_prob_of_a_kernel_is_von_mises_fishers(kappa):
    """In the mean over the density; the cell's value replaces that of the place inside the cell."""
    place = (-17.0, 179.5)
    density = Density.from_mixture([place], [kappa])
    mean = to_xyz(as_lat_lon(place))
    x = sample_von_mises_fisher(mean.expand(4000, 3), kappa, generator=generator())
    expected = von_mises_fisher_log_prob(x, mean, kappa)
    # within a cell the density falls linearly, which cancels, and by kappa A / 6, which does not
    gap = density.log_prob(to_lat_lon(x)) - expected
    noise = gap.std().item() / math.sqrt(4000)
    assert abs(gap.mean().item()) < 4 * noise + kappa * density.cell_area / 3 + 1e-12


def test_log_prob_of_the_uniform_density():
    log_prob = Density.uniform().log_prob(to_lat_lon(sample_uniform(5, 2)))
    torch.testing.assert_close(log_prob, torch.full((5, 2), -math.log(4 * math.pi)).double())
    assert Density.uniform().log_prob((10, 20)).shape == ()


@given(places, st.floats(0, 5))
@settings(max_examples=30)
def test_mean_and_median_of_a_kernel_are_its_centre(place, log_kappa):
    """At every place, of every width; kernels far narrower than a cell within the cell.

    The search knows far cells by blocks, which moves the flat top of a wide kernel by up to 1 % of
    its standard deviation.
    """
    density = Density.from_mixture([place], [10**log_kappa])
    tolerance = 2 + 64 * 10 ** (-log_kappa / 2) if log_kappa < 3 else 60
    for point in (density.mean(), density.median(), density.best_point()):
        assert distance_km(point, place) < tolerance
    # the farthest corner of a cell is 0.84 sides of 102 km from its centre, next to the poles
    assert distance_km(density.mode(), place) < 102


@given(seeds)
@settings(max_examples=20)
def test_a_rotation_turns_the_mean_and_keeps_the_rest(seed):
    rng = generator(seed)
    mean = sample_cap(sample_uniform(generator=rng).expand(3, 3), 60.0, generator=rng)
    rotation = random_rotation(generator=rng)
    still = Density.from_mixture(to_lat_lon(mean), [5.0, 20.0, 50.0])
    turned = Density.from_mixture(to_lat_lon(mean @ rotation.T), [5.0, 20.0, 50.0])
    check_is_distribution(turned)
    assert distance_km(to_lat_lon(rotation @ to_xyz(still.mean())), turned.mean()) < 1
    assert turned.entropy() == pytest.approx(still.entropy(), abs=1e-3)
    assert turned.credible_area_km2(0.5) == pytest.approx(still.credible_area_km2(0.5), rel=0.02)


def test_components_keep_their_weights():
    """Of 1e6, far narrower than a cell, and of 300; the halves of the sphere part them."""
    density = Density.from_mixture([(3.3, -80.1), (1.2, 95.7)], [1e6, 300.0], [3.0, 1.0])
    west = cell_xyz(64)[:, 1] < 0
    assert density.mass[west].sum().item() == pytest.approx(0.75, abs=1e-12)


def test_samples_are_uniform_inside_cells():
    """In Archimedes' coordinates, and with the moments of the density."""
    x = to_xyz(Density.uniform(1).sample(20_000, generator()))
    for coordinate in x.T:
        assert kstest(coordinate.numpy(), "uniform", args=(-1, 2)).pvalue > 1e-3


@given(seeds)
@settings(max_examples=10)
def test_samples_follow_the_masses(seed):
    density = random_density(seed, nside=2)
    lat_lon = density.sample(5000, generator(seed))
    assert (lat_lon[:, 1] < 180).all()
    drawn = HEALPix(2, order="nested").lonlat_to_healpix(*(lat_lon.flip(-1).T.numpy() * units.deg))
    expected = 5000 * density.mass.numpy()
    excess = (np.bincount(drawn, minlength=48) - expected) ** 2 / np.maximum(expected, 1e-9)
    # chi squared with 47 degrees of freedom exceeds 100 once in 100,000
    assert excess.sum() < 100


def test_cells_without_mass_are_not_drawn():
    mass = torch.zeros(48)
    mass[[7, 30]] = 1.0
    density = Density(mass)
    assert density.log_prob(density.sample(1000, generator())).isfinite().all()
    assert torch.equal(density.sample(5, generator(1)), density.sample(5, generator(1)))


def test_entropy():
    """Uniform: log(4 pi). Von Mises-Fisher: minus the mean of its log-density."""
    assert Density.uniform().entropy() == pytest.approx(math.log(4 * math.pi))
    kappa = 50.0
    log_norm = math.log(kappa / (2 * math.pi * -math.expm1(-2 * kappa)))
    expected = -(log_norm - kappa + kappa / math.tanh(kappa) - 1)
    assert Density.from_mixture([(1, 2)], kappa).entropy() == pytest.approx(expected, abs=1e-2)


def test_credible_area_of_a_kernel():
    """A cap that holds p of a narrow kernel has area `-4 pi R^2 log(1 - p) / (2 kappa)`."""
    density = Density.from_mixture([(-90, 0)], [100.0])
    for p in (0.5, 0.9):
        expected = AREA_KM2 * -math.log(1 - p) / 200
        assert density.credible_area_km2(p) == pytest.approx(expected, rel=0.03)
    assert Density.uniform(4).credible_area_km2(1.0) == pytest.approx(AREA_KM2)


@given(seeds, st.floats(0.01, 1))
def test_credible_sets_are_the_smallest(seed, p):
    """Against cells added one by one from the heaviest."""
    density = random_density(seed, nside=4)
    total, count = 0.0, 0
    for mass in sorted(density.mass.tolist(), reverse=True):
        if total >= min(p, 1 - 1e-12):
            break
        total, count = total + mass, count + 1
    assert density.credible_area_km2(p) == pytest.approx(count * AREA_KM2 / 192, rel=0.02)


@given(seeds, places)
@settings(max_examples=25)
def test_regions_beyond_its_level_hold_a_place(seed, place):
    """Asked of the centre of its cell, which no outline divides."""
    density = random_density(seed, nside=8)
    centre = cell_xyz(8)[cell_of(place, 8)]
    lat, lon = to_lat_lon(centre).tolist()
    level = density.credible_level(place).item()

    def holds(p):
        return density.credible_region(p).geometry.intersects(Point(lon, lat)).any()

    assert holds(min(level + 1e-9, 1.0))
    assert level < 1e-9 or not holds(level)


def test_levels_run_from_zero_to_one():
    mass = torch.zeros(48)
    mass[[7, 30]] = torch.tensor([0.75, 0.25])
    level = Density(mass).credible_level(to_lat_lon(cell_xyz(2)))
    assert level[[7, 30, 0]].tolist() == [0, 0.75, 1]
    assert (level == 1).sum() == 46


def test_levels_of_own_samples_are_uniform():
    """What calibration curves rest on: a P-P plot on the diagonal."""
    density = Density.from_mixture([(40, 10), (0, -170)], [20.0, 100.0])
    level = density.credible_level(density.sample(5000, generator()))
    assert kstest(level.numpy(), "uniform").pvalue > 1e-3
    uniform = Density.uniform(16)
    level = uniform.credible_level(uniform.sample(5000, generator()))
    assert kstest(level.numpy(), "uniform").pvalue > 1e-3


@given(places, st.floats(0, 3), st.sampled_from([0.5, 0.9, 1.0]))
@settings(max_examples=25)
def test_regions_are_valid_maps(place, log_kappa, p):
    density = Density.from_mixture([place], [10**log_kappa], nside=32)
    region = density.credible_region(p)
    assert region.crs == "EPSG:4326"
    assert list(region.columns) == ["mass", "area_km2", "geometry"]
    assert region.is_valid.all()
    west, south, east, north = region.total_bounds
    assert -180 <= west < east <= 180
    assert -90 <= south < north <= 90
    assert region.area_km2.sum() == pytest.approx(density.credible_area_km2(p))
    assert region.mass.sum() >= p - 1e-9
    # the outline's area in the equal-area projection of geopandas, straight sides being 0.5 % off
    drawn = region.to_crs("+proj=cea +R=6371000").area / 1e6
    assert drawn.to_numpy() == pytest.approx(region.area_km2.to_numpy(), rel=0.02)


def test_regions_over_the_pole_and_the_antimeridian():
    pole = Density.from_mixture([(90, 0)], [100.0]).credible_region(0.9)
    assert len(pole) == 1
    assert pole.total_bounds[[0, 2, 3]].tolist() == [-180, 180, 90]
    across = Density.from_mixture([(-17, 180)], [100.0]).credible_region(0.9)
    assert len(across) == 1
    assert across.geometry[0].geom_type == "MultiPolygon"
    assert across.total_bounds[[0, 2]].tolist() == [-180, 180]
    # no polygon runs around the globe
    assert (across.explode().bounds.maxx - across.explode().bounds.minx < 30).all()


def test_regions_come_in_parts_the_heaviest_first():
    density = Density.from_mixture([(48, 2), (-34, 151)], [1000.0, 1000.0], [0.3, 0.7])
    region = density.credible_region(0.9)
    assert region.mass.is_monotonic_decreasing
    assert region.geometry[0].contains(Point(151, -34))
    assert region.geometry[1].contains(Point(2, 48))


def product_of(*densities):
    return Density.from_log_mass(sum(density.mass.log() for density in densities))


def test_products_and_powers_of_kernels():
    """Kernels around one place: kappas add in a product and scale with the power."""
    place = [(20, 30)]
    one, other = (Density.from_mixture(place, kappa) for kappa in (10.0, 30.0))
    expected = Density.from_mixture(place, 40.0)
    # kernels are widened by the cell, 1 / (1 + kappa A / 12), by 1e-3 at kappa 40
    product = product_of(one, other)
    torch.testing.assert_close(product.mass, expected.mass, rtol=0.05, atol=1e-9)
    torch.testing.assert_close(one.tempered(0.25).mass, expected.mass, rtol=0.05, atol=1e-9)
    torch.testing.assert_close(one.tempered(math.inf).mass, Density.uniform().mass)


@given(seeds)
def test_products_and_powers_obey_their_algebra(seed):
    a, b = random_density(seed, nside=4), random_density(seed + 1, nside=4)
    torch.testing.assert_close(product_of(a, b).mass, product_of(b, a).mass)
    torch.testing.assert_close(product_of(a, a).mass, a.tempered(0.5).mass)
    torch.testing.assert_close(product_of(a, Density.uniform(4)).mass, a.mass)
    torch.testing.assert_close(a.tempered(2.0).tempered(0.5).mass, a.mass)


def test_narrow_kernels_far_apart_do_not_underflow():
    here, there = (Density.from_mixture([(0, lon)], 900.0) for lon in (0, 40))
    assert distance_km(product_of(here, there).mean(), (0, 20)) < 20


def test_disjoint_densities_have_no_product():
    halves = torch.eye(2).repeat_interleave(24, dim=1)
    with pytest.raises(ValueError, match="overlap"):
        product_of(Density(halves[0]), Density(halves[1]))


@given(places)
@settings(max_examples=20)
def test_maps_integrate_to_one_and_peak_at_their_place(place):
    density = Density.from_mixture([place, (10, 20)], [30.0, 5.0])
    image = density.to_equirectangular(256)
    assert image.shape == (256, 512)
    edges = torch.sin(torch.deg2rad(torch.linspace(90, -90, 257, dtype=torch.float64)))
    pixel_area = -edges.diff()[:, None] * 2 * math.pi / 512
    assert (image * pixel_area).sum().item() == pytest.approx(1, abs=3e-3)
    row, column = divmod(image.argmax().item(), 512)
    pixel = (90 - (row + 0.5) * 180 / 256, (column + 0.5) * 360 / 512 - 180)
    # half a cell and half a pixel, of 102 and 78 km
    assert distance_km(pixel, density.mode()) < 150
