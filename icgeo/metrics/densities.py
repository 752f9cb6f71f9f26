"""Scores of densities and of their calibration, one density at a time, so that a stream fits.

Conventions: one row a query; areas in km2 on a sphere of 6371 km, energy in km, entropy and NLL in
nats; levels are the credible levels of the truths (`Density.credible_level`).
"""

import math
from array import array
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields

import numpy as np
import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

from icgeo.metrics import Numbers, as_column, as_locations
from icgeo.sphere import AREA_KM2, EARTH_RADIUS_KM, Values, as_lat_lon, to_xyz
from icgeo.sphere.density import Density
from icgeo.sphere.healpix import cell_of, mean_vectors

UNIFORM_NLL = math.log(4 * math.pi)
_COARSE_NSIDE = 4
_NOTHING = 1e-30
"""Far below any mass that counts, far above numbers too small to be exact."""
_PAIRS_AT_ONCE = 2**15  # a matrix stays in the cache: twice as fast as large ones


def coverage(levels: Numbers, p: float) -> float:
    """Return the fraction of truths inside their credible region of probability `p`."""
    return reliability(levels, [p]).item()


def reliability(levels: Numbers, grid: Numbers) -> Float[Tensor, "grid"]:
    """Return the P-P curve: the fraction of truths inside the region of each probability.

    Calibrated densities follow the diagonal, since their levels are uniform (Dawid 1984).
    """
    return _share_up_to(_sorted_levels(levels), as_column(grid, "probability", low=0, high=1))


def calibration_error(levels: Numbers) -> float:
    """Return the largest distance of the P-P curve from the diagonal (Kolmogorov-Smirnov).

    Above `1.36 / sqrt(rows)` it rejects calibration at 5 % for independent queries (Massey 1951).
    """
    sorted_levels = _sorted_levels(levels)
    steps = torch.arange(len(sorted_levels) + 1).to(sorted_levels) / len(sorted_levels)
    return torch.maximum(steps[1:] - sorted_levels, sorted_levels - steps[:-1]).max().item()


def recall_by_area(searched_area_km2: Numbers, areas_km2: Numbers) -> Float[Tensor, "areas"]:
    """Return the fraction of truths that a search of each area finds, likely cells first.

    The recall-against-area curve (Bianco et al. 2024, arXiv 2407.13862): for ranked regions, the
    share of queries whose truth lies within those that together cover the area.
    """
    areas = as_column(searched_area_km2, "searched area", low=0).sort().values
    return _share_up_to(areas, as_column(areas_km2, "area", low=0))


def _share_up_to(
    values: Float[Tensor, "rows"], bounds: Float[Tensor, "bounds"]
) -> Float[Tensor, "bounds"]:
    return torch.searchsorted(values, bounds.to(values), right=True).double() / len(values)


def _sorted_levels(levels: Numbers) -> Float[Tensor, "rows"]:
    # sums of masses exceed 1 by rounding
    column = as_column(levels, "credible level", low=-1e-6, high=1 + 1e-6)
    return column.clamp(0, 1).sort().values


@dataclass(frozen=True)
class DensityScore:
    """How one density did."""

    nll: float
    """Minus the log-density at the truth, nats per steradian; infinite without mass there."""
    entropy: float
    """Differential entropy in nats: how far the photo can be located at all; low if narrow."""
    level: float
    searched_area_km2: float
    area_50_km2: float
    """Area of the smallest region of half of the mass."""
    area_90_km2: float
    energy_km: float


_NAMES = [field.name for field in fields(DensityScore)]


@dataclass(frozen=True)
class DensitySummary:
    """The columns of a table of densities; medians of the areas, means of the rest."""

    queries: int
    mean_nll: float
    """Those of Plonk (Dufour et al. 2025) are no densities on the sphere: it takes the divergence
    of the flow in R^3 without projecting it on the tangent plane."""
    information_gain: float
    """Mean nats by which the densities beat the uniform one (Good 1952); negative if worse."""
    mean_entropy: float
    mean_energy_km: float
    median_searched_area_km2: float
    median_area_50_km2: float
    median_area_90_km2: float
    coverage_50: float
    coverage_90: float
    calibration_error: float


