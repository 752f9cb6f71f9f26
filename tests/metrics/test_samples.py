"""PRDC against the package of its authors."""

import numpy as np
import prdc
import pytest
import torch

from icgeo.metrics.samples import SampleQuality, sample_quality
from icgeo.sphere import angle, sample_uniform, sample_von_mises_fisher, to_lat_lon, to_xyz


def clouds():
    generator = torch.Generator().manual_seed(0)
    modes = sample_uniform(4, generator=generator)
    real = modes[torch.randint(4, (300,), generator=generator)]
    fake = modes[torch.randint(3, (200,), generator=generator)]
    spread = [
        sample_von_mises_fisher(xyz, k, generator=generator) for xyz, k in ((real, 50), (fake, 20))
    ]
    return [to_lat_lon(xyz) for xyz in spread]


@pytest.mark.parametrize("nearest", [1, 5])
def test_agrees_with_the_package_prdc(nearest):
    """Values of Naeem et al. 2020, on chords."""
    real, fake = clouds()
    expected = prdc.compute_prdc(to_xyz(real).numpy(), to_xyz(fake).numpy(), nearest)
    ours = sample_quality(real, fake, nearest=nearest)
    for name, value in expected.items():
        assert getattr(ours, name) == pytest.approx(value, abs=1e-12)
        assert value > 0
    assert ours.recall < 1, "a mode of the data is missing"


def test_great_circles_give_the_same_numbers():
    real, fake = (to_xyz(cloud) for cloud in clouds())
    reach = angle(real[:, None], real).sort(dim=1).values[:, 5:6]
    inside = angle(real[:, None], fake) < reach
    ours = sample_quality(to_lat_lon(real), to_lat_lon(fake))
    assert ours.precision == inside.any(0).double().mean()
    assert ours.coverage == inside.any(1).double().mean()


def test_samples_from_the_other_side_are_worthless():
    real, _ = clouds()
    cap = real[(real - real[0]).abs().max(-1).values < 20]
    assert sample_quality(cap, to_lat_lon(-to_xyz(cap))) == SampleQuality(0, 0, 0, 0)


def test_too_few_points_are_named():
    points = np.zeros((5, 2))
    with pytest.raises(ValueError, match=r"nearest from 1 to below .* got 5 with 5 real and 5"):
        sample_quality(points, points)
