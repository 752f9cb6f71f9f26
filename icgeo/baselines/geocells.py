"""Geolocation as classification: PlaNet over S2 cells, and PIGEON over cells that respect borders.

Conventions: cells are numbered from 0; -1 is a place in none. S2 identifiers are uint64, of the
package `s2cell`; a cell is the range of the leaves along the Hilbert curve that it holds.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt64
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

from icgeo.baselines.head import HEAD_NSIDE, Loss, Places, TrainingSettings, Vectors, floored, trunk
from icgeo.config import require
from icgeo.sphere import as_lat_lon, healpix, to_lat_lon
from icgeo.sphere.density import Density

LEAF_LEVEL = 30

Ids = UInt64[np.ndarray, "_"]
Albums = Float[Tensor, "albums photos channels"]
"""Features of the photos of albums."""


def leaf_ids(lat_lon: Float[Tensor, "places 2"]) -> Ids:
    """Return the S2 leaf cell of each place in degrees."""
    s2cell = require("s2cell", "S2 cells", "baselines")
    rows = as_lat_lon(lat_lon).tolist()
    ids = [s2cell.lat_lon_to_cell_id(*row, LEAF_LEVEL) for row in rows]
    return np.array(ids, dtype=np.uint64)


@lru_cache(maxsize=2)
def grid_leaves(nside: int) -> Ids:
    """Return the S2 leaf of the centre of each HEALPix cell; cached, some 0.02 ms a cell."""
    return leaf_ids(to_lat_lon(healpix.cell_xyz(nside)))


def lowest_bits(level: int | Int[np.ndarray, " cells"]) -> Any:
    """Return the bit that marks a cell of a level, half the width of its range of leaves."""
    return np.uint64(1) << (2 * (LEAF_LEVEL - np.asarray(level))).astype(np.uint64)


def parents(ids: Ids, level: int) -> Ids:
    """Return the cells of a level that hold cells below."""
    bit = lowest_bits(level)
    return (ids & ~(bit - np.uint64(1)) & ~bit) | bit if level < LEAF_LEVEL else ids


@dataclass(frozen=True, eq=False)
class S2Cells:
    """Cells of several levels, no two of which overlap, in order along the curve."""

    ids: Ids
    levels: Int[np.ndarray, " cells"]

    @classmethod
    def adaptive(
        cls, leaves: Ids, *, split_above: int, drop_below: int, max_level: int = LEAF_LEVEL
    ) -> "S2Cells":
        """Split the six faces until no cell has more photos (Weyand et al. 2016, section 3).

        Cells that have fewer than `drop_below` are dropped; with 0 the cells cover the sphere.

        Raises:
            ValueError: every cell is dropped.
        """
        faces = np.arange(6, dtype=np.uint64) << np.uint64(61)
        current = faces | np.uint64(1 << 60)
        cells: list[tuple[int, int]] = []
        for level in range(max_level + 1):
            parent_ids, counts = np.unique(parents(leaves, level), return_counts=True)
            photos = dict(zip(parent_ids.tolist(), counts.tolist(), strict=True))
            count = np.array([photos.get(cell, 0) for cell in current.tolist()], dtype=int)
            is_split = (count > split_above) & (level < max_level)
            stays = ~is_split & (count >= drop_below)
            cells += [(cell, level) for cell in current[stays].tolist()]
            quarter = np.int64(lowest_bits(level + 1) if level < LEAF_LEVEL else 0)
            children = current[is_split, None].astype(np.int64) + quarter * np.array([-3, -1, 1, 3])
            current = children.astype(np.uint64).ravel()
        if not cells:
            raise ValueError(
                f"expected a cell with at least {drop_below} photos, got none of "
                f"{len(leaves)} photos; lower drop_below"
            )
        cells.sort()
        ids, levels = zip(*cells, strict=True)
        return cls(np.array(ids, dtype=np.uint64), np.array(levels))

    def number_of(self, leaves: Ids) -> Int[np.ndarray, " places"]:
        """Return the number of the cell that holds each leaf, -1 where there is none."""
        reach = lowest_bits(self.levels) - np.uint64(1)
        number = np.searchsorted(self.ids - reach, leaves, side="right") - 1
        inside = (number >= 0) & (leaves <= (self.ids + reach)[number])
        return np.where(inside, number, -1)

    def centres(self) -> Float[Tensor, "cells 2"]:
        """Return the centres in degrees."""
        s2cell = require("s2cell", "S2 cells", "baselines")
        places = [s2cell.cell_id_to_lat_lon(cell) for cell in self.ids.tolist()]
        return torch.tensor(places, dtype=torch.float64)


class CellDensities(nn.Module):
    """Turns probabilities of cells into densities, uniform within each cell."""

    grid: Tensor
    home: Tensor
    count: Tensor

    def __init__(
        self, grid: Int[np.ndarray, " healpix"], centres: Float[Tensor, "cells 2"]
    ) -> None:
        """Take the cell of each HEALPix cell, -1 in none, and the centre of each cell."""
        super().__init__()
        home = healpix.cell_of(centres, math.isqrt(len(grid) // 12))
        count = np.bincount(grid[grid >= 0], minlength=len(centres))
        for name, values in (("grid", grid), ("count", count)):
            self.register_buffer(name, torch.from_numpy(np.asarray(values, dtype=np.int64)))
        self.register_buffer("home", home)

    def forward(self, probabilities: Float[Tensor, "photos cells"]) -> list[Density]:
        """Return a density for each photo; cells below the grid's are where their centre is."""
        shares = probabilities.double() / self.count.clamp(min=1)
        mass = shares[:, self.grid.clamp(min=0)] * (self.grid >= 0)
        small_cells = torch.nonzero(self.count == 0).flatten()
        mass = mass.index_add(1, self.home[small_cells], shares[:, small_cells])
        return [floored(one) for one in mass]


