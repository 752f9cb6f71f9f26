"""Comparing aligned pictures: in colour, and by the bound of registration."""

import pytest
import torch
from torch.nn import functional

from icgeo.zoom.align import align, compare

pytest.importorskip("cv2", reason="needs the extra [map]")


def _texture(seed, smooth):
    """Return noise of which nothing is finer than so many pixels."""
    noise = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(seed))
    noise = functional.avg_pool2d(noise, smooth, stride=1)[0, :, :64, :64]
    return (noise - noise.mean()) / noise.std() * 30 + 120


def _noisy(picture, seed, sigma=3.0):
    generator = torch.Generator().manual_seed(seed)
    noise = sigma * torch.randn(picture.shape, generator=generator)
    return (picture + noise).clamp(0, 255).round().to(torch.uint8)


def test_haze_and_exposure_leave_pictures_alike():
    picture = _texture(0, 5)
    hazy = 0.6 * picture + torch.tensor([40.0, 50.0, 60.0])[:, None, None]
    alike, bound = compare(_noisy(picture, 1, 0.0), _noisy(hazy, 2, 0.0))
    assert alike > 0.999
    assert bound < 0.01


def test_what_agrees_in_brightness_alone_is_not_alike():
    picture = _texture(0, 5)
    grey = picture.mean(0).expand(3, -1, -1)
    alike, _ = compare(_noisy(picture, 1), _noisy(grey, 2))
    assert alike < 0.8


@pytest.mark.parametrize("smooth", [5, 9, 17])
def test_errors_of_alignments_follow_the_bound(smooth):
    """The noise of two pictures is smoothed by ECC, so errors are some four times the bound."""
    ratios = []
    for seed in range(12):
        picture = _texture(seed, smooth)
        photo, view = _noisy(picture, 2 * seed), _noisy(picture, 2 * seed + 1)
        found = align(photo, view)
        assert found is not None
        error = float(found[0][:, 2].square().mean().sqrt()) * 32
        ratios.append(error / compare(photo, view)[1])
    assert 2 < torch.tensor(ratios).square().mean().sqrt() < 8
