"""The single location that answers best for a density: largest expected GeoScore, or the median.

Both maximise the expectation of `exp(-angle / scale)`, of which the geometric median is the limit
of a long scale. The search runs on blocks: groups of cells, the mass of each at its mean vector.
"""

import math
from typing import NamedTuple

import torch
from einops import einsum, pack, rearrange, unpack
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from icgeo.sphere import EARTH_RADIUS_KM, to_lat_lon
from icgeo.sphere.healpix import mean_vectors

GEOSCORE_SCALE_KM = 1492.7
"""GeoScore is 5000 exp(-distance / scale)."""

_COARSE_NSIDE = 8
_NEAR_BLOCKS = 32
_STARTS = 8
_BATCH = 16
_EMPTY = 1e-30  # far below any mass that counts, far above numbers too small to be exact


Points = Float[Tensor, "batch points 3"]


class _Blocks(NamedTuple):
    mass: Float[Tensor, "batch blocks"]
    vector: Float[Tensor, "batch blocks 3"]
    """Mean over the mass of the block, shorter than 1."""


def best_points(
    mass: Float[Tensor, "*batch cells"], scale_km: float = GEOSCORE_SCALE_KM
) -> Float[Tensor, "*batch 2"]:
    """Find the location of largest expected GeoScore for each density, finer than its cells.

    `mass`, in NESTED order, need not be normalised; a `scale_km` from 1e9 on gives the median.
    """
    rows, batch = pack([mass], "* cells")
    points = [_best_xyz(part, scale_km / EARTH_RADIUS_KM) for part in torch.split(rows, _BATCH)]
    return unpack(to_lat_lon(torch.cat(points)), batch, "* side")[0]


def _best_xyz(mass: Float[Tensor, "batch cells"], scale: float) -> Float[Tensor, "batch 3"]:
    nside = math.isqrt(mass.shape[-1] // 12)
    centre = mean_vectors(min(nside, _COARSE_NSIDE)).to(mass)
    vector = mean_vectors(nside).to(mass)
    vector = rearrange(vector, "(block cell) side -> block cell side", block=len(centre))
    mass = mass / mass.sum(-1, keepdim=True)
    parts = rearrange(mass, "batch (block cell) -> batch block cell", block=len(centre))
    block_mass = parts.sum(-1)
    moment = einsum(parts, vector, "batch block cell, block cell side -> batch block side")
    # an empty block keeps the vector of a uniform one
    moment = (moment + _EMPTY * centre) / (block_mass + _EMPTY)[..., None]
    blocks = _Blocks(block_mass, moment)
    point = _climb(_best(_starts(blocks), blocks, scale, _STARTS), blocks, scale, steps=8)
    point = _best(point, blocks, scale, 1)
    # the blocks near the point fall into their cells; the others stay, to second order exact
    near_blocks = (point[:, 0] @ centre.T).topk(min(_NEAR_BLOCKS, len(centre))).indices
    near_mass = parts.take_along_dim(near_blocks[..., None], dim=1).flatten(1)
    mass = torch.cat((block_mass.scatter(1, near_blocks, 0), near_mass), dim=1)
    blocks = _Blocks(mass, torch.cat((moment, vector[near_blocks].flatten(1, 2)), dim=1))
    return _climb(point, blocks, scale, steps=30)[:, 0]


def _starts(blocks: _Blocks) -> Points:
    """Return the directions of the heaviest of each four neighbouring blocks, and the mean."""
    mass = rearrange(blocks.mass, "batch (area block) -> batch area block", block=4)
    vector = rearrange(blocks.vector, "batch (area block) side -> batch area block side", block=4)
    index = mass.argmax(-1)[..., None, None]
    start = vector.take_along_dim(index, dim=2).squeeze(2)
    mean = blocks.mass[:, None] @ blocks.vector
    # where there is no mean, any point of the right length does
    return normalize(torch.cat((start, mean + 1e-9 * start[:, :1]), dim=1), dim=-1)


def _angles(point: Points, blocks: _Blocks) -> Float[Tensor, "batch points blocks"]:
    """Return the angle of the root mean square chord from a point p to the mass x of a block."""
    # E |x - p|^2 = 2 - 2 E[x] . p, and E[x] is shorter than 1, so that acos keeps its digits
    return torch.acos(point @ blocks.vector.mT)


def _best(
    point: Points, blocks: _Blocks, scale: float, count: int
) -> Float[Tensor, "batch best 3"]:
    # expm1: at a long scale all values of exp are 1 but for their last digits
    value = torch.expm1(-_angles(point, blocks) / scale) @ blocks.mass[..., None]
    best = value.topk(min(count, value.shape[1]), dim=1).indices
    return point.take_along_dim(best, dim=1)


def _climb(point: Points, blocks: _Blocks, scale: float, *, steps: int) -> Points:
    """Ascend by Weiszfeld's iteration with Nesterov's momentum; 1 / angle bounds the curvature."""
    previous = point
    for step in range(steps):
        lookahead = normalize(point + step / (step + 3) * (point - previous), dim=-1)
        angle = _angles(lookahead, blocks)
        slope = blocks.mass[:, None, :] * torch.exp(-angle / scale)
        pull = (slope / torch.sin(angle)) @ blocks.vector
        pull = pull - (pull * lookahead).sum(-1, keepdim=True) * lookahead
        previous = point
        point = normalize(lookahead + pull / (slope / angle).sum(-1, keepdim=True), dim=-1)
    return point
