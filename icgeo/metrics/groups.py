"""Errors of parts of the queries: by continent or any other label, by how dense training data are.

Conventions: one row a query; rows without a label are in no group, but counted.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int
from numpy.typing import ArrayLike
from torch import Tensor

from icgeo.metrics.checks import as_column, as_locations, check_same_rows
from icgeo.metrics.distances import Summary, summarise
from icgeo.sphere import EARTH_RADIUS_KM, Values, to_xyz


@dataclass(frozen=True)
class Groups:
    """Summaries of parts of the queries."""

    summaries: dict[str, Summary]
    """By label, in alphabetical order."""
    missing: int
    """Queries without a label."""


@dataclass(frozen=True)
class DensityBin:
    """Queries with about as many training photos around them."""

    fewest: int
    most: int
    summary: Summary


def errors_by_group(
    distance_km: ArrayLike | Tensor,
    labels: Any,
    nll: ArrayLike | Tensor | None = None,
    *,
    protocol: str = "osv5m",
) -> Groups:
    """Summarise the queries of each label, such as the continents of their truths."""
    import pandas

    rows = pandas.DataFrame({"km": as_column(distance_km, "distance_km", low=0).numpy()})
    labels = pandas.Series(labels).astype(object)
    check_same_rows(len(rows), len(labels), "labels")
    if nll is not None:
        column = as_column(nll, "nll").numpy()
        check_same_rows(len(rows), len(column), "nll")
        rows["nll"] = column
    summaries = {
        str(name): summarise(
            part["km"].to_numpy(),
            None if nll is None else part["nll"].to_numpy(),
            protocol=protocol,
        )
        for name, part in rows.groupby(labels.to_numpy())
    }
    return Groups(summaries, missing=int(labels.isna().sum()))


def training_counts(
    lat_lon: Values, training: Values, *, radius_km: float = 100.0
) -> Int[np.ndarray, "rows"]:
    """Count the training photos within `radius_km` of each location, on the sphere.

    Both [rows, 2] in degrees; the boundary is inside.
    """
    from scipy.spatial import KDTree

    if not 0 < radius_km < np.pi * EARTH_RADIUS_KM:
        raise ValueError(f"expected a radius_km above 0, under half way around, got {radius_km:g}")
    queries = to_xyz(as_locations(lat_lon, "location")).numpy()
    photos = to_xyz(as_locations(training, "training location")).numpy()
    chord = 2 * np.sin(radius_km / EARTH_RADIUS_KM / 2)
    return KDTree(photos).query_ball_point(queries, chord, return_length=True)


def errors_by_training_density(
    distance_km: ArrayLike | Tensor,
    counts: ArrayLike | Tensor,
    *,
    bins: int = 4,
    protocol: str = "osv5m",
) -> list[DensityBin]:
    """Summarise the errors by quantiles of `training_counts`, from sparse to dense.

    Equal counts stay together, so that there may be fewer bins.
    """
    import pandas

    distance = as_column(distance_km, "distance_km", low=0).numpy()
    around = as_column(counts, "training count", low=0).numpy()
    check_same_rows(len(distance), len(around), "training counts")
    if bins < 1:
        raise ValueError(f"expected at least 1 bin, got {bins}")
    bounds = np.quantile(around, np.linspace(0, 1, bins + 1)[1:], method="inverted_cdf")
    rows = pandas.DataFrame({"km": distance, "around": around})
    return [
        DensityBin(
            int(part["around"].min()),
            int(part["around"].max()),
            summarise(part["km"].to_numpy(), protocol=protocol),
        )
        for _, part in rows.groupby(np.searchsorted(np.unique(bounds), around))
    ]