@dataclass(frozen=True, kw_only=True)
class PlanetSettings(TrainingSettings):
    """Settings of PlaNet's cells."""

    split_above: int = 20
    """Photos in a cell from which it is split; 10,000 in the paper."""
    drop_below: int = 0
    """Photos below which a cell is dropped; 50 in the paper. With 0 cells cover the sphere."""
    max_level: int = 7
    """Finest level of S2, of cells of some 70 km."""


class PlanetCells(nn.Module):
    """The cells that photos make, as targets and as densities."""

    def __init__(self, xyz: Float[Tensor, "*photos 3"], settings: PlanetSettings) -> None:
        super().__init__()
        leaves = leaf_ids(to_lat_lon(xyz.reshape(-1, 3).double()))
        self.cells = S2Cells.adaptive(
            leaves,
            split_above=settings.split_above,
            drop_below=settings.drop_below,
            max_level=settings.max_level,
        )
        grid = self.cells.number_of(grid_leaves(HEAD_NSIDE))
        self.densities = CellDensities(grid, self.cells.centres())

    def __len__(self) -> int:
        return len(self.cells.ids)

    def loss(self, logits: Float[Tensor, "*photos cells"], xyz: Float[Tensor, "*photos 3"]) -> Loss:
        """Return the cross-entropy over photos that are in a cell."""
        leaves = leaf_ids(to_lat_lon(xyz.reshape(-1, 3).double()))
        number = torch.from_numpy(self.cells.number_of(leaves)).to(logits.device)
        flat_logits, count = logits.reshape(-1, logits.shape[-1]), int((number >= 0).sum())
        return cross_entropy(flat_logits, number, ignore_index=-1, reduction="sum") / max(1, count)


class Planet(nn.Module):
    """PlaNet: which of adaptive S2 cells a photo was taken in (Weyand et al. 2016)."""

    def __init__(self, features: Vectors, xyz: Places, settings: PlanetSettings) -> None:
        super().__init__()
        self.cells = PlanetCells(xyz, settings)
        self.trunk = trunk(features.shape[-1], settings.width, len(self.cells), depth=1)

    def loss(self, features: Vectors, xyz: Places, generator: Generator) -> Loss:
        """Return the cross-entropy of the cells."""
        return self.cells.loss(self.trunk(features), xyz)

    def densities(self, features: Vectors) -> list[Density]:
        """Return the probability of each cell, spread over it."""
        return self.cells.densities(self.trunk(features).softmax(-1))


@dataclass(frozen=True, kw_only=True)
class AlbumSettings(PlanetSettings):
    """Settings of PlaNet over albums."""

    offset: int = 0
    """Photos that are seen ahead before the first is located: "LSTM off1" and "off2" are 1, 2."""
    repeats: int = 1
    """How often an album is read; of 2 only the second reading counts ("LSTM rep")."""
    bidirectional: bool = False
    """Whether the album is read backwards too ("LSTM bi-dir")."""


class PlanetAlbums(nn.Module):
    """PlaNet's LSTM over the photos of an album, in order (Weyand et al. 2016, section 5)."""

    def __init__(self, features: Albums, xyz: Tensor, settings: AlbumSettings) -> None:
        super().__init__()
        self.settings = settings
        self.cells = PlanetCells(xyz, settings)
        channels, ways = features.shape[-1], 1 + settings.bidirectional
        self.scale = nn.LayerNorm(channels, elementwise_affine=False)
        self.lstm = nn.LSTM(
            channels, settings.width, batch_first=True, bidirectional=settings.bidirectional
        )
        self.out = nn.Linear(ways * settings.width, len(self.cells))

    def logits(self, features: Albums) -> Float[Tensor, "albums photos cells"]:
        """Return the logits of the cells for each photo; the last photo fills what is ahead."""
        photos, offset = features.shape[1], self.settings.offset
        inputs = torch.cat(self.settings.repeats * [self.scale(features)], dim=1)
        inputs = torch.cat((inputs, inputs[:, -1:].expand(-1, offset, -1)), dim=1)
        return self.out(self.lstm(inputs)[0][:, -photos:])

    def loss(
        self, features: Albums, xyz: Float[Tensor, "albums photos 3"], generator: Generator
    ) -> Loss:
        """Return the cross-entropy of the cells of all photos."""
        return self.cells.loss(self.logits(features), xyz)

    def densities(self, features: Albums) -> list[Density]:
        """Return a density for each photo, album after album."""
        return self.cells.densities(self.logits(features).softmax(-1).flatten(0, 1))
