"""Tests of the procedural worlds."""

import math
from functools import cache

import pytest
import torch

from icgeo import sphere
from icgeo.data import worlds


@pytest.mark.parametrize("family", worlds.FAMILIES)
def test_a_world_is_a_picture_that_its_seed_decides(family):
    first = worlds.procedural_world(family, generator=3, height=64)
    again = worlds.procedural_world(family, generator=3, height=64)
    other = worlds.procedural_world(family, generator=4, height=64)
    assert first.shape == (3, 64, 128)
    assert torch.equal(first, again)
    assert (first - other).abs().mean() > 0.02
    assert first.min() >= 0
    assert first.max() <= 1
    assert first.std() > 0.03  # there is something to see


@cache
def three_worlds(family):
    return [worlds.procedural_world(family, generator=seed, height=128) for seed in range(3)]


@pytest.mark.parametrize("family", worlds.FAMILIES)
def test_a_world_has_no_seam(family):
    """Neighbours across the antimeridian differ at most twice as much as neighbours elsewhere."""
    for world in three_worlds(family):
        step = (world - world.roll(1, dims=2)).abs().mean(dim=(0, 1))
        assert step[0] < 2 * step[1:].mean()


@pytest.mark.parametrize("family", worlds.FAMILIES)
def test_a_world_goes_on_across_a_pole(family):
    """Opposite pixels of the top row are one pixel apart, as far as the rows next to it."""
    across, down = torch.zeros(()), torch.zeros(())
    for world in three_worlds(family):
        across += (world[:, 0] - world[:, 0].roll(128, dims=1)).abs().mean()
        down += world[:, :8].diff(dim=1).abs().mean()
    assert across < 2 * down


def test_families_held_out_are_not_trained_on():
    groups = (worlds.TRAINING_FAMILIES, worlds.HELD_OUT_FAMILIES, worlds.UNSEEN_FAMILIES)
    assert sorted(family for group in groups for family in group) == sorted(worlds.FAMILIES)


def test_unknown_family_is_named():
    with pytest.raises(ValueError, match=r"expected a family of .*, got 'swamps'"):
        worlds.procedural_world("swamps", generator=0)


def test_pixel_centres_are_those_of_the_convention():
    lat_lon = sphere.to_lat_lon(worlds.pixel_xyz(4))
    expected = torch.tensor([[67.5, -157.5], [-67.5, 157.5]])
    torch.testing.assert_close(lat_lon[[0, -1], [0, -1]], expected, atol=2e-3, rtol=0)
    corner = worlds.pixel_xyz(2)[0, 0]
    assert corner[2] == pytest.approx(math.sin(math.pi / 4), abs=1e-6)
    assert lat_lon.shape == (4, 8, 2)


def test_noise_has_unit_variance():
    xyz = worlds.pixel_xyz(64)
    noise = worlds.fractal(xyz, torch.Generator().manual_seed(0), frequency=1.5, channels=2)
    torch.testing.assert_close(noise.std(dim=(1, 2)), torch.ones(2), atol=1e-3, rtol=0)


def test_colour_ramp_interpolates():
    values = torch.tensor([[0.0, 0.25, 1.0, 2.0]])
    ramp = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.5, 0.0], [1.0, 1.0, 1.0]])
    found = worlds.colour_ramp(values, ramp)[:, 0]
    expected = torch.tensor([[0.0, 0.5, 1.0, 1.0], [0.0, 0.25, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]])
    torch.testing.assert_close(found, expected)
