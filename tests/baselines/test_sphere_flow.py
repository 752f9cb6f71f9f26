"""Flows on the sphere: likelihoods against closed forms, densities, samples, what heads learn."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Generator

from icgeo.baselines.samples import density_of_flow
from icgeo.baselines.sphere_flow import (
    SphereFlow,
    SphereFlowSettings,
    follow,
    follow_volume,
    geodesic,
    noise_share,
)
from icgeo.sampling import time_grid
from icgeo.sphere import angle, sample_uniform, to_lat_lon, von_mises_fisher_log_prob
from icgeo.sphere.healpix import cell_of, cell_xyz

FORWARD = time_grid(16).flip(0)
"""From data to noise, by 64 evaluations."""
UNIFORM = -math.log(4 * math.pi)


def points(count=200, seed=0):
    return sample_uniform(count, generator=Generator().manual_seed(seed))


def moebius(axis, speed):
    """Gradient of a height, of which the flow is conformal (Kato and McCullagh 2020)."""

    def field(x, t):
        height = (x * axis).sum(-1, keepdim=True)
        return speed * (axis - height * x)

    return field


def test_the_likelihood_equals_that_of_a_von_mises_fisher_pushed_by_a_moebius_flow():
    """Heights move as tanh(artanh u + s), areas grow as (1 - u'^2) / (1 - u^2): a closed form."""
    axis, mean = points(2, seed=1)
    speed, kappa, x = 1.3, 12.0, points()
    noise, volume = follow_volume(moebius(axis, speed), x, FORWARD)
    found = von_mises_fisher_log_prob(noise, mean, kappa) + volume
    before = (x * axis).sum(-1)
    after = torch.tanh(torch.atanh(before) + speed)
    ratio = ((1 - after**2) / (1 - before**2))[:, None]
    moved = after[:, None] * axis + ratio.sqrt() * (x - before[:, None] * axis)
    expected = von_mises_fisher_log_prob(moved, mean, kappa) + ratio[:, 0].log()
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_the_likelihood_equals_a_von_mises_fisher_that_the_flow_makes_of_noise():
    """The field along meridians that moves the uniform density to kappa (1 - t), by its CDF."""
    mean = points(1, seed=2)[0]
    most = 5.0

    def field(x, t):
        kappa = torch.tensor(most * (1 - t)).double().clamp_min(1e-3)
        u = (x * mean).sum(-1).clamp(-1 + 1e-12, 1 - 1e-12)
        whole, part = torch.expm1(2 * kappa), torch.expm1(kappa * (u + 1))
        density = kappa * torch.exp(kappa * (u + 1)) / whole
        by_kappa = (u + 1) * torch.exp(kappa * (u + 1)) / whole
        by_kappa = by_kappa - part * 2 * torch.exp(2 * kappa) / whole**2
        slope = most * by_kappa / density
        return (slope / (1 - u**2))[:, None] * (mean - u[:, None] * x)

    x = points()
    volume = follow_volume(field, x, FORWARD)[1]
    expected = von_mises_fisher_log_prob(x, mean, most)
    torch.testing.assert_close(UNIFORM + volume, expected, atol=1e-4, rtol=0)


def test_a_rotation_moves_a_von_mises_fisher_and_no_areas():
    axis, mean = points(2, seed=3)
    x = points()
    noise, volume = follow_volume(lambda x, t: torch.linalg.cross(axis.expand_as(x), x), x, FORWARD)
    turn = torch.matrix_exp(torch.linalg.cross(axis.expand(3, 3), torch.eye(3).double()).T)
    torch.testing.assert_close(noise, x @ turn.T, atol=1e-6, rtol=0)
    torch.testing.assert_close(volume, torch.zeros_like(volume), atol=1e-9, rtol=0)
    found = von_mises_fisher_log_prob(noise, mean, 50.0) + volume
    torch.testing.assert_close(
        found, von_mises_fisher_log_prob(x, turn.T @ mean, 50.0), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("speed", [0.0, 0.8, 2.5, 6.0])
def test_areas_of_noise_are_the_masses_of_cells(speed):
    """A Moebius flow of the uniform density: the share below a height u is (1 + u') / 2.

    At the speed of 6 most of the mass is in a hundredth of a cell.
    """
    axis = points(1, seed=4)[0]
    field = moebius(axis, -speed)
    ahead, back = time_grid(64), time_grid(64).flip(0)
    samples = follow(field, points(64), ahead)
    density = density_of_flow(lambda x: follow(field, x, back), samples, 16)
    assert density.mass.sum().item() == pytest.approx(1, abs=1e-9)
    heights = cell_xyz(16) @ axis
    for height in (-0.8, 0.0, 0.6):
        expected = (1 + math.tanh(math.atanh(height) - speed)) / 2
        assert density.mass[heights < height].sum().item() == pytest.approx(expected, abs=0.02)
    if speed == 6.0:
        assert density.mass.max() > 0.6


@pytest.mark.parametrize("nside", [16, 64])
def test_a_mode_at_a_corner_of_cells_is_shared_by_them(nside):
    """Four base cells meet on the equator; by symmetry each pair of opposite ones is alike."""
    axis = torch.tensor([math.sqrt(0.5), math.sqrt(0.5), 0.0]).double()
    field = moebius(axis, -5.0)
    samples = follow(field, points(64), time_grid(64))
    density = density_of_flow(lambda x: follow(field, x, time_grid(64).flip(0)), samples, nside)
    mass = density.mass.reshape(12, -1).sum(-1)
    assert mass.max() < 0.6
    known = angle(cell_xyz(nside), axis) < math.radians(10)
    expected = (1 - math.tanh(math.atanh(math.cos(math.radians(10))) - 5)) / 2
    assert density.mass[known].sum().item() == pytest.approx(0.99 * expected, abs=0.05)


@given(st.floats(0, 1), st.integers(0, 50))
def test_the_velocity_is_the_derivative_of_the_geodesic(share, seed):
    xyz, noise = points(6, seed).reshape(2, 3, 3)
    share = torch.full((3, 1), share, dtype=torch.float64)
    state, velocity = geodesic(xyz, noise, share)
    ahead, behind = (geodesic(xyz, noise, share + step)[0] for step in (1e-5, -1e-5))
    torch.testing.assert_close(velocity, (ahead - behind) / 2e-5, atol=1e-8, rtol=1e-6)
    torch.testing.assert_close(angle(xyz, state), share[:, 0] * angle(xyz, noise))


def test_the_schedule_is_the_published_sigmoid():
    """Its value at the middle by hand: sigmoid(-2) of sigmoid(-7) to sigmoid(3)."""
    t = torch.tensor([0.0, 0.5, 1.0]).double()
    share, slope = noise_share(t, (-7.0, 3.0))
    assert share.tolist() == pytest.approx([0, (0.1192029 - 0.0009111) / 0.9516627, 1], abs=1e-6)
    ahead = noise_share(t + 1e-6, (-7.0, 3.0))[0]
    assert ((ahead - share) / 1e-6).tolist() == pytest.approx(slope.tolist(), rel=1e-4)


@pytest.fixture(scope="module")
def head():
    """A small network with weights large enough that its flow is far from standing still."""
    torch.manual_seed(0)
    settings = SphereFlowSettings(width=16, depth=2, nside=16)
    head = SphereFlow(torch.ones(1, 8), torch.ones(1, 3), settings).double()
    for parameter in head.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape)
    return head


@pytest.fixture(scope="module")
def features():
    return torch.randn(2, 8, generator=Generator().manual_seed(1), dtype=torch.float64)


def test_the_exact_density_integrates_to_one_and_equals_the_areas(head, features):
    grid = cell_xyz(16)
    density = head.log_prob(features[:1], grid[None])[0].exp()
    assert density.mean().item() * 4 * math.pi == pytest.approx(1, abs=1e-3)
    assert density.max() > 10 * density.min()
    (by_areas,) = head.densities(features[:1])
    assert (density / density.sum() - by_areas.mass).abs().sum().item() < 0.03


def test_samples_agree_with_the_exact_density(head, features):
    """Chi square over the twelve base cells, of samples and of the masses."""
    drawn = head.samples(features, 1500)
    for xyz, density in zip(drawn, head.densities(features), strict=True):
        counts = torch.bincount(cell_of(to_lat_lon(xyz), 1), minlength=12)
        expected = 1500 * density.mass.reshape(12, -1).sum(-1)
        assert chisquare(counts.numpy(), expected.numpy()).pvalue > 0.01


@pytest.mark.parametrize("way", ["sphere", "flow", "diffusion"])
def test_each_way_learns_and_answers(way):
    """Two kinds of photos at two places, after twenty steps: loss falls, all is finite."""
    generator = Generator().manual_seed(0)
    features = torch.eye(2).repeat(4, 1)
    xyz = points(2, seed=5).float().repeat(4, 1)
    torch.manual_seed(0)
    settings = SphereFlowSettings(way=way, width=16, depth=2, nside=8, evaluations=16)
    head = SphereFlow(features, xyz, settings)
    before, *_, after = descend(head, features, xyz, generator, steps=60)
    assert after < before
    (density, _), answers = head.densities(features[:2]), head.points(features[:2])
    assert density.mass.sum().item() == pytest.approx(1)
    assert answers.shape == (2, 2)
    assert head.localizability(features[:1]).item() == pytest.approx(-density.entropy())
    torch.testing.assert_close(head.points(features[1:2]), answers[1:], atol=1e-3, rtol=0)


def descend(head, features, xyz, generator, *, steps, rate=3e-3):
    """Train by Adam, and return the mean losses of tenths of the way."""
    optimizer = torch.optim.Adam(head.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = head.loss(features, xyz, generator)
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return torch.tensor(losses).reshape(10, -1).mean(-1).tolist()
