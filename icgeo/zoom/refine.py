"""The second level: where in a view cut at a supposed pose the query lies, by its alike cells."""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from icgeo.data.poses import similarities
from icgeo.models.matching import MatchSettings, log_ratio, mutual_matches


@dataclass(frozen=True)
class Tries:
    """Which similarities are tried: shifts in half widths, scales, and turns in degrees."""

    reach: float
    step: float
    scales: tuple[float, ...]
    turns_deg: tuple[float, ...]
    stride: int = 1
    """Every so many cells of the query are asked, in each direction."""

    @property
    def shifts(self) -> Float[Tensor, " shifts"]:
        """Shifts in each direction."""
        count = round(self.reach / self.step)
        return torch.arange(-count, count + 1) * self.step


WIDE = Tries(0.5, 0.125, (0.75, 0.87, 1.0, 1.15, 1.32), (-20.0, -10.0, 0.0, 10.0, 20.0), 2)
UPRIGHT = Tries(0.5, 0.125, (0.75, 0.87, 1.0, 1.15, 1.32), (0.0,), 2)
CLOSE = Tries(0.1875, 0.0625, (0.93, 1.0, 1.07), (-5.0, 0.0, 5.0))


@lru_cache(maxsize=8)
def _lookups(tries: Tries, grid: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the warps, and for each the cell of the view that each cell asked shows; -1: none."""
    shifts = tries.shifts
    down, right, scale, turn = torch.cartesian_prod(
        shifts, shifts, torch.tensor(tries.scales), torch.tensor(tries.turns_deg)
    ).unbind(-1)
    warps = similarities(torch.stack((right, down), -1), scale, turn)
    step = (torch.arange(grid) + 0.5) * 2 / grid - 1
    sampled = torch.arange(grid)[tries.stride // 2 :: tries.stride]
    rows, columns = torch.meshgrid(sampled, sampled, indexing="ij")
    numbers = (rows * grid + columns).flatten()
    places = torch.stack((step[columns], step[rows], torch.ones(rows.shape)), -1).flatten(0, 1)
    lies = places @ warps.mT  # [warps, sampled, 2]
    inside = lies.abs().amax(-1) < 1
    column, row = ((lies + 1) * grid / 2).int().clamp(0, grid - 1).unbind(-1)
    return warps, numbers, torch.where(inside, row * grid + column, -1).long()


def tried(
    query: Float[Tensor, "cells channels"],
    views: Float[Tensor, "views cells channels"],
    settings: MatchSettings,
    tries: Tries,
) -> tuple[Float[Tensor, "warps 2 3"], Float[Tensor, "views warps"]]:
    """Return how much alike cells speak for each warp of the query into each view, in nats."""
    grid = math.isqrt(query.shape[0])
    warps, numbers, lookups = _lookups(tries, grid)
    # each view is asked alone: they show the same places, and would share out the matches
    matches = mutual_matches(query.expand(len(views), -1, -1), views[:, None], settings)[:, 0]
    ratios = log_ratio(matches[:, numbers], grid**2, settings)
    padded = torch.nn.functional.pad(ratios, (0, 1))  # what is outside says nothing
    rows = torch.arange(len(numbers)) * (grid**2 + 1)
    index = (torch.where(lookups < 0, grid**2, lookups) + rows).int()
    table = rearrange(padded, "v q c -> (q c) v").contiguous()
    table = table if len(views) > 1 else table.expand(-1, 2).contiguous()
    sums = torch.nn.functional.embedding_bag(index, table, mode="sum").T[: len(views)]
    return warps, sums * tries.stride**2
