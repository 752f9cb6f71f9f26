"""Errors of points: great-circle distances under a named protocol, of all queries and of groups.

Its modules hold bootstrap `intervals`, the places that people name (`locations`), scores of
`densities`, and what `samples` look like. Conventions: one row a query; `distance_km` is the error,
infinite for a query without an answer (score 0, within no radius) unless the caller puts the error
of a guess, as `icgeo.evaluation` does. Fractions are in [0, 1]. NaN and no row are a `ValueError`.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from pandas import DataFrame, Series
from pyproj import Geod
from scipy.spatial import KDTree
from torch import Tensor

from icgeo.sphere import EARTH_RADIUS_KM, Values, angle, as_lat_lon, as_tensor, to_xyz
from icgeo.sphere.best_point import GEOSCORE_SCALE_KM

Numbers = ArrayLike | Tensor
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
    """The columns of a results table."""

    queries: int
    median_km: float
    mean_km: float
    mean_geoscore: float
    within_1: float
    within_25: float
    within_200: float
    within_750: float
    within_2500: float


def as_numbers(
    values: Numbers, name: str, *, low: float = -math.inf, high: float = math.inf
) -> Float[Tensor, "..."]:
    """Return numbers in [low, high] as float64."""
    numbers = as_tensor(values).double()
    mask = ~((numbers >= low) & (numbers <= high))  # NaN is in no range
    if mask.any():
        index = tuple(mask.nonzero()[0].tolist())
        raise ValueError(
            f"expected {name} in [{low:g}, {high:g}], got {numbers[index].item():g} at index "
            f"{list(index)}; drop such queries, or score a missing answer as infinitely far"
        )
    return numbers


def as_column(values: Numbers, name: str, **bounds: float) -> Float[Tensor, "rows"]:
    """Return one number within bounds, as of `as_numbers`, for each of at least one query."""
    numbers = as_numbers(values, name, **bounds)
    check_rows(numbers, 1, f"one {name}")
    return numbers


def as_locations(values: Values, name: str) -> Float[Tensor, "rows 2"]:
    """Return at least one location in degrees, float64."""
    lat_lon = as_lat_lon(values).double()
    check_rows(lat_lon, 2, f"a {name} (latitude, longitude)")
    return lat_lon


def as_answers(values: Values, name: str) -> tuple[Float[Tensor, "rows 2"], Tensor]:
    """Return locations, and which rows have one: NaN stands for a query without an answer."""
    lat_lon = as_tensor(values)
    mask = ~lat_lon.isnan().all(-1)
    return as_locations(torch.where(mask[..., None], lat_lon, 0), name), mask


def check_rows(rows: Tensor, dimensions: int, name: str) -> None:
    """Refuse no row, or other dimensions."""
    if rows.ndim != dimensions or not len(rows):
        raise ValueError(
            f"expected {name} for each of at least one query, got shape {tuple(rows.shape)}"
        )


def check_same_rows(count: int, other: int, name: str) -> None:
    """Refuse two columns of different lengths."""
    if count != other:
        raise ValueError(f"expected {name} of {count} queries, got {other}")


def _protocol(name: str) -> Protocol:
    if name not in PROTOCOLS:
        raise ValueError(f"expected a protocol out of {[*PROTOCOLS]}, got {name!r}")
    return PROTOCOLS[name]


def distances(
    predicted: Values, truth: Values, *, protocol: str = "osv5m"
) -> Float[Tensor, "rows"]:
    """Return the errors of predictions in km; infinite where both coordinates are NaN, no answer.

    Raises:
        ValueError: no row, columns of different lengths, a truth that is not a location.
    """
    lat_lon, mask = as_answers(predicted, "prediction")
    truths = as_locations(truth, "truth")
    check_same_rows(len(truths), len(lat_lon), "predictions")
    radius_km = _protocol(protocol).radius_km
    if radius_km is not None:
        km = radius_km * angle(to_xyz(lat_lon), to_xyz(truths))
    else:
        ends = (*lat_lon.numpy().T[::-1], *truths.numpy().T[::-1])
        # Karney 2013, to nanometres
        km = torch.from_numpy(Geod(ellps="WGS84").inv(*ends)[2]) / 1000
    return torch.where(mask, km, math.inf)


def geoscore(distance_km: Numbers, *, protocol: str = "osv5m") -> Float[Tensor, "..."]:
    """Score answers from 0 to 5000: `5000 exp(-d / 1492.7)` (Haas et al. 2024, as in OSV-5M)."""
    score = 5000 * torch.exp(-as_numbers(distance_km, "distance_km", low=0) / GEOSCORE_SCALE_KM)
    return score.round() if _protocol(protocol).rounded else score


def accuracy_within(distance_km: Numbers, km: float, *, protocol: str = "osv5m") -> float:
    """Return the fraction of queries closer than `km`, strictly but for the protocol "geoclip"."""
    if not 0 < km < math.inf:
        raise ValueError(f"expected a threshold in km, positive and finite, got {km:g}")
    within = torch.le if _protocol(protocol).closed else torch.lt
    return within(as_column(distance_km, "distance_km", low=0), km).double().mean().item()


def mean_error(distance_km: Numbers) -> float:
    """Return the mean error in km; infinite if any query has no answer."""
    return as_column(distance_km, "distance_km", low=0).mean().item()


def median_error(distance_km: Numbers) -> float:
    """Return the median error in km, midway between the middle two; infinite without answers."""
    return float(np.median(as_column(distance_km, "distance_km", low=0).cpu()))


def summarise(distance_km: Numbers, *, protocol: str = "osv5m") -> Summary:
    """Summarise the errors of queries as one row of a table."""
    within = partial(accuracy_within, distance_km, protocol=protocol)
    return Summary(
        queries=len(as_column(distance_km, "distance_km", low=0)),
        median_km=median_error(distance_km),
        mean_km=mean_error(distance_km),
        mean_geoscore=geoscore(distance_km, protocol=protocol).mean().item(),
        **{f"within_{km:.0f}": within(km) for km in THRESHOLDS_KM},
    )


def errors_by_group(
    distance_km: Numbers, labels: Any, *, protocol: str = "osv5m"
) -> dict[str, Summary]:
    """Summarise the queries of each label, such as the continents of their truths, in their order.

    Queries without a label are in no group.
    """
    distance = Series(as_column(distance_km, "distance_km", low=0).numpy())
    label = Series(labels).to_numpy(dtype=object)
    check_same_rows(len(distance), len(label), "labels")
    parts = distance.groupby(label)
    return {str(name): summarise(km.to_numpy(), protocol=protocol) for name, km in parts}


def training_counts(
    lat_lon: Values, training: Values, *, radius_km: float = 100.0
) -> Int[np.ndarray, "rows"]:
    """Count the training photos within `radius_km` of each location, on the sphere.

    Both [rows, 2] in degrees; the boundary is inside.
    """
    if not 0 < radius_km < np.pi * EARTH_RADIUS_KM:
        raise ValueError(f"expected a radius_km above 0, under half way around, got {radius_km:g}")
    queries = to_xyz(as_locations(lat_lon, "location")).numpy()
    photos = to_xyz(as_locations(training, "training location")).numpy()
    chord = 2 * np.sin(radius_km / EARTH_RADIUS_KM / 2)
    return KDTree(photos).query_ball_point(queries, chord, return_length=True)


def errors_by_training_density(
    distance_km: Numbers, counts: Numbers, *, bins: int = 4, protocol: str = "osv5m"
) -> dict[tuple[int, int], Summary]:
    """Summarise the errors by quantiles of `training_counts`, from sparse to dense.

    By the fewest and most counted in each. Equal counts stay together: there may be fewer bins.
    """
    distance = as_column(distance_km, "distance_km", low=0).numpy()
    around = as_column(counts, "training count", low=0).numpy()
    check_same_rows(len(distance), len(around), "training counts")
    if bins < 1:
        raise ValueError(f"expected at least 1 bin, got {bins}")
    bounds = np.quantile(around, np.linspace(0, 1, bins + 1)[1:], method="inverted_cdf")
    bin_of = np.searchsorted(np.unique(bounds), around)
    parts = DataFrame({"around": around, "km": distance}).groupby(bin_of)
    return {
        (int(part.around.min()), int(part.around.max())): summarise(
            part.km.to_numpy(), protocol=protocol
        )
        for _, part in parts
    }
