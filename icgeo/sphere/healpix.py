"""The HEALPix grid: which cell holds a location, where cells lie, their outlines on a map.

Conventions: cells in NESTED order, `nside` a power of two; HEALPix longitude is that of the Earth.
"""

import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from astropy import units
from astropy_healpix import HEALPix, healpix_to_lonlat
from einops import rearrange, reduce, repeat
from jaxtyping import Float, Int
from torch import Tensor

from icgeo.sphere import Values, as_lat_lon, to_xyz, wrap_longitude

Cells = Int[Tensor, " chosen"]
"""Numbers of some of the cells."""


def cell_side(nside: int) -> float:
    """Return the side of a cell in radians, as the root of its area."""
    return math.sqrt(4 * math.pi / 12) / nside


@lru_cache(maxsize=16)
def grid(nside: int) -> Any:
    """Return the `astropy_healpix.HEALPix` grid of this `nside`; cached."""
    if nside < 1 or nside & (nside - 1):
        raise ValueError(f"expected nside to be a power of two, got {nside}")
    return HEALPix(nside=nside, order="nested")


def cell_lat_lon(
    cells: Int[Tensor, "*batch"],
    nside: int | Int[Tensor, "*batch"],
    offsets: Float[Tensor, "2 *batch"] | None = None,
) -> Float[Tensor, "*batch 2"]:
    """Return locations in cells at `offsets` in [0, 1] along their two sides, or their centres."""
    dx, dy = (None, None) if offsets is None else offsets.numpy()
    sides = nside.numpy() if isinstance(nside, Tensor) else grid(nside).nside
    lon, lat = healpix_to_lonlat(cells.numpy(), sides, dx=dx, dy=dy, order="nested")
    lon = wrap_longitude(torch.from_numpy(lon.deg))
    return torch.stack((torch.from_numpy(lat.deg), lon), dim=-1)


@lru_cache(maxsize=8)
def cell_xyz(nside: int) -> Float[Tensor, "cells 3"]:
    """Return the unit vectors of the centres of all cells; cached, do not write to it."""
    return to_xyz(cell_lat_lon(torch.arange(12 * nside**2), nside))


@lru_cache(maxsize=8)
def mean_vectors(nside: int) -> Float[Tensor, "cells 3"]:
    """Return mean vectors over cells, shorter than 1 by half the mean square chord; cached."""
    return cell_xyz(nside) * (1 - 4 * math.pi / (12 * nside**2) / 12)


@lru_cache(maxsize=4)
def neighbours(nside: int) -> Int[Tensor, "cells 8"]:
    """Return the cells around each; the few that have seven stand in for the eighth. Cached."""
    cells = np.arange(12 * nside**2)
    indices = _neighbours(cells, nside).T
    return torch.from_numpy(np.where(indices < 0, cells[:, None], indices))


def _neighbours(cells: Int[np.ndarray, " chosen"], nside: int) -> Int[np.ndarray, "8 chosen"]:
    """Return the cells around each, of which every second shares a side; -1 where there is none."""
    with np.errstate(invalid="ignore"):  # raised by the compiled code for no reason
        return grid(nside).neighbours(cells)


def cell_of(lat_lon: Values, nside: int) -> Int[Tensor, "*batch"]:
    """Return the index of the cell that holds each location."""
    lat, lon = as_lat_lon(lat_lon).detach().cpu().double().unbind(-1)
    cells = grid(nside).lonlat_to_healpix(lon.numpy() * units.deg, lat.numpy() * units.deg)
    return torch.from_numpy(np.asarray(cells, dtype=np.int64))


