"""A probability density on the sphere, constant over the cells of a HEALPix grid.

Conventions: cells in NESTED order, `nside` a power of two; `mass` is probability per cell and sums
to 1; densities are per steradian, log-densities and entropies in nats. Tensors are float64 on the
CPU.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Generator, Tensor

from icgeo import sphere
from icgeo.sphere import AREA_KM2, Values, files, healpix
from icgeo.sphere.best_point import GEOSCORE_SCALE_KM, best_points

if TYPE_CHECKING:
    import geopandas


def _as_double(values: Values) -> Tensor:
    return sphere.as_tensor(values).detach().to("cpu", torch.float64)


def _check_not_negative(values: Tensor, name: str, *, some_positive: bool = True) -> None:
    if (mask := ~(values >= 0) | values.isinf()).any():
        raise ValueError(
            f"expected every {name} finite and not negative, got {values[mask][0].item():g} "
            f"({int(mask.sum())} of {values.numel()} are wrong); clip or mask them first"
        )
    if some_positive and not values.any():
        raise ValueError(f"expected at least one positive {name}, got none; is the input empty?")


def _ranked(
    mass: Float[Tensor, " cells"], heights: Float[Tensor, " cells"]
) -> tuple[Float[Tensor, " cells"], Int[Tensor, " cells"]]:
    """Return the cumulative mass of cells from dense to sparse, and these; ties by index."""
    cells = heights.sort(descending=True, stable=True).indices
    return mass[cells].cumsum(0).clamp(max=1), cells


@dataclass(frozen=True, eq=False)
class Density:
    """A distribution on the sphere; build it with one of the `from_` constructors.

    >>> Density.from_mixture([48.9, 2.4], kappas=300)
    Density(nside=64, entropy -2.86 nats)
    """

    mass: Float[Tensor, "*cells"]
    """Probability of each cell; what is given is validated and normalised to sum to 1."""

    def __init__(self, mass: Values) -> None:
        mass = _as_double(mass)
        count = mass.numel()
        if mass.ndim != 1 or count < 12 or count != 12 * 4 ** round(math.log(count / 12, 4)):
            raise ValueError(
                "expected the masses of 12 nside^2 cells with nside a power of two, "
                f"got shape {tuple(mass.shape)}"
            )
        _check_not_negative(mass, "mass")
        mass = mass / mass.max()
        object.__setattr__(self, "mass", mass / mass.sum())

    def __repr__(self) -> str:
        return f"Density(nside={self.nside}, entropy {self.entropy():z.2f} nats)"

    @classmethod
    def uniform(cls, nside: int = 64) -> "Density":
        """Spread the mass evenly over the sphere."""
        return cls(torch.ones(len(healpix.cell_xyz(nside)), dtype=torch.float64))

    @classmethod
    def from_mixture(
        cls, means: Values, kappas: Values, weights: Values = 1.0, *, nside: int = 64
    ) -> "Density":
        """Mix von Mises-Fisher distributions around `means`, locations in degrees.

        A kernel estimate has one kappa, the inverse square of the bandwidth in radians.
        """
        mean = sphere.as_lat_lon(means).cpu().double()
        mean = sphere.to_xyz(rearrange(mean, "... side -> (...) side"))
        columns = []
        for name, values in (("kappa", kappas), ("weight", weights)):
            column = _as_double(values)
            if column.shape not in ((), (len(mean),)):
                raise ValueError(
                    f"expected one {name}, or one for each of {len(mean)} locations, "
                    f"got shape {tuple(column.shape)}"
                )
            columns.append(column.expand(len(mean)))
            _check_not_negative(columns[-1], name, some_positive=name == "weight")
        kappa, weight = columns
        cells = healpix.cell_xyz(nside)
        # widened by the second moment of a cell: its integral to second order, for any kappa
        kappa = kappa / (1 + kappa * (4 * math.pi / len(cells)) / 12)
        mass = torch.zeros(len(cells), dtype=torch.float64)
        for part in torch.split(torch.arange(len(mean)), 32):
            logits = kappa[part, None] * (mean[part] @ cells.T - 1)
            mass += weight[part] @ torch.softmax(logits, dim=-1)
        return cls(mass)

    @classmethod
    def from_region(cls, region: Any, nside: int = 64) -> "Density":
        """Spread the mass evenly over a region, as `probability_within` takes it.

        Cells at its border have mass by their share in it, but it is spread over all of the cell:
        `probability_within` the region is below 1, by so much as the cells are coarse for it.
        """
        from icgeo.sphere.regions import cell_shares  # shapely is not always needed

        return cls(cell_shares(region, nside))

    @classmethod
    def from_log_mass(cls, log_mass: Float[Tensor, " cells"]) -> "Density":
        """Normalise the logarithms of masses, as of a product of densities (not disjoint ones)."""
        if log_mass.max() == -math.inf:
            raise ValueError("expected densities that overlap, got disjoint ones; mix in a floor")
        return cls(torch.exp(log_mass - log_mass.max()))

    def updated(self, log_ratios: Float[Tensor, " cells"], *, floor: float = 0.0) -> "Density":
        """Take this as a prior and add log-likelihood ratios in nats, by Bayes' rule.

        They are of HEALPix cells (NESTED) as fine as these or finer; the share `floor` of the
        result is uniform over the sphere.
        """
        prior = self.mass.repeat_interleave(len(log_ratios) // len(self.mass))
        posterior = torch.softmax(prior.log() + log_ratios.to(prior), dim=0)
        return Density((1 - floor) * posterior + floor / len(posterior))

    def __mul__(self, other: "Density") -> "Density":
        """Multiply by another density, such as a prior, and normalise; on the finer of the grids.

        `density * Density.from_region("FR")` is the density, given that it was in France.
        """
        if not isinstance(other, Density):
            return NotImplemented
        count = max(len(self.mass), len(other.mass))
        logs = [one.mass.repeat_interleave(count // len(one.mass)).log() for one in (self, other)]
        return Density.from_log_mass(logs[0] + logs[1])

    def probability_within(self, region: Any) -> float:
        """Return the probability of a region, cells at its border divided by area.

        `region` is a polygon of shapely, a GeoSeries or GeoDataFrame of them, or the name or the
        ISO code of a country, with coasts and borders good to some 10 km; see
        `icgeo.sphere.regions`.
        """
        return float(self._shares(region) @ self._masses)

    def _shares(self, region: Any) -> Float[Tensor, " cells"]:
        from icgeo.sphere.regions import cell_shares

        return cell_shares(region, self.nside)

    @property
    def nside(self) -> int:
        """Cells along a side of each of the twelve base cells."""
        return math.isqrt(len(self.mass) // 12)

    @property
    def cell_area(self) -> float:
        """Area of a cell in steradians."""
        return 4 * math.pi / len(self.mass)

    @property
    def areas(self) -> Float[Tensor, " cells"]:
        """Area of each cell in steradians."""
        return self.mass.new_tensor(self.cell_area).expand(len(self.mass))

    @property
    def _masses(self) -> Float[Tensor, " cells"]:
        return self.mass

    @property
    def _heights(self) -> Float[Tensor, " cells"]:
        """By what cells are ranked: their densities, up to a factor."""
        return self.mass

    @property
    def _vectors(self) -> Float[Tensor, "cells 3"]:
        """Vectors to the centres of the cells."""
        return healpix.cell_xyz(self.nside)

    def _holding(self, lat_lon: Values) -> Int[Tensor, "*batch"]:
        """Return the number of the cell that holds each location."""
        return healpix.cell_of(lat_lon, self.nside)

    def _places(
        self, cells: healpix.Cells, offsets: Float[Tensor, "2 chosen"]
    ) -> Float[Tensor, "chosen 2"]:
        return healpix.cell_lat_lon(cells, self.nside, offsets)

    def _with(self, heights: Float[Tensor, " cells"]) -> "Density":
        """Return a density of the same cells and other heights."""
        return Density(heights)

    def log_prob(self, lat_lon: Values) -> Float[Tensor, "*batch"]:
        """Return the log-density in nats per steradian at locations in degrees: of their cells."""
        cells = self._holding(lat_lon)
        return torch.log(self._masses[cells] / self.areas[cells])

    def sample(self, count: int, generator: Generator | None = None) -> Float[Tensor, "count 2"]:
        """Draw locations, uniform inside each cell (HEALPix preserves area, so its offsets are)."""
        draws = torch.rand(3, count, generator=generator, dtype=torch.float64)
        total = self._masses.cumsum(0)
        # right=True skips cells without mass, also where the draw is 0
        cells = torch.searchsorted(total, draws[0] * total[-1], right=True)
        return self._places(cells.clamp(max=len(total) - 1), draws[1:])

    def mode(self) -> Float[Tensor, "2"]:
        """Return the centre of the densest cell."""
        return sphere.to_lat_lon(self._vectors[self._heights.argmax()])

    def mean(self) -> Float[Tensor, "2"]:
        """Return the mean direction; where it vanishes, as if uniform, the heaviest cell."""
        return sphere.to_lat_lon(sphere.spherical_mean(self._vectors, self._masses))

    def median(self) -> Float[Tensor, "2"]:
        """Return the geometric median: the point of least expected distance."""
        return self._best_point(1e6 * sphere.EARTH_RADIUS_KM)

    def best_point(self) -> Float[Tensor, "2"]:
        """Return the point of largest expected GeoScore."""
        return self._best_point(GEOSCORE_SCALE_KM)

    def _best_point(self, scale_km: float) -> Float[Tensor, "2"]:
        return best_points(self.mass, scale_km)

    def entropy(self) -> float:
        """Return the differential entropy in nats: log(4 pi) if uniform, less if narrower."""
        return torch.special.entr(self.mass).sum().item() + math.log(self.cell_area)

    def _credible_cells(self, p: float) -> healpix.Cells:
        if not 0 < p <= 1:
            raise ValueError(f"expected a probability p in (0, 1], got {p}")
        total, cells = _ranked(self._masses, self._heights)
        return cells[: int((total < p).sum()) + 1]

    def credible_area_km2(self, p: float) -> float:
        """Return the area of the smallest set of cells that holds a mass of at least `p`."""
        return len(self._credible_cells(p)) * AREA_KM2 / len(self.mass)

    def credible_level(self, lat_lon: Values, *, smooth: bool = False) -> Float[Tensor, "*batch"]:
        """Return the largest p whose credible region does not hold each location; 1 without mass.

        `smooth` interpolates between the centres of cells, for outlines to look at: the regions
        of probability p then hold p but roughly.
        """
        # what is smooth is of even cells, which `mass` always has
        mass, heights = (self.mass, self.mass) if smooth else (self._masses, self._heights)
        total, cells = _ranked(mass, heights)
        denser_mass = torch.cat((torch.zeros(1, dtype=total.dtype), total[:-1]))
        level = torch.empty_like(total).scatter_(0, cells, denser_mass).where(mass > 0, 1)
        return healpix.interpolate(level, lat_lon) if smooth else level[self._holding(lat_lon)]

    def credible_region(self, p: float) -> "geopandas.GeoDataFrame":
        """Outline the smallest set of cells that holds a mass of at least `p`.

        One row for each connected part, heaviest first: `mass`, `area_km2` (exact, from its cells)
        and a valid geometry in EPSG:4326, cut at the antimeridian and drawn up to the poles.
        """
        import geopandas

        cells = self._credible_cells(p).sort().values
        owner, outline = healpix.cell_outlines(cells, self.nside)
        part = healpix.connected_parts(cells, self.nside)
        frame = geopandas.GeoDataFrame({"part": part[owner]}, geometry=outline, crs="EPSG:4326")
        frame = frame.dissolve("part", method="coverage")
        frame["mass"] = np.bincount(part, self.mass[cells].numpy())
        frame["area_km2"] = np.bincount(part) * AREA_KM2 / len(self.mass)
        frame = frame[["mass", "area_km2", "geometry"]]
        return frame.sort_values("mass", ascending=False, ignore_index=True)

    def contours(self, levels: Sequence[float] = (0.5, 0.9)) -> "geopandas.GeoDataFrame":
        """Outline the credible region of each probability, a row each, as `credible_region` does.

        Columns `probability`, `mass` (of its cells, at least that), `area_km2` and `geometry`.
        """
        import geopandas
        import shapely

        regions = [self.credible_region(p) for p in levels]
        columns: dict[str, list[float]] = {"probability": list(levels)}
        for name in ("mass", "area_km2"):
            columns[name] = [region[name].sum() for region in regions]
        outlines = [shapely.coverage_union_all(region.geometry) for region in regions]
        # RFC 7946 wants outer rings counterclockwise
        geometry = shapely.orient_polygons(outlines)
        return geopandas.GeoDataFrame(columns, geometry=geometry, crs="EPSG:4326")

    def tempered(self, temperature: float) -> "Density":
        """Raise to the power `1 / temperature` and normalise (Guo et al. 2017, section 4.2)."""
        if not temperature > 0:
            raise ValueError(f"expected a temperature above 0, got {temperature}; 1 is neutral")
        if temperature == 1:
            return self
        heights = self._heights
        return self._with((heights / heights.max()) ** (1 / temperature))

    def to_equirectangular(self, height: int) -> Float[Tensor, "height width"]:
        """Return densities per steradian at the pixels of a map [height, 2 height], north up."""
        return self.mass[healpix.cell_of_pixels(self.nside, height)] / self.cell_area

    def save(self, path: str | Path) -> None:
        """Write to `.fits`, `.fits.gz` or `.parquet`.

        FITS: a sky map as LIGO and Virgo publish them, column PROB; `.multiorder.fits` joins equal
        cells in larger ones, columns UNIQ and PROBDENSITY (per steradian). GeoParquet: the cells of
        positive mass as rows of `uniq` = 4 nside^2 + cell (the multi-order index), `mass` and
        `geometry`, the centre.
        """
        files.save(self.mass, Path(path))

    def to_geotiff(
        self, path: str | Path, *, height: int | None = None, bounds: files.Bounds | None = None
    ) -> None:
        """Write a GeoTIFF in EPSG:4326, of the world or a window (needs `icgeo[gis]`).

        `path` ends in .tif or .tiff. Of the world it has the probability of each pixel: no cell
        loses mass, and all sum to 1. The width is twice the `height`, by default 16 nside, a sixth
        of a cell a pixel. A window, `bounds` (south, west, north, east) in degrees that do not
        cross the antimeridian, has the density per steradian at the centres of its pixels, 512
        high by default.
        """
        if bounds is None:
            height = 16 * self.nside if height is None else height
            if height < 1:
                raise ValueError(f"expected a height of at least 1 pixel, got {height}")
            values = healpix.mass_of_pixels(self.mass, height).float().numpy()
            files.save_geotiff(values, (-90.0, -180.0, 90.0, 180.0), "mass", "1", Path(path))
        else:
            files.save_window(self.log_prob, bounds, height or 512, Path(path))

    @classmethod
    def load(cls, path: str | Path) -> "Density":
        """Read what `save` writes, and other sky maps in FITS: NESTED, RING, or of several orders.

        Cells finer than nside 1024 are summed. Raises ValueError for anything else.
        """
        try:
            return cls(files.load(Path(path)))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
