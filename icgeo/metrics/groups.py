"""Errors of parts of the queries: by continent or any other label, by how dense training data are.

Conventions: one row a query; rows without a label are in no group, but counted.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from torch import Tensor

from icgeo.metrics.checks import column, places, same_rows
from icgeo.metrics.errors import Summary, summarise
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

    distance = column(distance_km, "distance_km", low=0)
    groups = pandas.Series(labels).reset_index(drop=True)
    same_rows(len(distance), len(groups), "labels")
    given = None if nll is None else column(nll, "nll")
    if given is not None:
        same_rows(len(distance), len(given), "nll")
    codes, names = pandas.factorize(groups.astype(object), sort=True)
    summaries = {}
    for code, name in enumerate(names):
        rows = torch.from_numpy(codes == code)
        part = None if given is None else given[rows]
        summaries[str(name)] = summarise(distance[rows], part, protocol=protocol)
    return Groups(summaries, missing=int((codes < 0).sum()))


def training_counts(
    lat_lon: Values, training: Values, *, radius_km: float = 100.0
) -> Int[np.ndarray, "rows"]:
    """Count the training photos within `radius_km` of each location, on the sphere.

    Both [rows, 2] in degrees; the boundary is inside.
    """
    from scipy.spatial import KDTree

    if not 0 < radius_km < np.pi * EARTH_RADIUS_KM:
        raise ValueError(f"expected a radius_km above 0, under half way around, got {radius_km:g}")
    queries, photos = (
        to_xyz(places(values, name)).numpy()
        for values, name in ((lat_lon, "location"), (training, "training location"))
    )
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
    distance = column(distance_km, "distance_km", low=0)
    around = column(counts, "training count", low=0)
    same_rows(len(distance), len(around), "training counts")
    if bins < 1:
        raise ValueError(f"expected at least 1 bin, got {bins}")
    shares = torch.linspace(0, 1, bins + 1, dtype=torch.float64)[1:]
    bounds = torch.from_numpy(np.quantile(around, shares, method="inverted_cdf")).unique()
    bin_of = torch.searchsorted(bounds, around)
    return [
        _bin(distance[bin_of == one], around[bin_of == one], protocol) for one in bin_of.unique()
    ]


def _bin(
    distance: Float[Tensor, "rows"], around: Float[Tensor, "rows"], protocol: str
) -> DensityBin:
    summary = summarise(distance, protocol=protocol)
    return DensityBin(int(around.min()), int(around.max()), summary)
