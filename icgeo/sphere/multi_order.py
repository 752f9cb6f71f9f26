"""A density whose cells are of several sizes, fine where the mass is, as LIGO's sky maps are.

Conventions: as in `icgeo.sphere.density`; a cell goes by `uniq`, 4 nside^2 + its number in NESTED
order (Fernique et al. 2022, MOC 2.0); cells cover the sphere once.
"""

import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from icgeo import sphere
from icgeo.sphere import AREA_KM2, EARTH_RADIUS_KM, Values, files, healpix
from icgeo.sphere.best_point import best_points
from icgeo.sphere.density import Density

if TYPE_CHECKING:
    import geopandas

EVEN = 64
"""Nside of the even cells that stand for the others where a map of the world is enough."""
FINEST = 2**17
"""Cells are split no further: their side is 50 m."""
REACH = 4.5
"""Kernels have fine cells so many standard deviations around."""


@dataclass(frozen=True, eq=False)
class MultiOrderDensity(Density):
    """A distribution over cells of several orders; build it with `refined` or `load`.

    What takes a density for its `mass` and `nside` gets even cells; every method sees its own.
    """

    mass: Float[Tensor, "*cells"] = field(init=False)
    """Probability of each of the even cells."""
    uniq: Int[Tensor, " cells"]
    """Numbers of its cells; sorted, so that coarse cells come first."""
    cell_mass: Float[Tensor, " cells"]
    """Probability of each of them; what is given is normalised."""

    def __post_init__(self) -> None:
        mass = self.cell_mass.double()
        if len(self.uniq) != len(mass) or not (mass >= 0).all() or not 0 < mass.sum() < math.inf:
            raise ValueError("expected one finite mass for each cell, none negative, one positive")
        uniq, order = self.uniq.sort()
        object.__setattr__(self, "uniq", uniq)
        object.__setattr__(self, "cell_mass", (mass / mass.sum())[order])
        start, by_place = self._starts
        end = start + (FINEST // self.sides[by_place]) ** 2
        if start[0] != 0 or end[-1] != 12 * FINEST**2 or not (end[:-1] == start[1:]).all():
            raise ValueError(
                "expected cells that cover the sphere once, got gaps or cells twice; give those "
                "without mass, too"
            )
        even_mass, _ = files.spread(
            self.uniq.numpy(), self.cell_mass.numpy(), EVEN.bit_length() - 1
        )
        object.__setattr__(self, "mass", torch.from_numpy(even_mass))

    @classmethod
    def refined(
        cls, base: Density, means: Values, sigmas_deg: Values, weights: Values
    ) -> "MultiOrderDensity":
        """Mix an even density with kernels, finer where they are.

        Args:
            base: has the weight that the kernels leave.
            means: of the kernels (von Mises-Fisher), locations in degrees.
            sigmas_deg: their standard deviations in each direction, in degrees.
            weights: of the kernels, in [0, 1] and 1 together at most.
        """
        xyz = sphere.to_xyz(sphere.as_lat_lon(means).double().reshape(-1, 2))
        sigma = torch.deg2rad(sphere.as_tensor(sigmas_deg).double()).expand(len(xyz))
        weight = sphere.as_tensor(weights).double().expand(len(xyz))
        if not (sigma > 0).all() or not (weight >= 0).all() or weight.sum() > 1 + 1e-9:
            raise ValueError("expected positive sigmas, and weights of 1 together at most")
        nside, cells, parts = base.nside, torch.arange(len(base.mass)), []
        while len(cells):
            side = healpix.cell_side(nside)
            centre = sphere.to_xyz(healpix.cell_lat_lon(cells, nside))
            reach = (REACH * sigma + side).clamp_max(math.pi)
            is_near = _chords(centre, xyz) < 2 * torch.sin(reach / 2)
            splits = (is_near & (sigma < side)).any(1) & (nside < FINEST)
            leaves = cells[~splits]
            parts.append(torch.stack((leaves, torch.full_like(leaves, nside))))
            cells, nside = (4 * cells[splits, None] + torch.arange(4)).flatten(), 2 * nside
        cells, sides = torch.cat(parts, dim=1)
        centre = sphere.to_xyz(healpix.cell_lat_lon(cells, sides))
        area = 1 / sides.double().square()
        parent = cells // (sides // base.nside) ** 2
        mass = (1 - weight.sum()).clamp_min(0) * base.mass[parent] * area * base.nside**2
        # widened by the second moment of a cell, as in `Density.from_mixture`
        spread = sigma.square() + area[:, None] * math.pi / 36
        fall = torch.exp(-_chords(centre, xyz).square() / 2 / spread)
        kernels = area[:, None] / spread * fall
        return cls(4 * sides**2 + cells, mass + kernels / kernels.sum(0) @ weight)

    @classmethod
    def load(cls, path: str | Path) -> "MultiOrderDensity":
        """Read cells of several orders from `.multiorder.fits` or `.parquet`, as they are.

        Raises:
            ValueError: no such cells, or some that do not cover the sphere once.
        """
        try:
            uniq, mass = files.load_multi_order(Path(path))
            return cls(torch.from_numpy(uniq), torch.from_numpy(mass))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def save(self, path: str | Path) -> None:
        """Write to `.multiorder.fits` or `.parquet`, cell by cell; to other `.fits`, even cells."""
        if files.is_multi_order(Path(path)):
            files.save_multi_order(self.uniq.numpy(), self.cell_mass.numpy(), Path(path))
        else:
            super().save(path)

    def __repr__(self) -> str:
        orders = f"nside {int(self.sides[0])} to {int(self.sides[-1])}"
        return f"MultiOrderDensity({orders}, entropy {self.entropy():z.2f} nats)"

    @cached_property
    def sides(self) -> Int[Tensor, " cells"]:
        """Nside of each cell."""
        return 2 ** torch.from_numpy(files.levels_of(self.uniq.numpy()))

    @cached_property
    def areas(self) -> Float[Tensor, " cells"]:
        """Area of each cell in steradians."""
        return 4 * math.pi / 12 / self.sides.double().square()

    @property
    def _masses(self) -> Float[Tensor, " cells"]:
        return self.cell_mass

    @property
    def _heights(self) -> Float[Tensor, " cells"]:
        return self.cell_mass / self.areas

    @property
    def _cells(self) -> Int[Tensor, " cells"]:
        """Numbers of the cells among those of their size."""
        return self.uniq - 4 * self.sides**2

    @cached_property
    def _vectors(self) -> Float[Tensor, "cells 3"]:
        """Mean vector over each cell, as `healpix.mean_vectors`."""
        xyz = sphere.to_xyz(healpix.cell_lat_lon(self._cells, self.sides))
        return xyz * (1 - self.areas[:, None] / 12)

    @cached_property
    def _starts(self) -> tuple[Int[Tensor, " cells"], Int[Tensor, " cells"]]:
        """First of the finest cells in each, in order, and whose that is."""
        starts, by_place = (self._cells * (FINEST // self.sides) ** 2).sort()
        return starts, by_place

    def _holding(self, lat_lon: Values) -> Int[Tensor, "*batch"]:
        starts, by_place = self._starts
        fine_cells = healpix.cell_of(lat_lon, FINEST)
        return by_place[torch.searchsorted(starts, fine_cells, right=True) - 1]

    def _places(
        self, cells: healpix.Cells, offsets: Float[Tensor, "2 chosen"]
    ) -> Float[Tensor, "chosen 2"]:
        return healpix.cell_lat_lon(self._cells[cells], self.sides[cells], offsets)

    def _with(self, heights: Float[Tensor, " cells"]) -> "MultiOrderDensity":
        return MultiOrderDensity(self.uniq, heights * self.areas)

    def _best_point(self, scale_km: float) -> Float[Tensor, "2"]:
        """Climb from the best of the even cells: Weiszfeld's steps over the cells themselves."""
        is_positive = self.cell_mass > 0
        mass, vectors = self.cell_mass[is_positive], self._vectors[is_positive]
        scale, points = scale_km / EARTH_RADIUS_KM, []
        for point in (sphere.to_xyz(best_points(self.mass, scale_km)), vectors[mass.argmax()]):
            for _ in range(60):
                distance = (vectors - point).norm(dim=-1).clamp_min(1e-7)
                pull = mass * torch.exp(-distance / scale) / distance
                point = torch.nn.functional.normalize(pull @ vectors, dim=-1)
            points.append(point)
        gain = [torch.expm1(-(vectors - p).norm(dim=-1) / scale) @ mass for p in points]
        return sphere.to_lat_lon(points[int(torch.stack(gain).argmax())])

    def entropy(self) -> float:
        """Return the differential entropy in nats."""
        return (torch.special.entr(self.cell_mass) + self.cell_mass * self.areas.log()).sum().item()

    def __mul__(self, other: Density) -> "MultiOrderDensity":
        """Multiply by an even density, such as a prior, and normalise; on the cells of this one.

        Where the other's cells are finer, their mean counts.
        """
        if not isinstance(other, Density) or isinstance(other, MultiOrderDensity):
            return NotImplemented
        factor = torch.empty_like(self.cell_mass)
        for side in self.sides.unique().tolist():
            mask = self.sides == side
            cells, ratio = self._cells[mask], side / other.nside
            if ratio >= 1:
                factor[mask] = other.mass[cells // int(ratio) ** 2]
            else:
                factor[mask] = other.mass.view(-1, round(1 / ratio) ** 2).mean(1)[cells]
        if not (self.cell_mass * factor).any():
            raise ValueError("expected densities that overlap, got disjoint ones; mix in a floor")
        return MultiOrderDensity(self.uniq, self.cell_mass * factor)

    __rmul__ = __mul__

    def _shares(self, region: Any) -> Float[Tensor, " cells"]:
        """Return how much of each cell lies in a region; of fine ones whether their centre does."""
        import shapely

        from icgeo.sphere import regions

        lat, lon = sphere.to_lat_lon(self._vectors).unbind(-1)
        shape = regions.as_polygon(region)
        shapely.prepare(shape)
        shares = torch.from_numpy(shapely.contains_xy(shape, lon.numpy(), lat.numpy())).double()
        for side in self.sides[self.sides <= 2 * EVEN].unique().tolist():
            mask = self.sides == side
            shares[mask] = regions.cell_shares(region, side)[self._cells[mask]]
        return shares

    def credible_area_km2(self, p: float) -> float:
        """Return the area of the densest cells that hold a mass of at least `p`."""
        return float(self.areas[self._credible_cells(p)].sum() / (4 * math.pi) * AREA_KM2)

    def credible_region(self, p: float) -> "geopandas.GeoDataFrame":
        """Outline the densest cells that hold a mass of at least `p`; see `Density`."""
        import geopandas
        import shapely

        indices = self._credible_cells(p)
        shapes, owners = [], []
        for side in self.sides[indices].unique().tolist():
            rows = indices[self.sides[indices] == side]
            position, outline = healpix.cell_outlines(self._cells[rows], side)
            shapes.append(outline)
            owners.append(rows.numpy()[position])
        outlines, owner = np.concatenate(shapes), np.concatenate(owners)
        # cells of two sizes do not share their corners: what is left between them is rounded off
        polygons = shapely.get_parts(shapely.union_all(outlines, grid_size=1e-7))
        tree = shapely.STRtree(polygons)
        point, part = tree.query(shapely.point_on_surface(outlines), predicate="intersects")
        _, first = np.unique(owner[point], return_index=True)
        cells, part = torch.from_numpy(owner[point][first]), part[first]
        mass = np.bincount(part, self.cell_mass[cells].numpy(), len(polygons))
        area = np.bincount(part, self.areas[cells].numpy(), len(polygons))
        columns = {"mass": mass, "area_km2": area / (4 * math.pi) * AREA_KM2}
        frame = geopandas.GeoDataFrame(columns, geometry=polygons, crs="EPSG:4326")
        frame = frame[frame["mass"] > 0] if (frame["mass"] > 0).any() else frame
        return frame.sort_values("mass", ascending=False, ignore_index=True)


def _chords(a: Float[Tensor, "n 3"], b: Float[Tensor, "m 3"]) -> Float[Tensor, "n m"]:
    """Return all distances of unit vectors, exact also where they nearly coincide."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
