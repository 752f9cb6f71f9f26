"""Codes of spherical harmonics: round trips, what they stand for, what LocDiff learns."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import eval_legendre
from torch import Generator
from torch.nn.functional import normalize

from icgeo.baselines.harmonics import (
    HarmonicDiffusion,
    HarmonicsSettings,
    cell_probability,
    encode,
    seek_mode,
)
from icgeo.sphere import angle, distance_km, sample_uniform, to_lat_lon, to_xyz
from icgeo.sphere.healpix import cell_xyz


def points(count, seed=0):
    return sample_uniform(count, generator=Generator().manual_seed(seed))


@pytest.mark.parametrize("degree", [0, 3, 15])
def test_products_of_codes_follow_the_addition_theorem(degree):
    """Sum of (2 n + 1) P_n(cos angle), Legendre's polynomials by scipy."""
    a, b = points(8), points(8, seed=1)
    found = (encode(a, degree) * encode(b, degree)).sum(-1)
    cosines = (a * b).sum(-1).numpy()
    expected = sum((2 * n + 1) * eval_legendre(n, cosines) for n in range(degree + 1))
    torch.testing.assert_close(found, torch.as_tensor(expected))
    assert encode(a, degree).shape == (8, (degree + 1) ** 2)


def test_codes_are_orthonormal_over_the_sphere():
    codes = encode(cell_xyz(32), 7)
    torch.testing.assert_close(
        codes.T @ codes / len(codes), torch.eye(64).double(), atol=2e-3, rtol=0
    )


POLES = [(90.0, 0.0), (-90.0, 12.0), (89.9, 77.0), (0.0, 179.99), (0.0, -180.0)]


@pytest.mark.parametrize("degree", [7, 15, pytest.param(23, marks=pytest.mark.slow)])
def test_the_round_trip_is_below_the_resolution_of_the_degree(degree):
    """Half a wave of degree L is 180 / L degrees; the decoder is much finer."""
    xyz = torch.cat((points(100), to_xyz(torch.tensor(POLES, dtype=torch.float64))))
    decoded = seek_mode(cell_probability(encode(xyz, degree).float(), 32), 3.0)
    error = torch.rad2deg(angle(decoded.double(), xyz))
    assert error.max().item() < 180 / degree / 5
    assert error.median().item() < 10 / degree


@given(st.floats(-90, 90), st.floats(-180, 179.9))
def test_what_a_code_stands_for_integrates_to_one_and_peaks_at_its_place(lat, lon):
    xyz = to_xyz(torch.tensor([[lat, lon]], dtype=torch.float64))
    mass = cell_probability(encode(xyz, 11), 16)[0]
    assert mass.sum().item() == pytest.approx(1)
    assert torch.rad2deg(angle(cell_xyz(16)[mass.argmax()], xyz[0])).item() < 4


def test_the_mode_is_where_most_lies_within_rho_and_not_the_highest_cell():
    """A lone cell of 0.3 against a hill of ten times as many cells with 0.7 together."""
    lone, hill = to_xyz(torch.tensor([[50.0, 10.0], [-30.0, 100.0]], dtype=torch.float64))
    cells = cell_xyz(32)
    mass = torch.zeros(len(cells))
    mass[angle(cells, lone).argmin()] = 0.3
    near = angle(cells, hill) < math.radians(5)
    mass[near] = 0.7 / near.sum()
    (narrow,), (wide,) = seek_mode(mass[None], 0.5).double(), seek_mode(mass[None], 5.0).double()
    assert torch.rad2deg(angle(narrow, lone)).item() < 2
    assert torch.rad2deg(angle(wide, hill)).item() < 2


def learned(settings, *, photos=4, steps=150):
    features = torch.eye(photos)
    xyz = points(photos, seed=7).float()
    torch.manual_seed(0)
    head = HarmonicDiffusion(features, xyz, settings)
    losses = descend(head, features.repeat(4, 1), xyz.repeat(4, 1), steps=steps)
    return head, features, xyz, losses


def descend(head, features, xyz, *, steps, rate=3e-3):
    """Train by Adam, and return the mean losses of tenths of the way."""
    optimizer = torch.optim.Adam(head.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator, losses = Generator().manual_seed(0), []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = head.loss(features, xyz, generator)
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return torch.tensor(losses).reshape(10, -1).mean(-1).tolist()


SMALL = {"degree": 7, "width": 64, "depth": 2, "anchors": 64, "draws": 8, "steps": 10, "nside": 16}


def test_it_learns_and_its_densities_are_those_of_its_samples():
    head, features, xyz, losses = learned(HarmonicsSettings(**SMALL))
    assert losses[-1] < losses[0] / 2
    (density, *_), found = head.densities(features), head.points(features)
    assert density.mass.sum().item() == pytest.approx(1)
    assert distance_km(found, to_lat_lon(xyz.double())).max() < 2500
    torch.testing.assert_close(head.points(features[2:3]), found[2:3], atol=1e-3, rtol=0)


def test_retrieval_takes_the_photo_most_alike_within_its_radius_alone():
    head, features, xyz, _ = learned(HarmonicsSettings(**SMALL, retrieval_km=200.0), steps=10)
    modes = normalize(xyz + 0.01, dim=-1)
    torch.testing.assert_close(head._most_alike(modes, features, 200.0), xyz)
    torch.testing.assert_close(head._most_alike(-xyz, features, 200.0), -xyz)
    turned = features.roll(1, 0)
    torch.testing.assert_close(head._most_alike(modes, turned, 1e5), xyz.roll(1, 0))
