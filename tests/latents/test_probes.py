"""Tests of probes and labels: spaces that are built from places come out as they were built."""

import math

import numpy as np
import pytest
import torch

from icgeo import sphere
from icgeo.latents import labels
from icgeo.latents.controls import CONTROLS, untrain
from icgeo.latents.probes import (
    error_by_group,
    fold_numbers,
    probe_labels,
    probe_numbers,
    probe_places,
    thirds,
)
from icgeo.sphere import EARTH_RADIUS_KM
from icgeo.sphere.healpix import cell_of

PHOTOS, CHANNELS = 400, 32


def generator(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def places():
    return sphere.to_lat_lon(sphere.sample_uniform(PHOTOS, generator=generator(0)))


def built(places, noise, seed=1):
    """Activations that are a turned copy of unit vectors, and noise around it."""
    normal = torch.randn(CHANNELS, 3, generator=generator(seed), dtype=torch.float64)
    axes = torch.linalg.qr(normal).Q
    rest = torch.randn(len(places), CHANNELS, generator=generator(seed + 1), dtype=torch.float64)
    return sphere.to_xyz(places) @ axes.T + noise * rest


@pytest.mark.parametrize("split", ["random", "blocked"])
@pytest.mark.parametrize("noise", [0.02, 0.1])
def test_a_probe_errs_by_the_noise(places, split, noise):
    """Along the axes noise of sd s is left: the median of a Rayleigh distribution, s sqrt(2 ln 2).

    The probe is fitted on 320 photos with 32 channels: about a tenth more.
    """
    probe = probe_places(built(places, noise), places, split=split)
    expected = EARTH_RADIUS_KM * noise * math.sqrt(2 * math.log(2))
    assert 0.9 * expected < probe.median_km.estimate < 1.3 * expected
    assert probe.median_km.low < probe.median_km.estimate < probe.median_km.high
    assert math.isclose(probe.r2, 1 - 3 * noise**2, abs_tol=0.01)
    assert probe.spearman > 0.98
    assert torch.equal(probe.distance_km, sphere.distance_km(probe.lat_lon, places))


@pytest.mark.parametrize("kind", ["ridge", pytest.param("kernel", marks=pytest.mark.slow)])
def test_shuffled_places_cannot_be_read(places, kind):
    """A guess at random is a quarter of the way around off: 10,008 km."""
    x = built(places, 0.02)
    known, shuffled = (probe_places(x, places, kind=kind, shuffled=so) for so in (False, True))
    assert known.r2 > 0.75
    assert shuffled.r2 < 0.05
    assert abs(shuffled.spearman) < 0.05
    assert 9000 < shuffled.median_km.estimate < 11000


def test_what_is_not_linear_is_read_by_a_kernel(places):
    xyz = sphere.to_xyz(places)
    parity = torch.cat((xyz**2, (xyz * xyz.roll(1, 1))), dim=1)  # the same at both ends of an axis
    folded = torch.cat((parity, xyz**3 - 0.6 * xyz), dim=1)
    ridge, kernel = (
        probe_places(folded, places, kind=kind, split="random") for kind in ("ridge", "kernel")
    )
    assert kernel.r2 > ridge.r2 + 0.05


def test_blocked_folds_leave_out_whole_cells(places):
    numbers, cells = fold_numbers(places, "blocked"), cell_of(places, 4).numpy()
    assert set(numbers) == set(range(5))
    assert all(len(set(numbers[cells == cell])) == 1 for cell in np.unique(cells))
    assert np.bincount(numbers).min() > 60
    assert np.ptp(np.bincount(fold_numbers(places, "random"))) <= 1
    with pytest.raises(ValueError, match="at least 5 cells with photos for as many folds, got 1"):
        fold_numbers(places[:1].expand(20, -1), "blocked")


def test_neighbours_tell_a_place_in_random_folds_alone(places):
    """Photos come in pairs that share a place and a code of it, which says nothing of others."""
    pairs = places[: PHOTOS // 2].repeat(2, 1)
    code = torch.randn(PHOTOS // 2, 600, generator=generator(5)).repeat(2, 1)
    mixed, blocked = (probe_places(code, pairs, split=split) for split in ("random", "blocked"))
    assert mixed.r2 > 0.5
    assert blocked.r2 < 0.05


def test_groups_are_left_out_in_turn(places):
    """Two worlds whose axes differ: a probe of one knows nothing of the other."""
    half = PHOTOS // 2
    x = torch.cat((built(places[:half], 0.01), built(places[half:], 0.01, seed=9)))
    names = ["a"] * half + ["b"] * half
    assert probe_places(x, places, groups=names).r2 < 0.3
    assert probe_places(x, places, split="random").r2 > 0.6


def test_labels_and_numbers(places):
    x = built(places, 0.02)
    north = ["north" if lat > 0 else "south" for lat in places[:, 0]]
    found = probe_labels(x, north, places)
    assert (found.labels, found.photos) == (2, PHOTOS)
    assert found.balanced > 0.93
    chance = probe_labels(x[torch.randperm(PHOTOS, generator=generator(3))], north, places)
    assert abs(chance.balanced - 0.5) < 0.1
    assert probe_numbers(x, sphere.to_xyz(places)[:, 2].numpy(), places) > 0.98
    with pytest.raises(ValueError, match="two labels of at least 10 photos"):
        probe_labels(x, ["here"] * PHOTOS, places)
    rare = ["rare"] * 3 + north[3:]
    assert probe_labels(x, rare, places).photos == PHOTOS - 3


def test_wrong_activations_are_refused(places):
    x = built(places, 0.1)
    with pytest.raises(ValueError, match="each of 400 photos"):
        probe_places(x[1:], places)
    with pytest.raises(ValueError, match="finite"):
        probe_places(x * torch.nan, places)
    for kind in ("tree", "labels"):
        with pytest.raises(ValueError, match=rf"probe of \('ridge', 'kernel'\), got '{kind}'"):
            probe_places(x, places, kind=kind)


def test_errors_by_group():
    error = torch.tensor([1.0, 3.0, 5.0, 100.0, 300.0])
    table = error_by_group(error, ["a", "a", "a", "b", "b"])
    assert table.group.tolist() == ["a", "b"]
    assert table.photos.tolist() == [3, 2]
    assert table.median_km.tolist() == [3.0, 200.0]
    assert thirds(torch.arange(6.0), "xyz") == ["x", "x", "y", "y", "z", "z"]


def test_labels_of_known_places():
    """Paris, the Atlantic, the Sahara, Vostok in Antarctica, the Amazon and Moscow.

    Zones of Köppen and Geiger as in Kottek et al. (2006).
    """
    known = [[48.9, 2.3], [30, -40], [24, 10], [-78.5, 106.8], [-5, -65], [55.75, 37.6]]
    assert labels.climates(known) == ["Cfb", "Ocean", "BWh", "EF", "Af", "Dfb"]
    assert labels.climate_groups(known) == ["C", "sea", "B", "E", "A", "D"]
    expected = ["temperate", "water", "desert", "ice", "tropical", "boreal"]
    assert labels.land_covers(known) == expected
    assert labels.countries(known[:1]) == ["FR"]
    assert labels.continents(known[:1]) == ["EU"]
    assert len(labels.climates([[90, 179.999], [-90, -180]])) == 2


def test_distances_to_the_coast():
    """Paris: 155 km to the Channel. The pole of inaccessibility of Eurasia: 2,510 to 2,645 km.

    Lakes count as water: nearer shores are those of Issyk-Kul and Balkhash. Point Nemo: 2,688 km
    to Ducie Island, which the mask is too coarse to show, so that it is farther.
    """
    paris, eurasia, nemo, ocean = labels.coast_distance_km(
        [[48.86, 2.35], [46.28, 86.67], [-48.88, -123.39], [0, -30]]
    )
    assert 130 < paris < 180
    assert 100 < eurasia < 2645
    assert nemo < -2400
    assert -1000 < ocean < -500
    assert labels.is_land([[48.86, 2.35], [0, -30]]).tolist() == [True, False]


def test_controls_describe_what_they_say():
    dark, light = (np.full((64, 64, 3), value, np.uint8) for value in (20, 200))
    checks = np.kron(np.indices((8, 8)).sum(0) % 2, np.ones((8, 8)))[..., None] * 180 + 20
    pictures = [dark, light, checks.repeat(3, axis=2).astype(np.uint8)]
    found = {name: describe(pictures) for name, describe in CONTROLS.items()}
    assert all(len(x) == 3 and x.isfinite().all() for x in found.values())
    colours = found["colours alone"]
    torch.testing.assert_close(colours[:2, 0], torch.tensor([20.0, 200.0]) / 255)
    assert torch.equal(colours[0], CONTROLS["colours alone"]([dark[::-1].copy()])[0])
    gradients = found["image statistics"][:, 12:]
    assert gradients[0].max() < 1e-6 < gradients[2].min()
    assert torch.equal(found["position on the picture"][0], found["position on the picture"][2])


def test_untrained_networks_begin_anew():
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.GELU(), torch.nn.Linear(4, 2))
    state = torch.random.get_rng_state()
    before = network[0].weight.clone()
    untrain([network], seed=1)
    first = network[0].weight.clone()
    assert not torch.equal(first, before)
    untrain([network], seed=1)
    assert torch.equal(network[0].weight, first)
    assert torch.equal(torch.random.get_rng_state(), state)