def interpolate(values: Float[Tensor, " cells"], lat_lon: Values) -> Float[Tensor, "*batch"]:
    """Interpolate between the centres of the four cells around each location."""
    lat, lon = as_lat_lon(lat_lon).detach().cpu().double().unbind(-1)
    # astropy-healpix gives NaN west of Greenwich and at the poles themselves
    lat, lon = lat.clamp(-90 + 1e-6, 90 - 1e-6), lon % 360
    places = (lon.numpy() * units.deg, lat.numpy() * units.deg)
    healpix = grid(math.isqrt(len(values) // 12))
    return torch.from_numpy(healpix.interpolate_bilinear_lonlat(*places, values.numpy()))


def points_in_cells(cells: Cells, nside: int, per_side: int) -> Float[Tensor, "chosen points 2"]:
    """Return a regular grid of locations inside each cell, `per_side` along each side."""
    steps = (torch.arange(per_side, dtype=torch.float64) + 0.5) / per_side
    offsets = torch.cartesian_prod(steps, steps)
    offset = repeat(offsets, "point side -> side cell point", cell=len(cells))
    return cell_lat_lon(repeat(cells, "cell -> cell point", point=len(offsets)), nside, offset)


def cell_of_pixels(nside: int, height: int) -> Int[Tensor, "height width"]:
    """Return the cell under each pixel of an equirectangular map of width 2 height."""
    lat = 90 - 180 * (torch.arange(height, dtype=torch.float64) + 0.5) / height
    lon = 180 * (torch.arange(2 * height, dtype=torch.float64) + 0.5) / height - 180
    # some rows at a time, for the coordinates take many times the memory of the cells
    rows = (torch.cartesian_prod(part, lon) for part in lat.split(64))
    return rearrange(torch.cat([cell_of(part, nside) for part in rows]), "(h w) -> h w", h=height)


def mass_of_pixels(mass: Float[Tensor, " cells"], height: int) -> Float[Tensor, "height width"]:
    """Spread the mass of cells over the pixels of an equirectangular map of width 2 height.

    By points in each pixel, at most a third of a cell apart, among which the mass of each cell is
    shared out by their areas, so that sums are exact.
    """
    per_side = math.ceil(3 * 180 / height / math.degrees(cell_side(math.isqrt(len(mass) // 12))))
    cells = cell_of_pixels(math.isqrt(len(mass) // 12), per_side * height)
    edges = torch.linspace(math.pi / 2, -math.pi / 2, per_side * height + 1, dtype=torch.float64)
    area = -edges.sin().diff()[:, None].expand(cells.shape)
    cell_area = torch.bincount(cells.flatten(), area.flatten(), minlength=len(mass))
    points = (mass / cell_area)[cells] * area
    return reduce(points, "(h r) (w s) -> h w", "sum", r=per_side, s=per_side)


def connected_parts(cells: Cells, nside: int) -> Int[np.ndarray, " chosen"]:
    """Number the parts into which a set of cells falls; cells of one part share sides."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rank = np.full(12 * nside**2, -1)
    rank[cells.numpy()] = np.arange(len(cells))
    columns = rank[_neighbours(cells.numpy(), nside)[::2]]
    rows = np.broadcast_to(np.arange(len(cells)), columns.shape)[columns >= 0]
    links = coo_array((np.ones(len(rows)), (rows, columns[columns >= 0])), shape=2 * (len(cells),))
    return connected_components(links, directed=False)[1]


def cell_outlines(
    cells: Cells, nside: int, *, finer: int = 1
) -> tuple[Int[np.ndarray, " polygons"], Any]:
    """Outline cells as shapely polygons in degrees, longitude first: (cell's position, polygon).

    Longitudes stay in [-180, 180]: a cell across the antimeridian gives two polygons. Neighbours
    share vertices exactly, so that polygons can be dissolved as a coverage. Sides have
    `finer` times the usual number of points.
    """
    import shapely

    step = finer * max(2, 32 // nside)
    centre_lon, centre_lat = (x.deg[:, None] for x in grid(nside).healpix_to_lonlat(cells.numpy()))
    lon, lat = (x.to_value("deg") for x in grid(nside).boundaries_lonlat(cells.numpy(), step))
    # longitudes are unbroken around each cell
    centre_lon = (centre_lon + 180) % 360 - 180
    ring = np.stack((centre_lon + (lon - centre_lon + 180) % 360 - 180, lat), axis=-1)
    # counterclockwise from the corner next to the pole and back to it
    ring = np.where(centre_lat[..., None] < 0, np.roll(ring, 2 * step, axis=1), ring)
    ring = ring[:, [*range(4 * step), 0]]
    # at the pole itself that corner has two longitudes, those of the sides that leave it
    at_pole = np.abs(ring[:, 0, 1]) > 90 - 1e-9
    ring[at_pole, 0, 0] = ring[at_pole, 1, 0]
    ring[at_pole, -1, 0] = ring[at_pole, -2, 0]
    # such cells have two corners on the antimeridian, which halve the ring
    is_split = np.abs(ring[..., 0]).max(axis=1) > 180 + 1e-9
    halves = np.concatenate((ring[is_split, : 2 * step + 1], ring[is_split, 2 * step :]))
    halves[..., 0] -= 360 * np.round(halves[..., 0].mean(axis=1, keepdims=True) / 360)
    position = np.arange(len(cells))
    polygons = [shapely.polygons(np.round(part, 9)) for part in (ring[~is_split], halves)]
    owners = (position[~is_split], position[is_split], position[is_split])
    return np.concatenate(owners), np.concatenate(polygons)
