"""Smoothing of sequences against all paths one by one, and against what must hold."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from astropy_healpix import HEALPix
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

from icgeo.sphere import EARTH_RADIUS_KM, distance_km, sample_uniform, to_lat_lon
from icgeo.sphere.density import Density
from icgeo.sphere.healpix import cell_xyz
from icgeo.travel import frame_temperature, mixture, smooth

HOUR = 3600.0


def floored(density, weight):
    """Mix with the uniform density, which gets `weight`."""
    return Density((1 - weight) * density.mass + weight / len(density.mass))


def random_density(seed, nside):
    generator = torch.Generator().manual_seed(seed)
    mean = to_lat_lon(sample_uniform(2, generator=generator))
    peaks = Density.from_mixture(mean, [2.0, 15.0], [0.6, 0.4], nside=nside)
    return floored(peaks, 0.05)


def near(place, nside=64, kappa=400.0):
    return floored(Density.from_mixture([place], kappa, nside=nside), 1e-3)


def speed(sides, nside):
    """Limit in km/h that is so many sides of a cell in an hour."""
    return sides * math.sqrt(math.pi / 3) / nside * EARTH_RADIUS_KM


def chances(nside, sides, prior):
    """Dense transition matrix [from, to] of a reach of at least one side of a cell.

    Pairs of cells by the chance that places in them are within reach, scaled to the prior in turn
    by rows and by columns (Sinkhorn 1967).
    """
    lon, lat = HEALPix(nside, order="nested").healpix_to_lonlat(np.arange(12 * nside**2))
    x, y, z = np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)
    xyz = np.stack((x.value, y.value, z.value))
    side = math.sqrt(4 * math.pi / len(prior))
    joint = ndtr((sides * side - np.arccos(np.clip(xyz.T @ xyz, -1, 1))) / (side / math.sqrt(6)))
    np.fill_diagonal(joint, 1)
    for _ in range(200):
        joint *= (prior / joint.sum(1))[:, None]
        joint *= prior / joint.sum(0)
    return joint / prior[:, None]


def by_all_paths(frames, moves, prior, power):
    """Marginals of each frame: the sum over every path of cells, one after the other."""
    likelihoods = [(frame / prior) ** power for frame in frames]
    total = np.zeros((len(frames), len(prior)))
    for path in product(range(len(prior)), repeat=len(frames)):
        weight = prior[path[0]]
        for here, there, move in zip(path, path[1:], moves, strict=False):
            weight *= move[here, there]
        for cell, likelihood in zip(path, likelihoods, strict=True):
            weight *= likelihood[cell]
        for frame, cell in enumerate(path):
            total[frame, cell] += weight
    return total / total.sum(1, keepdims=True)


@pytest.mark.parametrize(("slow", "power"), [(False, 1.0), (True, 0.4)])
def test_four_frames_by_all_20736_paths(slow, power):
    """At nside 1; a reach below the size of a cell moves in proportion, or stays."""
    frames = [random_density(seed, 1) for seed in range(4)]
    sides = 0.3 if slow else 1.2
    prior = np.full(12, 1 / 12)
    move = chances(1, max(1, sides), prior)
    if slow:
        move = 0.7 * np.eye(12) + 0.3 * move
    expected = by_all_paths([frame.mass.numpy() for frame in frames], 3 * [move], prior, power)
    hours = [0, HOUR, 2 * HOUR, 3 * HOUR]
    smoothed = smooth(frames, hours, speed_kmh=speed(sides, 1), temperature=1 / power)
    np.testing.assert_allclose(torch.stack([d.mass for d in smoothed]), expected, rtol=1e-4)


def test_matrices_at_nside_4():
    """Products of dense matrices, gaps of their own, times from any moment on."""
    frames = [random_density(seed, 4) for seed in range(4)]
    flat = np.full(192, 1 / 192)
    moves = [chances(4, sides, flat) for sides in (1.0, 2.5, 1.6)]
    columns = [frame.mass.numpy() ** 0.6 for frame in frames]
    hours = np.cumsum([7.0, 1.0, 2.5, 1.6])
    smoothed = smooth(frames, list(hours * HOUR), speed_kmh=speed(1, 4), temperature=1 / 0.6)
    for i, density in enumerate(smoothed):
        past, future = flat * columns[0], np.ones(192)
        for move, column in zip(moves[:i], columns[1:], strict=False):
            past = (past @ move) * column
        for move, column in list(zip(moves, columns[1:], strict=True))[i:][::-1]:
            future = move @ (column * future)
        np.testing.assert_allclose(density.mass, past * future / (past @ future), rtol=1e-4)


@pytest.mark.parametrize("sides", [0.01, 0.7, 2.4, 9.0, 20.0])
def test_silent_frames_change_nothing(sides):
    """However long they last, and in whichever grid they are reckoned."""
    flat = Density.uniform(8)
    hours = [HOUR * i for i in range(12)]
    for density in smooth(12 * [flat], hours, speed_kmh=speed(sides, 8)):
        torch.testing.assert_close(density.mass, flat.mass, rtol=1e-4, atol=0)


@pytest.mark.parametrize("sides", [3.0, 5.0, 7.0, 20.0])
def test_after_a_known_frame_the_next_is_in_a_cap(sides):
    """Grids differ by the reach; half a side of a cell blurs its edge, and that cap's moments."""
    place, reach_km = (40.0, 170.0), speed(sides, 16)
    frames = [near(place, nside=16, kappa=1e5), Density.uniform(16)]
    _, smoothed = smooth(frames, [0, HOUR], speed_kmh=reach_km)
    away = distance_km(place, to_lat_lon(cell_xyz(16)))
    # 0.5 % is the floor of the first frame; a cell has at most a third of the reach as its side
    assert smoothed.mass[away > 4 / 3 * reach_km].sum() < 0.03
    radians = reach_km / EARTH_RADIUS_KM
    mean = (math.sin(radians) - radians * math.cos(radians)) / (1 - math.cos(radians))
    assert (smoothed.mass @ away).item() == pytest.approx(mean * EARTH_RADIUS_KM, rel=0.1)


