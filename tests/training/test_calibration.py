"""Tests of what tells photos of the kind that a model knows from others."""

import torch
from torch import Generator

from icgeo.training.calibration import fit_domain


def test_the_rule_finds_what_differs_with_as_few_false_alarms_as_asked() -> None:
    """One number of ten has another mean outside; units, offsets and sizes of sets do not count."""
    generator = Generator().manual_seed(0)
    scale = torch.logspace(-3, 3, 10)

    def photos(count: int, shift: float) -> torch.Tensor:
        values = torch.randn(count, 10, generator=generator)
        values[:, 4] += shift
        return 5 + scale * values

    inside, outside = [photos(900, 0.0), photos(30, 0.0)], [photos(40, 8.0)]
    unseen = photos(1000, 0.0)
    weights = fit_domain(inside, outside, unseen, false_alarms=0.02)

    def alarms(statistics: torch.Tensor) -> float:
        return (statistics @ weights[:-1] + weights[-1] <= 0).float().mean().item()

    assert (scale * weights[:-1]).abs().argmax() == 4
    assert abs(alarms(unseen) - 0.02) <= 0.002
    assert alarms(photos(500, 0.0)) < 0.05
    assert alarms(photos(500, 8.0)) > 0.99
