"""What a generative head draws, or its flow, as a density and as a point."""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from icgeo.baselines.head import floored
from icgeo.sphere import angle, to_lat_lon, to_xyz, von_mises_fisher_log_prob
from icgeo.sphere.density import Density
from icgeo.sphere.healpix import cell_of, grid

KAPPAS = tuple(10 ** (1 + step / 3) for step in range(9))
"""Concentrations of kernels that are tried: sigma from 18 to 0.8 degrees."""

LEVELS = (8, 32, 128)
"""Sides of the cells that a flow's density is found on, coarse to fine."""
PARTS = 16
"""Cells that one of them is divided into."""
HEAVY = 1e-3
"""Probability from which a cell is divided."""


def density_of_samples(xyz: Float[Tensor, "samples 3"], *, nside: int) -> Density:
    """Spread samples by von Mises-Fisher kernels, with one uniform sample more among them.

    The concentration is the one of `KAPPAS` under which each sample is likeliest, given the others
    (Hall, Watson and Cabrera 1987).
    """
    count = len(xyz)
    xyz = xyz.double()
    is_other = ~torch.eye(count, dtype=torch.bool)
    scores = []
    for kappa in KAPPAS:
        pairs = von_mises_fisher_log_prob(xyz[:, None], xyz[None], kappa)
        likelihood = (pairs.exp() * is_other).sum(-1) + 1 / (4 * math.pi)
        scores.append(likelihood.log().sum())
    kappa = KAPPAS[int(torch.stack(scores).argmax())]
    mass = Density.from_mixture(to_lat_lon(xyz), kappa, nside=nside).mass
    return Density(count * mass + 1 / len(mass))


def medoid(xyz: Float[Tensor, "photos samples 3"]) -> Float[Tensor, "photos 3"]:
    """Choose the sample of each photo that is nearest to its others in the mean."""
    distance = angle(xyz[:, :, None], xyz[:, None])
    indices = distance.sum(-1).argmin(-1)
    return xyz[torch.arange(len(xyz)), indices]


def density_of_flow(
    to_noise: Callable[[Tensor], Tensor], samples: Float[Tensor, "samples 3"], nside: int
) -> Density:
    """Give each cell the share of the uniform noise that flows into it.

    Corners of cells are led back to the noise, where the cell becomes a quadrangle, whose area is
    the mass: nothing falls between the points of a grid. Its sides are great circles there if the
    cell is finer than the mode, so cells that are `HEAVY` or have a sample are divided.
    """
    mass, sphere_area = torch.zeros(12 * nside**2, dtype=torch.float64), 4 * math.pi
    cells, remaining_area = torch.arange(12 * LEVELS[0] ** 2), sphere_area
    for level in LEVELS:
        counts = torch.bincount(cell_of(to_lat_lon(samples), level), minlength=12 * level**2)[cells]
        corners, corner = _corners(cells, level)
        area = _area(to_noise(corners).double().cpu()[corner])
        # sides of cells are not quite great circles
        area = area / _area(corners[corner]) * (sphere_area / (12 * level**2))
        if remaining_area - area.sum() > sphere_area / 2:
            # an angle knows an area but for the whole sphere
            area[counts.argmax()] += sphere_area
        is_divided = (area >= HEAVY * sphere_area) | (counts > 0)
        if level == LEVELS[-1]:
            is_divided[:] = False
        _add(mass, cells[~is_divided], area[~is_divided].clamp_min(0), level)
        remaining_area -= area[~is_divided].sum().item()
        cells = (PARTS * cells[is_divided][:, None] + torch.arange(PARTS)).flatten()
    return floored(mass)


def _add(mass: Float[Tensor, " all"], cells: Tensor, values: Tensor, level: int) -> None:
    """Add values of cells of some level to the mass of coarser or finer ones."""
    nside = math.isqrt(len(mass) // 12)
    if level > nside:
        mass.index_add_(0, cells // (level // nside) ** 2, values)
    else:
        count = (nside // level) ** 2
        rearrange(mass, "(cell part) -> cell part", part=count)[cells] += values[:, None] / count


def _area(corners: Float[Tensor, "*batch 4 3"]) -> Float[Tensor, "*batch"]:
    """Signed area of spherical quadrangles (Van Oosterom and Strackee 1983, eq. 8, twice)."""
    a, *rest = corners.unbind(-2)
    total = torch.zeros_like(a[..., 0])
    for b, c in pairwise(rest):
        volume = (a * torch.linalg.cross(b, c)).sum(-1)
        total += 2 * torch.atan2(volume, 1 + (a * b).sum(-1) + (b * c).sum(-1) + (c * a).sum(-1))
    return total


def _corners(
    cells: Int[Tensor, " cells"], nside: int
) -> tuple[Float[Tensor, "corners 3"], Int[Tensor, "cells 4"]]:
    """Corners of cells, each once, and which are those of a cell, counterclockwise from outside."""
    lon, lat = grid(nside).boundaries_lonlat(cells.numpy(), 1)
    degrees = torch.from_numpy(np.stack((lat.to_value("deg"), lon.to_value("deg")), axis=-1))
    xyz = rearrange(to_xyz(degrees), "cells corners side -> (cells corners) side").numpy()
    _, indices, corner = np.unique(
        xyz.round(9) + 0.0, axis=0, return_index=True, return_inverse=True
    )
    number = rearrange(torch.from_numpy(corner.ravel()), "(cells four) -> cells four", four=4)
    return torch.from_numpy(xyz[indices]), number