def searched_area_km2(density: Density, lat_lon: Values) -> float:
    """Return the area to search until the truth is found, likely cells first, its own included.

    Of cells as probable as the truth's, half are found before it on average. Searched area of
    gravitational-wave alerts (Singer et al. 2014), and of recall against area.
    """
    mass = density.mass[cell_of(lat_lon, density.nside)]
    above, ties = (density.mass > mass).sum().item(), (density.mass == mass).sum().item()
    return (above + (ties + 1) / 2) * AREA_KM2 / len(density.mass)


def score_density(density: Density, lat_lon: Values) -> DensityScore:
    """Score a density by the location of its truth in degrees."""
    (truth,) = as_locations([lat_lon], "truth")
    mass, cell = density.mass.numpy(), int(cell_of(truth, density.nside))
    # sorted once, and faster than by torch
    cumulative_mass = np.minimum(np.sort(mass)[::-1].cumsum(), 1)
    rank = int((mass > mass[cell]).sum()) + int((mass[:cell] == mass[cell]).sum())
    cell_km2 = AREA_KM2 / len(mass)
    return DensityScore(
        nll=-density.log_prob(truth).item(),
        entropy=density.entropy(),
        level=1.0 if mass[cell] == 0 else float(cumulative_mass[rank - 1]) if rank else 0.0,
        searched_area_km2=searched_area_km2(density, truth),
        area_50_km2=(int((cumulative_mass < 0.5).sum()) + 1) * cell_km2,
        area_90_km2=(int((cumulative_mass < 0.9).sum()) + 1) * cell_km2,
        energy_km=energy_score(density, truth).item(),
    )


class DensityScores:
    """Scores of a stream of densities; of each it keeps seven numbers, 56 bytes."""

    def __init__(self) -> None:
        self._values = array("d")

    def __len__(self) -> int:
        return len(self._values) // len(_NAMES)

    def add(self, densities: Iterable[Density], truths: Values) -> None:
        """Score densities, one for each row of `truths` [rows, 2], and let go of them.

        Raises:
            ValueError: a truth that is not a location; more or fewer densities than truths. What
                came before it stays added.
        """
        for density, truth in zip(densities, as_locations(truths, "truth"), strict=True):
            self._values.extend(astuple(score_density(density, truth)))

    def column(self, name: str) -> Float[np.ndarray, "rows"]:
        """Return a copy of the values of one field of `DensityScore`."""
        if name not in _NAMES:
            raise ValueError(f"expected a column out of {_NAMES}, got {name!r}")
        return np.array(self._values[_NAMES.index(name) :: len(_NAMES)])

    def summary(self) -> DensitySummary:
        """Summarise all rows, at least one."""
        if not len(self):
            raise ValueError("expected at least one density, got none; add some first")
        rows = {name: self.column(name) for name in _NAMES}
        mean = {name: float(values.mean()) for name, values in rows.items()}
        return DensitySummary(
            queries=len(self),
            mean_nll=mean["nll"],
            information_gain=UNIFORM_NLL - mean["nll"],
            mean_entropy=mean["entropy"],
            mean_energy_km=mean["energy_km"],
            **{f"median_{name}": float(np.median(rows[name])) for name in rows if "area" in name},
            coverage_50=coverage(rows["level"], 0.5),
            coverage_90=coverage(rows["level"], 0.9),
            calibration_error=calibration_error(rows["level"]),
        )


