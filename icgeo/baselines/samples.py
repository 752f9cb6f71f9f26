"""What a generative head draws, or its flow, as a density and as a point."""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor

from icgeo.sphere import angle, to_lat_lon, to_xyz, von_mises_fisher_log_prob
from icgeo.sphere.density import Density
from icgeo.sphere.healpix import cell_of, grid

KAPPAS = tuple(10 ** (1 + step / 3) for step in range(9))
"""Concentrations of kernels that are tried: sigma from 18 to 0.8 degrees."""

COARSE = 4
"""Sides of the cells that are looked at first, in cells of the density."""
REFINED = 0.9999
"""Mass of those that are divided."""
FLOOR = 0.01
"""Share that is uniform, for where a flow hardly comes it is not known to a digit."""


def density_of_samples(xyz: Float[Tensor, "samples 3"], *, nside: int) -> Density:
    """Spread samples by von Mises-Fisher kernels, with one uniform sample more among them.

    The concentration is the one of `KAPPAS` under which each sample is likeliest, given the others
    (Hall, Watson and Cabrera 1987).
    """
    count = len(xyz)
    xyz = xyz.double()
    others = ~torch.eye(count, dtype=torch.bool)
    scores = []
    for kappa in KAPPAS:
        pairs = von_mises_fisher_log_prob(xyz[:, None], xyz[None], kappa)
        likelihood = (pairs.exp() * others).sum(-1) + 1 / (4 * math.pi)
        scores.append(likelihood.log().sum())
    kappa = KAPPAS[int(torch.stack(scores).argmax())]
    mass = Density.from_mixture(to_lat_lon(xyz), kappa, nside=nside).mass
    return Density(count * mass + 1 / len(mass))


def medoid(xyz: Float[Tensor, "photos samples 3"]) -> Float[Tensor, "photos 3"]:
    """Choose the sample of each photo that is nearest to its others in the mean."""
    distance = angle(xyz[:, :, None], xyz[:, None])
    best = distance.sum(-1).argmin(-1)
    return xyz[torch.arange(len(xyz)), best]


def density_of_flow(
    to_noise: Callable[[Tensor], Tensor], samples: Float[Tensor, "samples 3"], nside: int
) -> Density:
    """Give each cell the share of the uniform noise that flows into it.

    Corners of cells are led back to the noise, where the cell becomes a quadrangle; its area is the
    mass, so that no mode is too narrow for the grid and nothing is lost. Cells of `COARSE` times
    the side come first, and those that hold the mass are divided. An angle knows an area but for
    the whole sphere: a cell with more than half of the mass is known by some samples of the flow.
    """
    ratio = min(COARSE, nside)
    counts = torch.bincount(cell_of(to_lat_lon(samples), nside), minlength=12 * nside**2)
    counts = rearrange(counts, "(cell part) -> cell part", part=ratio**2)
    coarse = torch.arange(len(counts))[None]
    mass = _noise_areas(to_noise, coarse, counts.sum(-1)[None], nside // ratio)[0]
    heavy = mass.argsort(descending=True)
    heavy = heavy[: int((mass[heavy].cumsum(0) < REFINED * mass.sum()).sum()) + 1]
    parts = repeat(mass / ratio**2, "cell -> cell part", part=ratio**2).clone()
    fine = heavy[:, None] * ratio**2 + torch.arange(ratio**2)
    parts[heavy] = _noise_areas(to_noise, fine, counts[heavy], nside, mass[heavy])
    mass = Density(rearrange(parts, "cell part -> (cell part)")).mass
    return Density((1 - FLOOR) * mass + FLOOR / len(mass))


def _noise_areas(
    to_noise: Callable[[Tensor], Tensor],
    cells: Int[Tensor, "groups cells"],
    counts: Int[Tensor, "groups cells"],
    nside: int,
    totals: Float[Tensor, " groups"] | None = None,
) -> Float[Tensor, "groups cells"]:
    """Areas of where the noise of cells comes from; of a group about its total, or the sphere's."""
    corners, corner = _corners(cells, nside)
    area = _area(to_noise(corners).double().cpu()[corner])
    total = 4 * math.pi if totals is None else totals
    (lacking,) = torch.where(total - area.sum(-1) > 2 * math.pi)
    area[lacking, counts[lacking].argmax(-1)] += 4 * math.pi
    # sides of cells are not quite great circles
    return area.clamp_min(0) / _area(corners[corner]) * (4 * math.pi / (12 * nside**2))


def _area(corners: Float[Tensor, "*batch 4 3"]) -> Float[Tensor, "*batch"]:
    """Signed area of spherical quadrangles (Van Oosterom and Strackee 1983, eq. 8, twice)."""
    a, *rest = corners.unbind(-2)
    total = torch.zeros_like(a[..., 0])
    for b, c in pairwise(rest):
        volume = (a * torch.linalg.cross(b, c)).sum(-1)
        total += 2 * torch.atan2(volume, 1 + (a * b).sum(-1) + (b * c).sum(-1) + (c * a).sum(-1))
    return total


def _corners(
    cells: Int[Tensor, "groups cells"], nside: int
) -> tuple[Float[Tensor, "corners 3"], Int[Tensor, "groups cells 4"]]:
    """Corners of cells, each once, and which are those of a cell, counterclockwise from outside."""
    lon, lat = grid(nside).boundaries_lonlat(cells.flatten().numpy(), 1)
    degrees = torch.from_numpy(np.stack((lat.to_value("deg"), lon.to_value("deg")), axis=-1))
    xyz = rearrange(to_xyz(degrees), "cells corners side -> (cells corners) side").numpy()
    _, first, corner = np.unique(xyz.round(9) + 0.0, axis=0, return_index=True, return_inverse=True)
    number = rearrange(torch.from_numpy(corner.ravel()), "(g n k) -> g n k", g=len(cells), k=4)
    return torch.from_numpy(xyz[first]), number