def test_at_one_place_likelihoods_multiply():
    frames = [random_density(seed, 8) for seed in range(3)]
    expected = Density.from_log_mass(sum(frame.mass.log() for frame in frames)).tempered(2.0)
    for density in smooth(frames, [0, 9, 99], speed_kmh=0, temperature=2.0):
        torch.testing.assert_close(density.mass, expected.mass)


@pytest.mark.parametrize("limit", [math.inf, 1e6])
def test_without_a_limit_frames_stay_as_they_are(limit):
    frames = [random_density(seed, 8) for seed in range(3)]
    for before, after in zip(
        frames, smooth(frames, [0, HOUR, 2 * HOUR], speed_kmh=limit), strict=True
    ):
        torch.testing.assert_close(after.mass, before.mass)


@settings(max_examples=5)
@given(st.integers(0, 999), st.sampled_from([0.2, 1.3, 4.0, 15.0]))
def test_time_may_run_backwards(seed, sides):
    frames, limit = [random_density(seed + i, 8) for i in range(4)], speed(sides, 8) * HOUR
    forth = smooth(frames, [0, 1, 2, 4], speed_kmh=limit, temperature=1.4)
    back = smooth(frames[::-1], [0, 2, 3, 4], speed_kmh=limit, temperature=1.4)
    for one, other in zip(forth, back[::-1], strict=True):
        torch.testing.assert_close(one.mass, other.mass)


@pytest.mark.parametrize("limit", [0.0, 5.0, 900.0])
def test_long_contradictions_leave_an_answer(limit):
    """Fifty frames at one place, then sixty at its antipode, too far to go: the many win."""
    frames = 50 * [near((10, 20), nside=8)] + 60 * [near((-10, -160), nside=8)]
    smoothed = smooth(frames, list(range(110)), speed_kmh=limit)
    assert all(density.mass.isfinite().all() for density in smoothed)
    assert distance_km(smoothed[-1].mode(), (-10, -160)).item() < 600
    if limit == 0:
        assert distance_km(smoothed[0].mode(), (-10, -160)).item() < 600


def test_an_outlier_is_put_right_by_its_neighbours():
    places = [(0.0, 10.0 * i) for i in range(5)]
    frames = [near(place, nside=16, kappa=100.0) for place in places]
    frames[2] = near((60.0, -120.0), nside=16, kappa=100.0)
    smoothed = smooth(frames, [HOUR * i for i in range(5)], speed_kmh=1500.0)
    assert distance_km(smoothed[2].median(), places[2]).item() < 300


def test_frames_wrong_together_count_as_fewer():
    assert [n / frame_temperature(1.0, n) for n in (1, 4, 8, 16)] == [1, 1, 1, 2]
    assert [n / frame_temperature(0.0, n) for n in (1, 4, 8)] == [1, 4, 8]
    assert frame_temperature(0.5, 3) == 2.0


def test_a_mixture_holds_the_mass_of_its_frames():
    frames = [random_density(seed, 4) for seed in range(3)]
    expected = sum(frame.mass for frame in frames) / 3
    torch.testing.assert_close(mixture(frames).mass, expected)


@pytest.mark.parametrize(
    ("frames", "seconds", "limit", "words"),
    [
        ([], [], 5, "expected a time for each"),
        ([Density.uniform(4)], [0, 1], 5, "got 2 for 1"),
        (2 * [Density.uniform(4)], [1, 0], 5, "got a step back"),
        (2 * [Density.uniform(4)], [0, math.nan], 5, "got a step back"),
        ([Density.uniform(4)], [0], -1, "speed_kmh of at least 0"),
        ([Density.uniform(4)], [0], math.nan, "speed_kmh of at least 0"),
        ([Density.uniform(4), Density.uniform(8)], [0, 1], 5, "of one nside, got 4 and 8"),
        ([Density(torch.eye(12)[i]) for i in (0, 1)], [0, 1], 0, "disjoint"),
    ],
)
def test_wrong_input_is_refused_in_plain_words(frames, seconds, limit, words):
    with pytest.raises(ValueError, match=words):
        smooth(frames, seconds, speed_kmh=limit)
