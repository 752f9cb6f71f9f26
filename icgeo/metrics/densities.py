"""Scores of densities, one density at a time, so that a stream of them needs no more memory.

Conventions: one row a query; areas in km2 on a sphere of 6371 km, energy in km, entropy and NLL in
nats.
"""

from array import array
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields

import numpy as np
from jaxtyping import Float

from icgeo.metrics.calibration import UNIFORM_NLL, calibration_error, coverage
from icgeo.metrics.checks import as_locations
from icgeo.metrics.energy import energy_score
from icgeo.sphere import AREA_KM2, Values
from icgeo.sphere.density import Density
from icgeo.sphere.healpix import cell_of


@dataclass(frozen=True)
class DensityScore:
    """How one density did."""

    nll: float
    """Minus the log-density at the truth, nats per steradian; infinite without mass there."""
    entropy: float
    """Differential entropy in nats: how far the photo can be located at all; low if narrow."""
    level: float
    """Credible level of the truth, `Density.credible_level`."""
    searched_area_km2: float
    """Area to search until the truth is found, most probable cells first, its own cell included.

    Of cells as probable as the truth's, half are found before it on average. Searched area of
    gravitational-wave alerts (Singer et al. 2014), and of recall against area."""
    area_50_km2: float
    """Area of the smallest region of half of the mass."""
    area_90_km2: float
    """Area of the smallest region of nine tenths of the mass."""
    energy_km: float
    """Energy score, `energy_score`."""


_NAMES = [field.name for field in fields(DensityScore)]


@dataclass(frozen=True)
class DensitySummary:
    """The columns of a table of densities; medians of the areas, means of the rest."""

    queries: int
    mean_nll: float
    information_gain: float
    mean_entropy: float
    mean_energy_km: float
    median_searched_area_km2: float
    median_area_50_km2: float
    median_area_90_km2: float
    coverage_50: float
    coverage_90: float
    calibration_error: float


def searched_area_km2(density: Density, lat_lon: Values) -> float:
    """Area to search until the truth is found, as `DensityScore` has it."""
    mass = density.mass[cell_of(lat_lon, density.nside)]
    above, equal = (density.mass > mass).sum().item(), (density.mass == mass).sum().item()
    return (above + (equal + 1) / 2) * AREA_KM2 / len(density.mass)


def score_density(density: Density, lat_lon: Values) -> DensityScore:
    """Score a density by the location of its truth in degrees."""
    truth = as_locations([lat_lon] if np.ndim(lat_lon) == 1 else lat_lon, "truth")
    if len(truth) != 1:
        raise ValueError(f"expected one truth for a density, got {len(truth)}")
    mass = density.mass.numpy()
    cell = int(cell_of(truth[0], density.nside))
    ordered = np.sort(mass)[::-1]
    upto = np.minimum(ordered.cumsum(), 1)
    above = int((mass > mass[cell]).sum())
    before = above + int((mass[:cell] == mass[cell]).sum())
    cell_km2 = AREA_KM2 / len(mass)
    with np.errstate(divide="ignore"):
        log_prob = np.log(mass[cell] / density.cell_area)
    return DensityScore(
        nll=-float(log_prob),
        entropy=density.entropy(),
        level=1.0 if mass[cell] == 0 else float(upto[before - 1]) if before else 0.0,
        searched_area_km2=searched_area_km2(density, truth[0]),
        area_50_km2=(int((upto < 0.5).sum()) + 1) * cell_km2,
        area_90_km2=(int((upto < 0.9).sum()) + 1) * cell_km2,
        energy_km=energy_score(density, truth[0]).item(),
    )


class DensityScores:
    """Scores of a stream of densities; of each it keeps seven numbers, 56 bytes.

    >>> scores = DensityScores()
    >>> scores.add([Density.uniform(4)], [(48.9, 2.4)])
    >>> round(scores.summary().information_gain, 6)
    0.0
    """

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

    def extend(self, other: "DensityScores") -> None:
        """Add the rows of another part of the queries, as of another process."""
        self._values.extend(other._values)

    def column(self, name: str) -> Float[np.ndarray, "rows"]:
        """Return the values of one field of `DensityScore`, for intervals and curves; a copy."""
        if name not in _NAMES:
            raise ValueError(f"expected a column out of {_NAMES}, got {name!r}")
        return np.array(self._values[_NAMES.index(name) :: len(_NAMES)])

    def summary(self) -> DensitySummary:
        """Summarise all rows.

        Raises:
            ValueError: nothing was added.
        """
        if not len(self):
            raise ValueError("expected at least one density, got none; add some first")
        rows = {name: self.column(name) for name in _NAMES}
        return DensitySummary(
            queries=len(self),
            mean_nll=float(rows["nll"].mean()),
            information_gain=UNIFORM_NLL - float(rows["nll"].mean()),
            mean_entropy=float(rows["entropy"].mean()),
            mean_energy_km=float(rows["energy_km"].mean()),
            **{f"median_{name}": float(np.median(rows[name])) for name in rows if "area" in name},
            coverage_50=coverage(rows["level"], 0.5),
            coverage_90=coverage(rows["level"], 0.9),
            calibration_error=calibration_error(rows["level"]),
        )