def energy_score(
    density: Density, lat_lon: Values, *, resolution: float | None = 1 / 128
) -> Float[Tensor, "*batch"]:
    """Return the energy score in km for each truth: distance to it less half the spread.

    `E d(X, y) - E d(X, X') / 2` in km, with X and X' drawn from the density, y the truth and d the
    great-circle distance (Gneiting and Raftery 2007, section 4.3, with the kernel d as in section
    5.1; negative there, here smaller is better): the CRPS on the sphere, and for a point its error.
    d is of negative type (Gangolli 1967), so the score is proper. Not strictly: it equals pi R
    times the mean, over hemispheres, of (probability - whether the truth is inside)^2, and masses
    that are symmetric about the centre fill all hemispheres alike.

    Cells are uniform. Distances are summed over patches of them, split until they hold less than
    `resolution` of the mass: within 1 % of all cells at 1 / 128. None takes all cells, in time
    quadratic in them.

    Raises:
        ValueError: a resolution outside (0, 1), a truth that is not a location.
    """
    if resolution is not None and not 0 < resolution < 1:
        raise ValueError(f"expected a resolution in (0, 1), or None for all, got {resolution:g}")
    truth = to_xyz(as_lat_lon(lat_lon).double())
    vectors = mean_vectors(density.nside).numpy()
    mass, middle = _patches(density.mass.numpy(), vectors, resolution or 0)
    distance = _mean_distance(rearrange(truth, "... side -> (...) side").numpy(), middle, mass)
    spread = _mean_distance(middle, middle, mass) @ mass
    return torch.from_numpy(EARTH_RADIUS_KM * (distance - spread / 2)).reshape(truth.shape[:-1])


def _patches(
    mass: Float[np.ndarray, "cells"], vector: Float[np.ndarray, "cells 3"], max_mass: float
) -> tuple[Float[np.ndarray, "patches"], Float[np.ndarray, "patches 3"]]:
    """Return masses and mean vectors of patches of the sphere, split above `max_mass`.

    Patches are cells of some nside, each the four of the next, so that no part is heavier than
    its whole.
    """
    patch = np.arange(12 * min(math.isqrt(len(mass) // 12), _COARSE_NSIDE) ** 2)
    parts = len(mass) // len(patch)
    patches = []
    while parts:
        cells = rearrange(mass, "(patch cell) -> patch cell", cell=parts)[patch]
        sides = rearrange(vector, "(patch cell) side -> patch cell side", cell=parts)[patch]
        total = cells.sum(1)
        is_final = (total > _NOTHING) & ((total <= max_mass) | (parts == 1))
        moment = einsum(
            cells[is_final], sides[is_final], "patch cell, patch cell side -> patch side"
        )
        patches.append(np.column_stack((total[is_final], moment / total[is_final, None])))
        patch = (4 * patch[total > max(max_mass, _NOTHING)][:, None] + np.arange(4)).ravel()
        parts //= 4
    table = np.concatenate(patches)
    return table[:, 0], table[:, 1:]


def _mean_distance(
    a: Float[np.ndarray, "a 3"], b: Float[np.ndarray, "b 3"], weight: Float[np.ndarray, "b"]
) -> Float[np.ndarray, "a"]:
    """Return the mean angle from each patch of mean vector a to the patches b."""
    at_once = max(1, _PAIRS_AT_ONCE // len(b))
    starts = range(0, len(a), at_once)
    return np.concatenate([np.empty(0), *(_angles(a[i : i + at_once], b) @ weight for i in starts)])


def _angles(a: Float[np.ndarray, "a 3"], b: Float[np.ndarray, "b 3"]) -> Float[np.ndarray, "a b"]:
    """Return the mean angle between the points of two patches, from their mean vectors.

    The mean square chord D^2 = 2 - 2 a . b is exact; the share u of it that the extents make, not
    the distance of the centres, brings the root down to the mean. The polynomial is that of a
    Rice distribution (patches like normal distributions) to 0.5 %. At least one of the patches
    must have an extent, so that a . b is within (-1, 1).
    """
    dot = a @ b.T
    extent = (1 - np.square(a).sum(1))[:, None] + (1 - np.square(b).sum(1))
    share = extent / np.maximum(2 - 2 * dot, extent)
    mean_over_root = 1 - share * (1 / 4 - (math.sqrt(math.pi) / 2 - 3 / 4) * share)
    return np.arccos(dot) * mean_over_root
