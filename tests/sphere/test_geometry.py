"""Geometry against pyproj, scipy and closed forms, over the whole sphere with its poles."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Geod
from scipy.integrate import quad
from scipy.stats import kstest, vonmises_fisher

from icgeo.sphere import (
    AREA_KM2,
    EARTH_RADIUS_KM,
    angle,
    as_lat_lon,
    distance_km,
    exp_map,
    fibonacci_grid,
    kappa_of_length,
    log_map,
    north_east,
    random_rotation,
    sample_cap,
    sample_uniform,
    sample_von_mises_fisher,
    spherical_mean,
    to_lat_lon,
    to_xyz,
    von_mises_fisher_log_prob,
    wrap_longitude,
)

# the hard places come up often: poles, antimeridian, equator
latitudes = st.one_of(st.sampled_from([-90.0, 0.0, 90.0]), st.floats(-90, 90))
longitudes = st.one_of(st.sampled_from([-180.0, 0.0, 179.9999999]), st.floats(-180, 179.9999999))
locations = st.tuples(latitudes, longitudes).map(lambda x: torch.tensor(x, dtype=torch.float64))
points = locations.map(to_xyz)
seeds = st.integers(0, 2**31)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@given(locations)
def test_lat_lon_survives_xyz(lat_lon):
    back = to_lat_lon(to_xyz(lat_lon))
    assert -90 <= back[0] <= 90
    assert -180 <= back[1] < 180
    # longitude means nothing at a pole, so compare places: 1e-9 km is some rounding steps
    assert distance_km(back, lat_lon) < 1e-8


@given(points, st.floats(1e-3, 1e3))
def test_xyz_survives_lat_lon_at_any_length(xyz, length):
    torch.testing.assert_close(to_xyz(to_lat_lon(length * xyz)), xyz, atol=1e-14, rtol=0)


def test_known_axes():
    axes = to_xyz(as_lat_lon([[0, 0], [0, 90], [90, 17], [0, -180]]))
    expected = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [-1, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(axes, expected, atol=1e-15, rtol=0)


@given(st.floats(-360, 360), st.sampled_from([torch.float32, torch.float64]))
def test_wrapped_longitudes_are_in_range_and_congruent(lon, dtype):
    lon = torch.tensor(lon, dtype=dtype)
    wrapped = wrap_longitude(lon)
    assert -180 <= wrapped < 180
    turns = ((wrapped - lon) / 360).double()
    assert abs(turns - turns.round()) < 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_number_below_the_antimeridian_stays_in_range(dtype):
    below = torch.nextafter(torch.tensor(-180, dtype=dtype), torch.tensor(-400, dtype=dtype))
    assert -180 <= wrap_longitude(below) < 180


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([139.7, 35.6], "latitude in .* got 139.7.* swapped"),
        ([0.0, 400.0], "longitude in .* got 400"),
        ([float("nan"), 0.0], "latitude"),
        ([0.0, float("nan")], "longitude"),
        ([1.0, 2.0, 3.0], "last dimension of 2"),
        (3.0, "last dimension of 2"),
    ],
)
def test_wrong_locations_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        as_lat_lon(values)


def test_locations_come_in_many_forms():
    frozen = np.array([[10.0, 20.0]])
    frozen.flags.writeable = False
    forms = [(10, 20), [10, 20.0], np.float32([10, 20]), torch.tensor([10, -340]), frozen[0]]
    for form in forms:
        lat_lon = as_lat_lon(form)
        assert lat_lon.is_floating_point()
        assert lat_lon.tolist() == [10, 20]


@given(points, points, seeds)
def test_angles_are_symmetric_and_do_not_turn(a, b, seed):
    rotation = random_rotation(generator=generator(seed))
    assert angle(a, b) == angle(b, a)
    assert 0 <= angle(a, b) <= math.pi
    assert abs(angle(rotation @ a, rotation @ b) - angle(a, b)) < 1e-14


@given(points)
def test_coincident_and_antipodal_points(a):
    assert angle(a, a) == 0
    assert angle(a, -a) == pytest.approx(math.pi, abs=1e-15)
    near = exp_map(a, 1e-10 * north_east(a)[1])
    assert angle(a, near).item() == pytest.approx(1e-10, abs=3e-16)


def test_float32_keeps_close_points_apart():
    """A metre at 50 degrees north; `acos(a . b)` gives 0 or hundreds of metres here."""
    a, b = torch.tensor([[50.0, 0.0], [50.00001, 0.0]], dtype=torch.float32)
    # one step of float32 in a coordinate is 0.4 m
    assert distance_km(a, b).item() == pytest.approx(1.1e-3, abs=0.8e-3)


def test_distances_broadcast():
    one, many = (0.0, 0.0), [[0.0, 1.0], [0.0, 2.0]]
    degree = EARTH_RADIUS_KM * math.pi / 180
    for distance in (distance_km(one, many), distance_km(many, one)):
        assert distance.tolist() == pytest.approx([degree, 2 * degree])


def test_gap_to_the_ellipsoid():
    """Geodesics of pyproj on WGS84: the sphere errs by at most 0.57 %.

    The radius of curvature runs from 6335.4 km (meridian, equator) to 6399.6 km (poles) around
    6371 km, so short distances err by 0.56 % at the equator; 0.01 % more allows for long ones.
    """
    a, b = to_lat_lon(sample_uniform(2, 5000, generator=generator()))
    short = to_lat_lon(exp_map(to_xyz(a), 1e-3 * north_east(to_xyz(a))[0]))
    b = torch.cat((b, short))
    a = torch.cat((a, a))
    (lat_a, lon_a), (lat_b, lon_b) = a.T.numpy(), b.T.numpy()
    geodesic = Geod(ellps="WGS84").inv(lon_a, lat_a, lon_b, lat_b)[2] / 1000
    gap = (distance_km(a, b) / torch.from_numpy(geodesic) - 1).abs().max().item()
    assert 0.005 < gap < 0.0057


@given(points)
def test_north_and_east_are_a_right_handed_frame(xyz):
    north, east = north_east(xyz)
    frame = torch.stack((east, north, xyz))
    torch.testing.assert_close(frame @ frame.T, torch.eye(3, dtype=torch.float64))
    assert torch.linalg.det(frame).item() == pytest.approx(1)


@given(points, points)
def test_exp_inverts_log(base, point):
    tangent = log_map(base, point)
    assert abs(base @ tangent) < 1e-14
    assert tangent.norm().item() == pytest.approx(angle(base, point).item(), abs=1e-14)
    # beside the antipode the direction is lost to rounding, up to the threshold of log_map
    torch.testing.assert_close(exp_map(base, tangent), point, atol=1e-14, rtol=0)


@given(points, st.floats(0, 3.14159), st.floats(0, 2 * math.pi))
def test_log_inverts_exp(base, length, azimuth):
    north, east = north_east(base)
    tangent = length * (math.cos(azimuth) * north + math.sin(azimuth) * east)
    back = log_map(base, exp_map(base, tangent))
    # close to the antipode a rounding error of the point turns the direction
    tolerance = 1e-14 + 1e-15 / max(math.pi - length, 1e-6)
    torch.testing.assert_close(back, tangent, atol=tolerance, rtol=0)


def test_log_map_to_the_antipode_goes_north():
    point = sample_uniform(200, generator=generator())
    expected = math.pi * north_east(point)[0]
    torch.testing.assert_close(log_map(point, -point), expected)


@given(st.floats(-2, 3))
def test_kappa_of_the_length_that_a_kappa_gives(log_kappa):
    """The length is coth(kappa) - 1 / kappa (Mardia and Jupp 2000, eq. 9.3.9); theirs is near."""
    kappa = 10**log_kappa
    length = 1 / math.tanh(kappa) - 1 / kappa
    assert kappa_of_length(length) == pytest.approx(kappa, rel=0.05)
    assert kappa_of_length(length, most=0.005) == 0.005


@given(st.floats(-6, 6), seeds)
def test_von_mises_fisher_log_prob_against_scipy(log_kappa, seed):
    kappa = 10**log_kappa
    mean = sample_uniform(generator=generator(seed))
    x = sample_von_mises_fisher(mean.expand(20, 3), kappa, generator=generator(seed))
    expected = vonmises_fisher(mean.numpy(), kappa).logpdf(x.numpy())
    # scipy computes kappa mean . x, which loses kappa eps
    torch.testing.assert_close(
        von_mises_fisher_log_prob(x, mean, kappa),
        torch.from_numpy(expected),
        atol=1e-8 + 1e-15 * kappa,
        rtol=0,
    )


@pytest.mark.parametrize("kappa", [0.0, 1e-13, 1e-6, 1.0, 100.0, 1e4, 1e6])
def test_von_mises_fisher_integrates_to_one(kappa):
    """Gauss-Kronrod over the fall `1 - cos`, split where the mass ends."""
    mean = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)

    def density(fall):
        x = torch.tensor([math.sqrt(fall * (2 - fall)), 0, 1 - fall], dtype=torch.float64)
        return 2 * math.pi * von_mises_fisher_log_prob(x, mean, kappa).exp().item()

    end = min(2.0, 40 / max(kappa, 1e-9))
    total = quad(density, 0, end, epsabs=1e-10, limit=200)[0]
    # 1 - fall keeps 1e-16 / fall of a fall of 1e-6
    assert total == pytest.approx(1, abs=1e-8)


def test_von_mises_fisher_at_kappa_zero_is_uniform():
    x, mean = sample_uniform(2, 50, generator=generator())
    expected = torch.full((50,), -math.log(4 * math.pi), dtype=torch.float64)
    torch.testing.assert_close(von_mises_fisher_log_prob(x, mean, 0.0), expected)


@pytest.mark.parametrize("kappa", [0.0, 0.5, 5.0, 1e3, 1e6])
def test_von_mises_fisher_samples(kappa):
    """Mean resultant length coth(kappa) - 1 / kappa (Mardia and Jupp 2000, eq. 9.3.8)."""
    mean = to_xyz(as_lat_lon([-90.0, 0.0]))
    x = sample_von_mises_fisher(mean.expand(20_000, 3), kappa, generator=generator())
    torch.testing.assert_close(x.norm(dim=-1), torch.ones(20_000, dtype=torch.float64))
    along = x @ mean
    expected = 1 / math.tanh(kappa) - 1 / kappa if kappa else 0.0
    # four standard errors
    assert abs(along.mean() - expected) < 4 * along.std() / math.sqrt(20_000)
    azimuth = torch.atan2(x[:, 1], x[:, 0]) / (2 * math.pi) + 0.5
    assert kstest(azimuth.numpy(), "uniform").pvalue > 1e-3


def test_samples_are_uniform_over_the_sphere():
    """Archimedes: each coordinate of a uniform point is uniform on [-1, 1]."""
    x = sample_uniform(100, 200, generator=generator())
    assert x.shape == (100, 200, 3)
    for coordinate in x.reshape(-1, 3).T:
        assert kstest(coordinate.numpy(), "uniform", args=(-1, 2)).pvalue > 1e-3


@given(points, st.floats(1e-3, 180), seeds)
def test_cap_samples_stay_within_the_cap(centre, radius, seed):
    x = sample_cap(centre.expand(50, 3), radius, generator=generator(seed))
    assert torch.rad2deg(angle(x, centre)).max() <= radius * (1 + 1e-12)


def test_cap_samples_are_uniform():
    centre = to_xyz(as_lat_lon([35.0, 179.0]))
    x = sample_cap(centre.expand(20_000, 3), 40.0, generator=generator())
    fall = (1 - x @ centre) / (1 - math.cos(math.radians(40)))
    assert kstest(fall.numpy(), "uniform").pvalue > 1e-3


def test_rotations_are_proper_and_uniform():
    rotation = random_rotation(20_000, generator=generator())
    eye = torch.eye(3, dtype=torch.float64).expand_as(rotation)
    torch.testing.assert_close(rotation @ rotation.mT, eye)
    torch.testing.assert_close(torch.linalg.det(rotation), eye[:, 0, 0])
    # of a uniform rotation each entry is uniform on [-1, 1], and the angle has density 1 - cos
    assert kstest(rotation[:, 1, 2].numpy(), "uniform", args=(-1, 2)).pvalue > 1e-3
    turn = torch.acos((rotation.diagonal(dim1=1, dim2=2).sum(-1) - 1) / 2)
    assert kstest(((turn - turn.sin()) / math.pi).numpy(), "uniform").pvalue > 1e-3


def test_same_seed_same_samples():
    draws = [sample_uniform(4, generator=generator(3)) for _ in range(2)]
    assert torch.equal(*draws)


@given(seeds)
def test_spherical_mean_turns_with_its_points(seed):
    rng = generator(seed)
    x = sample_cap(sample_uniform(generator=rng).expand(7, 3), 50.0, generator=rng)
    weight = torch.rand(7, generator=rng, dtype=torch.float64)
    rotation = random_rotation(generator=rng)
    turned = spherical_mean(x @ rotation.T, weight)
    torch.testing.assert_close(turned, rotation @ spherical_mean(x, weight))


def test_spherical_mean_across_the_antimeridian_and_the_pole():
    antimeridian = to_xyz(as_lat_lon([[10, 170], [10, -170]]))
    assert abs(to_lat_lon(spherical_mean(antimeridian))[1]) == pytest.approx(180)
    pole = to_xyz(as_lat_lon([[80, 0], [80, 120], [80, -120]]))
    assert to_lat_lon(spherical_mean(pole))[0] == pytest.approx(90, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_spherical_mean_of_antipodes_is_the_heaviest(dtype):
    x = sample_uniform(generator=generator(), dtype=dtype)
    weights = torch.tensor([1.0, 1.0, 0.0], dtype=dtype)
    assert torch.equal(spherical_mean(torch.stack((x, -x, x)), weights), x)


def test_area_of_the_earth():
    """5.101e8 km2 (CIA World Factbook: 510,072,000 km2)."""
    assert pytest.approx(510_072_000, rel=1e-4) == AREA_KM2


@pytest.mark.parametrize("count", [12, 101])
def test_points_of_a_fibonacci_grid_are_evenly_apart(count):
    """No point's nearest neighbour is closer than 0.75 or farther than 1.1 of sqrt(4 pi / n)."""
    xyz = fibonacci_grid(count)
    torch.testing.assert_close(xyz.norm(dim=-1), torch.ones(count).double())
    angles = torch.cdist(xyz, xyz) + 9 * torch.eye(count)
    spacing = angles.min(dim=-1).values / math.sqrt(4 * math.pi / count)
    assert spacing.min() > 0.75
    assert spacing.max() < 1.1
