"""Registering pictures that nearly lie on each other: in colour, and how surely."""

import math

import pytest
import torch
from torch.nn import functional

from icgeo.zoom.align import register

pytest.importorskip("cv2", reason="needs the extra [map]")


def _texture(seed, smooth):
    """Return noise of which nothing is finer than so many pixels."""
    noise = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(seed))
    noise = functional.avg_pool2d(noise, smooth, stride=1)[0, :, :64, :64]
    return (noise - noise.mean()) / noise.std() * 30 + 120


def _noisy(picture, seed, *, sigma=3.0, patch=1):
    """Add noise that is the same over so many pixels, as strong as it is alone."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(1, 3, 64 + patch - 1, 64 + patch - 1, generator=generator)
    noise = functional.avg_pool2d(noise, patch, stride=1)[0] * patch
    return (picture + sigma * noise).clamp(0, 255).round().to(torch.uint8)


def test_haze_and_exposure_leave_pictures_alike():
    picture = _texture(0, 5)
    hazy = 0.6 * picture + torch.tensor([40.0, 50.0, 60.0])[:, None, None]
    found = register(_noisy(picture, 1, sigma=0.0), _noisy(hazy, 2, sigma=0.0))
    assert found.likeness > 0.999
    assert found.error < 0.01


def test_what_agrees_in_brightness_alone_is_not_alike():
    picture = _texture(0, 5)
    grey = picture.mean(0).expand(3, -1, -1)
    found = register(_noisy(picture, 1), _noisy(grey, 2))
    assert found is None or found.likeness < 0.8


@pytest.mark.parametrize(("right", "down"), [(0.3, 0.0), (-0.2, 0.4)])
@pytest.mark.parametrize(("zoomed", "turned"), [(1.0, 0.0), (1.01, 0.01)])
def test_a_step_leaves_less_than_a_third_of_a_shift_turn_and_scale(right, down, zoomed, turned):
    picture = _texture(3, 7)
    warp = zoomed * torch.tensor(
        [[math.cos(turned), -math.sin(turned)], [math.sin(turned), math.cos(turned)]]
    )
    warp = torch.cat((warp, torch.tensor([[right], [down]]) / 32), dim=1)
    grid = functional.affine_grid(warp[None], [1, 3, 64, 64], align_corners=False)
    # the photo sees at each of its places what the view has where the warp says
    photo = functional.grid_sample(
        picture[None], grid, "bicubic", padding_mode="reflection", align_corners=False
    )
    found = register(_noisy(photo[0], 0, sigma=0.0), _noisy(picture, 0, sigma=0.0))
    assert (32 * found.warp[:, 2]).tolist() == pytest.approx([right, down], rel=0.3, abs=0.02)
    assert torch.allclose(found.warp[:, :2], warp[:, :2].double(), atol=4e-3)


def test_what_has_no_texture_is_not_registered_surely():
    grey = torch.full((3, 64, 64), 99, dtype=torch.uint8)
    found = register(grey, _noisy(_texture(0, 5), 1))
    assert found is None or found.likeness < 0.1


@pytest.mark.parametrize("smooth", [5, 9, 17])
@pytest.mark.parametrize("patch", [1, 3, 7])
def test_errors_are_as_large_as_it_says_whatever_the_noise(smooth, patch):
    ratios = []
    for seed in range(24):
        picture = _texture(seed, smooth)
        photo, view = (_noisy(picture, 2 * seed + one, patch=patch) for one in (0, 1))
        found = register(photo, view)
        error = float(found.warp[:, 2].square().mean().sqrt()) * 32
        ratios.append(error / found.error)
    assert 0.7 < torch.tensor(ratios).square().mean().sqrt() < 2
