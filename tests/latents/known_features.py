"""Activations whose features and places are known: some fire in a region, some anywhere."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional

from icgeo import sphere

PLACED, ANYWHERE = 12, 12


@dataclass(frozen=True)
class Truth:
    """Rows = 2 + codes @ atoms + noise; the first `PLACED` features fire around their own place."""

    atoms: Tensor
    codes: Tensor
    rows: Tensor
    lat_lon: Tensor
    centres: Tensor


def make_truth(count: int = 1500, channels: int = 24, *, noise: float = 0.02) -> Truth:
    """Draw it; a region has a radius of 35 degrees, others fire in 9 % of the photos."""
    generator = Generator().manual_seed(3)
    places = sphere.sample_uniform(count, generator=generator, dtype=torch.float64)
    centres = sphere.sample_uniform(PLACED, generator=generator, dtype=torch.float64)
    near = places @ centres.T > torch.tensor(35.0).deg2rad().cos()
    loose = torch.rand(count, ANYWHERE, generator=generator) < 0.09
    fires = torch.cat((near, loose), dim=1)
    codes = fires * (1 + torch.rand(fires.shape, generator=generator))
    shape = (PLACED + ANYWHERE, channels)
    atoms = functional.normalize(torch.randn(shape, generator=generator), dim=-1)
    rows = 2 + codes @ atoms + noise * torch.randn(count, channels, generator=generator)
    return Truth(atoms, codes, rows, sphere.to_lat_lon(places), centres)
