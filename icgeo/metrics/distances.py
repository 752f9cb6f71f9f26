"""Great-circle errors of points: distances, GeoScore, accuracy within km, under a named protocol.

Conventions: one row a query; `distance_km` is the error, infinite for a query without an answer
(score 0, within no radius) unless the caller puts the error of a guess, as `icgeo.evaluation` does.
Fractions are in [0, 1].
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

from icgeo.metrics.checks import as_answers, as_column, as_locations, as_numbers, check_same_rows
from icgeo.metrics.intervals import weighted_median
from icgeo.sphere import EARTH_RADIUS_KM, Values, angle, to_xyz
from icgeo.sphere.best_point import GEOSCORE_SCALE_KM

THRESHOLDS_KM = (1.0, 25.0, 200.0, 750.0, 2500.0)
"""Street, city, region, country and continent (Hays and Efros 2008, as in all that followed)."""


@dataclass(frozen=True)
class Protocol:
    """How a line of work counts, so that a number can stand beside its table."""

    radius_km: float | None
    """Of the sphere on which distances are taken; None for the geodesic of WGS84."""
    closed: bool
    """Whether a query at exactly the threshold counts as within."""
    rounded: bool
    """Whether each GeoScore is rounded to a whole number, half to even."""


PROTOCOLS = {
    "osv5m": Protocol(radius_km=EARTH_RADIUS_KM, closed=False, rounded=False),
    "geoclip": Protocol(radius_km=None, closed=True, rounded=False),
    "pigeon": Protocol(radius_km=6378.137, closed=False, rounded=True),
}
"""By the evaluation code of OSV-5M and Plonk (Astruc et al. 2024, Dufour et al. 2025), of GeoCLIP
(Cepeda et al. 2023; publishes no GeoScore) and of PIGEON (Haas et al. 2024)."""


@dataclass(frozen=True)
class Summary:
    """The columns of a results table; None for what was not given."""

    queries: int
    median_km: float
    mean_km: float
    mean_geoscore: float
    within_1: float
    within_25: float
    within_200: float
    within_750: float
    within_2500: float
    mean_nll: float | None
    median_area_km2: float | None
    mean_seconds: float | None


def _protocol(name: str) -> Protocol:
    if name not in PROTOCOLS:
        raise ValueError(f"expected a protocol out of {[*PROTOCOLS]}, got {name!r}")
    return PROTOCOLS[name]


def distances(
    predicted: Values, truth: Values, *, protocol: str = "osv5m"
) -> Float[Tensor, "rows"]:
    """Errors in km of predicted locations; infinite where both coordinates are NaN, no answer.

    Raises:
        ValueError: no row, columns of different lengths, a truth that is not a location.
    """
    lat_lon, known = as_answers(predicted, "prediction")
    true = as_locations(truth, "truth")
    check_same_rows(len(true), len(lat_lon), "predictions")
    radius_km = _protocol(protocol).radius_km
    if radius_km is not None:
        km = radius_km * angle(to_xyz(lat_lon), to_xyz(true))
    else:
        from pyproj import Geod  # the geodesic of WGS84 (Karney 2013, to nanometres)

        ends = (*lat_lon.numpy().T[::-1], *true.numpy().T[::-1])
        km = torch.from_numpy(Geod(ellps="WGS84").inv(*ends)[2]) / 1000
    return torch.where(known, km, math.inf)


def geoscore(distance_km: ArrayLike | Tensor, *, protocol: str = "osv5m") -> Float[Tensor, "..."]:
    """Score each answer from 0 to 5000: `5000 exp(-d / 1492.7)` (Haas et al. 2024, as in OSV-5M).

    >>> geoscore([0.0, 1492.7, float("inf")]).round().tolist()
    [5000.0, 1839.0, 0.0]
    """
    rounded = _protocol(protocol).rounded
    score = 5000 * torch.exp(-as_numbers(distance_km, "distance_km", low=0) / GEOSCORE_SCALE_KM)
    return score.round() if rounded else score


def accuracy_within(
    distance_km: ArrayLike | Tensor, km: float, *, protocol: str = "osv5m"
) -> float:
    """Fraction of the queries closer than `km` (Hays and Efros 2008).

    Strictly, except for the protocol "geoclip". `km` must be positive and finite.
    """
    return accuracies(distance_km, (km,), protocol=protocol)[km]


def accuracies(
    distance_km: ArrayLike | Tensor,
    thresholds_km: Sequence[float] = THRESHOLDS_KM,
    *,
    protocol: str = "osv5m",
) -> dict[float, float]:
    """Fraction of the queries within each of several distances, as `accuracy_within`."""
    closed = _protocol(protocol).closed
    distance = as_column(distance_km, "distance_km", low=0)
    if wrong := [km for km in thresholds_km if not 0 < km < math.inf]:
        raise ValueError(f"expected thresholds in km, positive and finite, got {wrong[0]:g}")
    within = torch.le if closed else torch.lt
    return {km: within(distance, km).double().mean().item() for km in thresholds_km}


def mean_error(distance_km: ArrayLike | Tensor) -> float:
    """Mean error in km; infinite if any query has no answer."""
    return as_column(distance_km, "distance_km", low=0).mean().item()


def median_error(distance_km: ArrayLike | Tensor) -> float:
    """Median error in km, midway between the middle two; infinite if they have no answer."""
    return _median(as_column(distance_km, "distance_km", low=0))


def _median(values: Float[Tensor, "rows"]) -> float:
    return weighted_median(values, torch.ones_like(values)).item()


def summarise(
    distance_km: ArrayLike | Tensor,
    nll: ArrayLike | Tensor | None = None,
    *,
    area_km2: ArrayLike | Tensor | None = None,
    seconds: ArrayLike | Tensor | None = None,
    protocol: str = "osv5m",
) -> Summary:
    """Summarise queries as one row of a table; `area_km2` are those of the 90 % credible regions.

    Raises:
        ValueError: no query, NaN, or columns of different lengths.
    """
    distance = as_column(distance_km, "distance_km", low=0)
    columns = {}
    for name, values in {"nll": nll, "area_km2": area_km2, "seconds": seconds}.items():
        if values is not None:
            columns[name] = as_column(values, name)
            check_same_rows(len(distance), len(columns[name]), name)
    return Summary(
        queries=len(distance),
        median_km=_median(distance),
        mean_km=mean_error(distance),
        mean_geoscore=geoscore(distance, protocol=protocol).mean().item(),
        **{f"within_{km:.0f}": x for km, x in accuracies(distance, protocol=protocol).items()},
        mean_nll=columns["nll"].mean().item() if "nll" in columns else None,
        median_area_km2=_median(columns["area_km2"]) if "area_km2" in columns else None,
        mean_seconds=columns["seconds"].mean().item() if "seconds" in columns else None,
    )
