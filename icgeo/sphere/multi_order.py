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
from torch import Generator, Tensor

from icgeo import sphere
from icgeo.sphere import AREA_KM2, EARTH_RADIUS_KM, Values, files, healpix, regions
from icgeo.sphere.best_point import GEOSCORE_SCALE_KM, best_points
from icgeo.sphere.density import Density

if TYPE_CHECKING:
    import geopandas

EVEN = 64
"""Nside of the even cells that stand for the others where a map of the world is enough."""
FINEST = 2**15
"""Cells are split no further: their side is 200 m."""
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
        # as fine as the finest: equal beginnings of cells that do not overlap are apart
        start = (self.uniq - 4 * self.sides**2) * (FINEST // self.sides) ** 2
        start, by_place = start.sort()
        end = start + ((FINEST // self.sides) ** 2)[by_place]
        if start[0] != 0 or end[-1] != 12 * FINEST**2 or not (end[:-1] == start[1:]).all():
            raise ValueError(
                "expected cells that cover the sphere once, got gaps or cells twice; give those "
                "without mass, too"
            )
        object.__setattr__(self, "mass", self._even(EVEN))

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
            near = sphere.angle(_centres(cells, nside)[:, None], xyz) < REACH * sigma + side
            splits = (near & (sigma < side)).any(1) & (nside < FINEST)
            parts.append((nside, cells[~splits]))
            cells, nside = (4 * cells[splits, None] + torch.arange(4)).flatten(), 2 * nside
        uniq = torch.cat([4 * side**2 + kept for side, kept in parts])
        area = torch.cat([torch.full((len(kept),), 1.0 / side**2).double() for side, kept in parts])
        centre = torch.cat([_centres(kept, side) for side, kept in parts])
        parent = torch.cat([kept // (side // base.nside) ** 2 for side, kept in parts])
        mass = (1 - weight.sum()).clamp_min(0) * base.mass[parent] * area * base.nside**2
        # widened by the second moment of a cell, as in `Density.from_mixture`
        spread = sigma.square() + area[:, None] * math.pi / 36
        kernels = (
            area[:, None]
            / spread
            * torch.exp(-(centre[:, None] - xyz).square().sum(-1) / 2 / spread)
        )
        mass = mass + kernels / kernels.sum(0) @ weight
        return cls(uniq, mass)

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
        return 2 ** ((torch.log2(self.uniq.double() / 4) / 2 + 1e-12).floor().long())

    @cached_property
    def areas(self) -> Float[Tensor, " cells"]:
        """Area of each cell in steradians."""
        return 4 * math.pi / 12 / self.sides.double().square()

    @cached_property
    def _vectors(self) -> Float[Tensor, "cells 3"]:
        """Mean vector over each cell, as `healpix.mean_vectors`."""
        cells = self.uniq - 4 * self.sides**2
        xyz = torch.cat([_centres(cells[self.sides == side], side) for side in self._orders])
        return xyz * (1 - self.areas[:, None] / 12)

    @cached_property
    def _orders(self) -> list[int]:
        return [int(side) for side in self.sides.unique()]

    def _even(self, nside: int) -> Float[Tensor, " cells"]:
        """Return the mass of each cell of one size."""
        mass = torch.zeros(12 * nside**2, dtype=torch.float64)
        for side in self.sides.unique().tolist():
            here = self.sides == side
            cells, values = self.uniq[here] - 4 * side**2, self.cell_mass[here]
            if side >= nside:
                mass.index_add_(0, cells // (side // nside) ** 2, values)
            else:
                children = (nside // side) ** 2
                places = cells[:, None] * children + torch.arange(children)
                mass[places] += values[:, None] / children
        return mass

    def _holding(self, lat_lon: Values) -> Int[Tensor, "*batch"]:
        """Return the number of the cell, in `uniq`, that holds each location."""
        finest = self._orders[-1]
        cell = healpix.cell_of(lat_lon, finest)
        found = torch.zeros_like(cell)
        for side in self._orders:
            uniq = 4 * side**2 + cell // (finest // side) ** 2
            number = torch.searchsorted(self.uniq, uniq).clamp_max(len(self.uniq) - 1)
            found = torch.where(self.uniq[number] == uniq, number, found)
        return found

    def log_prob(self, lat_lon: Values) -> Float[Tensor, "*batch"]:
        """Log-density in nats per steradian at locations in degrees: that of their cells."""
        return torch.log(self.cell_mass / self.areas)[self._holding(lat_lon)]

    def sample(self, count: int, generator: Generator | None = None) -> Float[Tensor, "count 2"]:
        """Draw locations, uniform inside each cell."""
        draws = torch.rand(3, count, generator=generator, dtype=torch.float64)
        total = self.cell_mass.cumsum(0)
        number = torch.searchsorted(total, draws[0] * total[-1], right=True)
        number = number.clamp(max=len(total) - 1)
        found, side = torch.zeros(count, 2, dtype=torch.float64), self.sides[number]
        for one in side.unique().tolist():
            here = side == one
            cells = self.uniq[number[here]] - 4 * one**2
            found[here] = healpix.cell_lat_lon(cells, one, draws[1:, here])
        return found

    def mode(self) -> Float[Tensor, "2"]:
        """Centre of the densest cell."""
        return sphere.to_lat_lon(self._vectors[(self.cell_mass / self.areas).argmax()])

    def mean(self) -> Float[Tensor, "2"]:
        """Mean direction; where it vanishes, that of the heaviest cell."""
        return sphere.to_lat_lon(sphere.spherical_mean(self._vectors, self.cell_mass))

    def median(self) -> Float[Tensor, "2"]:
        """Geometric median: the point of least expected distance."""
        return self._best_point(1e6 * EARTH_RADIUS_KM)

    def best_point(self) -> Float[Tensor, "2"]:
        """Point of largest expected GeoScore."""
        return self._best_point(GEOSCORE_SCALE_KM)

    def _best_point(self, scale_km: float) -> Float[Tensor, "2"]:
        """Climb from the best of the even cells: Weiszfeld's steps over the cells themselves."""
        held, vectors = self.cell_mass > 0, self._vectors
        mass, vectors = self.cell_mass[held], vectors[held]
        start = torch.stack(
            (sphere.to_xyz(best_points(self.mass, scale_km)), vectors[mass.argmax()])
        )
        scale, points = scale_km / EARTH_RADIUS_KM, []
        for point in start:
            for _ in range(60):
                far = (vectors - point).norm(dim=-1).clamp_min(1e-7)
                pull = mass * torch.exp(-far / scale) / far
                point = torch.nn.functional.normalize(pull @ vectors, dim=-1)
            points.append(point)
        gain = [torch.expm1(-(vectors - p).norm(dim=-1) / scale) @ mass for p in points]
        return sphere.to_lat_lon(points[int(torch.stack(gain).argmax())])

    def entropy(self) -> float:
        """Differential entropy in nats."""
        return (torch.special.entr(self.cell_mass) + self.cell_mass * self.areas.log()).sum().item()

    def tempered(self, temperature: float) -> "MultiOrderDensity":
        """Raise to the power `1 / temperature` and normalise."""
        if not temperature > 0:
            raise ValueError(f"expected a temperature above 0, got {temperature}; 1 is neutral")
        density = self.cell_mass / self.areas
        return self._with((density / density.max()) ** (1 / temperature) * self.areas)

    def _with(self, mass: Float[Tensor, " cells"]) -> "MultiOrderDensity":
        return MultiOrderDensity(self.uniq, mass)

    def __mul__(self, other: Density) -> "MultiOrderDensity":
        """Multiply by an even density, such as a prior, and normalise; on the cells of this one.

        Where the other's cells are finer, their mean counts.
        """
        if not isinstance(other, Density) or isinstance(other, MultiOrderDensity):
            return NotImplemented
        factor = torch.empty_like(self.cell_mass)
        for side in self._orders:
            here = self.sides == side
            cells, ratio = self.uniq[here] - 4 * side**2, side / other.nside
            if ratio >= 1:
                factor[here] = other.mass[cells // int(ratio) ** 2]
            else:
                factor[here] = other.mass.view(-1, round(1 / ratio) ** 2).mean(1)[cells]
        if not (self.cell_mass * factor).any():
            raise ValueError("expected densities that overlap, got disjoint ones; mix in a floor")
        return self._with(self.cell_mass * factor)

    __rmul__ = __mul__

    def probability_within(self, region: Any) -> float:
        """Return the probability of a region, as `Density.probability_within` takes it.

        Finer cells count where their centre is.
        """
        return float(self._shares(region) @ self.cell_mass)

    def _shares(self, region: Any) -> Float[Tensor, " cells"]:
        """Return how much of each cell lies in a region; of fine ones whether their centre does."""
        import shapely

        shares, shape = torch.empty_like(self.cell_mass), regions.as_polygon(region)
        shapely.prepare(shape)
        for side in self._orders:
            here = self.sides == side
            if side <= 2 * EVEN:
                cells = self.uniq[here] - 4 * side**2
                shares[here] = regions.cell_shares(region, side)[cells]
                continue
            lat, lon = sphere.to_lat_lon(self._vectors[here]).unbind(-1)
            inside = shapely.contains_xy(shape, lon.numpy(), lat.numpy())
            shares[here] = torch.from_numpy(inside).double()
        return shares

    def _densest(self) -> tuple[Float[Tensor, " cells"], Int[Tensor, " cells"]]:
        """Cells from dense to sparse, and their cumulative mass."""
        cells = (self.cell_mass / self.areas).sort(descending=True, stable=True).indices
        return self.cell_mass[cells].cumsum(0).clamp(max=1), cells

    def _credible_cells(self, p: float) -> Int[Tensor, " chosen"]:
        if not 0 < p <= 1:
            raise ValueError(f"expected a probability p in (0, 1], got {p}")
        total, cells = self._densest()
        return cells[: int((total < p).sum()) + 1]

    def credible_area_km2(self, p: float) -> float:
        """Area of the densest cells that hold a mass of at least `p`."""
        return float(self.areas[self._credible_cells(p)].sum() / (4 * math.pi) * AREA_KM2)

    def credible_level(self, lat_lon: Values, *, smooth: bool = False) -> Float[Tensor, "*batch"]:
        """Largest p whose credible region does not yet hold each location; 1 without mass.

        `smooth` is of the even cells, for outlines to look at.
        """
        if smooth:
            return super().credible_level(lat_lon, smooth=True)
        total, cells = self._densest()
        before = torch.cat((torch.zeros(1, dtype=total.dtype), total[:-1]))
        level = torch.empty_like(total).scatter_(0, cells, before).where(self.cell_mass > 0, 1)
        return level[self._holding(lat_lon)]

    def credible_region(self, p: float) -> "geopandas.GeoDataFrame":
        """Outline the densest cells that hold a mass of at least `p`; see `Density`."""
        import geopandas
        import shapely

        chosen = self._credible_cells(p)
        shapes, owners = [], []
        for side in self.sides[chosen].unique().tolist():
            here = chosen[self.sides[chosen] == side]
            position, outline = healpix.cell_outlines(self.uniq[here] - 4 * side**2, side)
            shapes.append(outline)
            owners.append(here.numpy()[position])
        outlines, owner = np.concatenate(shapes), np.concatenate(owners)
        # cells of two sizes do not share their corners: what is left between them is rounded off
        whole = shapely.get_parts(shapely.union_all(outlines, grid_size=1e-7))
        tree = shapely.STRtree(whole)
        inside, part = tree.query(shapely.point_on_surface(outlines), predicate="intersects")
        _, first = np.unique(owner[inside], return_index=True)
        cells, part = torch.from_numpy(owner[inside][first]), part[first]
        count = {"minlength": len(whole)}
        frame = geopandas.GeoDataFrame(
            {
                "mass": np.bincount(part, self.cell_mass[cells].numpy(), **count),
                "area_km2": np.bincount(part, self.areas[cells].numpy(), **count)
                / (4 * math.pi) * AREA_KM2,
            },
            geometry=whole,
            crs="EPSG:4326",
        )  # fmt: skip
        frame = frame[frame["mass"] > 0] if (frame["mass"] > 0).any() else frame
        return frame.sort_values("mass", ascending=False, ignore_index=True)

    def window(
        self, bounds: tuple[float, float, float, float], height: int
    ) -> Float[Tensor, "height width"]:
        """Return the density per steradian at the pixel centres of an equirectangular window.

        Bounds are south, west, north, east in degrees, west > east across the antimeridian.
        """
        south, west, north, east = bounds
        span = (east - west) % 360 or 360.0
        width = max(1, round(height * span / (north - south)))
        lat = north - (torch.arange(height).double() + 0.5) * (north - south) / height
        lon = west + (torch.arange(width).double() + 0.5) * span / width
        places = torch.stack(torch.meshgrid(lat, lon, indexing="ij"), dim=-1)
        places[..., 1] = sphere.wrap_longitude(places[..., 1])
        return self.log_prob(places).exp()

    def to_geotiff(
        self,
        path: str | Path,
        *,
        height: int | None = None,
        bounds: tuple[float, float, float, float] | None = None,
    ) -> None:
        """Write a GeoTIFF: of the world as `Density.to_geotiff` does, or of a window.

        A window holds the density per steradian at the centres of its pixels, 512 high by default;
        it may not cross the antimeridian.
        """
        if bounds is None:
            super().to_geotiff(path, height=height)
        else:
            values = self.window(bounds, height or 512)
            files.save_window(values.float().numpy(), bounds, Path(path))


def _centres(cells: Int[Tensor, " cells"], nside: int) -> Float[Tensor, "cells 3"]:
    return sphere.to_xyz(healpix.cell_lat_lon(cells, nside))
