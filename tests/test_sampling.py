"""Tests of the flow's time grid, steps and keyed noise."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from icgeo import sampling


@given(steps=st.integers(1, 50), shift=st.floats(0.2, 8))
def test_time_grid_falls_from_noise_to_data(steps, shift):
    times = sampling.time_grid(steps, shift=shift)
    assert times[0] == 1
    assert times[-1] == 0
    assert len(times) == steps + 1
    assert (times.diff() < 0).all()


def test_time_grid_shift_is_that_of_diffusers():
    """`FlowMatchEulerDiscreteScheduler` with a static shift shifts the same times."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(sigmas=torch.linspace(1, 0, 5)[:-1].tolist())
    times = sampling.time_grid(4, shift=3.0)
    torch.testing.assert_close(times.float(), scheduler.sigmas.cpu(), atol=1e-6, rtol=0)


def test_time_grid_refuses_no_step():
    with pytest.raises(ValueError, match="at least 1 step, got 0"):
        sampling.time_grid(0)


@given(steps=st.integers(1, 20))
def test_euler_is_exact_where_the_flow_is_straight(steps):
    noise = torch.tensor([1.0, -2.0], dtype=torch.float64)
    data = torch.tensor([0.25, 3.0], dtype=torch.float64)
    found = sampling.euler(lambda x, t: noise - data, noise, sampling.time_grid(steps))
    torch.testing.assert_close(found, data)


def test_euler_converges_on_the_flow_of_a_gaussian():
    """Of data N(0, s^2) velocity and end are known: x_0 = s noise (Gaussian conditioning)."""
    s = 0.5

    def velocity(x, t):
        return (t - (1 - t) * s**2) / (t**2 + (1 - t) ** 2 * s**2) * x

    noise = torch.tensor([1.0], dtype=torch.float64)
    errors = [
        abs(sampling.euler(velocity, noise, sampling.time_grid(n)).item() - s) for n in (50, 100)
    ]
    assert errors[1] < 0.02
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.15)


@given(steps=st.integers(1, 20))
def test_the_watcher_is_told_the_data_as_they_look_from_each_step(steps):
    """On straight flows always the same; the flow of N(0, s^2) ends where the last look was."""
    told = []
    times = sampling.time_grid(steps, shift=2.0)
    noise = torch.tensor([1.0, -2.0], dtype=torch.float64)

    def callback_on_step_end(estimate, t):
        told.append((estimate, t))

    sampling.euler(lambda x, t: noise - 3, noise, times, callback_on_step_end=callback_on_step_end)
    assert [t for _, t in told] == times[:-1].tolist()
    for estimate, _ in told:
        torch.testing.assert_close(estimate, torch.full_like(noise, 3))
    found = sampling.euler(
        lambda x, t: x / (t + 0.5), noise, times, callback_on_step_end=callback_on_step_end
    )
    assert torch.equal(told[-1][0], found)
    plain = sampling.euler(lambda x, t: x / (t + 0.5), noise, times)
    torch.testing.assert_close(found, plain)


def test_guidance_of_gaussians_is_their_sharpened_quotient():
    """Of N(m, 1) the velocity at t = 1 is noise - m; p(x|c)^w / p(x)^(w-1) has mean w m - (w-1) m0.

    That is the distribution that guidance aims at (Ho and Salimans 2022, section 3.2).
    """
    noise, told, untold = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    guided = sampling.guided(lambda x, t: x - told, lambda x, t: x - untold, 3.0)
    found = sampling.euler(guided, noise, sampling.time_grid(1))
    torch.testing.assert_close(found, 3 * told - 2 * untold)


def test_no_guidance_asks_the_base_nothing():
    def velocity(x, t):
        return x

    def base(x, t):
        raise AssertionError

    assert sampling.guided(velocity, base, 1.0)(torch.ones(2), 1.0).tolist() == [1, 1]


def test_noise_is_keyed_by_content_seed_and_sample():
    def draw(contents, samples=2, seed=0):
        return sampling.keyed_noise(contents, (3, 4), samples=samples, seed=seed)

    both = draw([b"first", b"second"])
    assert both.shape == (2, 2, 3, 4)
    torch.testing.assert_close(draw([b"second"]), both[1:], rtol=0, atol=0)
    torch.testing.assert_close(draw([b"first"], samples=1), both[:1, :1], rtol=0, atol=0)
    assert not torch.equal(draw([b"first"], seed=1), both[:1])
    assert not torch.equal(both[0, 0], both[0, 1])


def test_noise_is_standard_normal():
    noise = sampling.keyed_noise([bytes([i]) for i in range(50)], (40, 25), samples=2, seed=3)
    assert noise.mean().abs() < 0.02  # 5 standard errors of 100,000 draws
    assert noise.std() == pytest.approx(1, abs=0.02)
