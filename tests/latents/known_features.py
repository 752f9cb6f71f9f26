"""Activations whose features and places are known: some fire in a region, some anywhere."""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional

from icgeo import sphere
from icgeo.sphere.healpix import cell_xyz

PLACED, ANYWHERE = 12, 12


@dataclass(frozen=True)
class Truth:
    """Rows = 2 + codes @ atoms + noise; the first `PLACED` features fire around their own place."""

    atoms: Tensor
    codes: Tensor
    rows: Tensor
    lat_lon: Tensor


def make_truth(count: int = 1500, channels: int = 24, *, noise: float = 0.02) -> Truth:
    """Draw it: 12 caps of 25 degrees that do not meet, and features of 5 % of the photos."""
    generator = Generator().manual_seed(3)
    places = sphere.sample_uniform(count, generator=generator, dtype=torch.float64)
    near = places @ cell_xyz(1).T > math.cos(math.radians(25))
    loose = torch.rand(count, ANYWHERE, generator=generator) < 0.05
    fires = torch.cat((near, loose), dim=1)
    codes = fires * (1 + torch.rand(fires.shape, generator=generator))
    shape = (PLACED + ANYWHERE, channels)
    atoms = functional.normalize(torch.randn(shape, generator=generator), dim=-1)
    rows = 2 + codes @ atoms + noise * torch.randn(count, channels, generator=generator)
    return Truth(atoms, codes, rows, sphere.to_lat_lon(places))
