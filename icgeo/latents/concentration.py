"""Where on the globe features are: maps on HEALPix, spatial concentration, countries.

Conventions: codes are a sparse array [photos, features], never negative; `lat_lon` are the places
of the photos in degrees. A cell's value is the mean code of its photos, so that where many photos
were taken does not count; cells without a photo are in no statistic.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from scipy.sparse import csr_array
from scipy.stats import false_discovery_control, hypergeom
from torch import Generator

from icgeo.sphere import Values
from icgeo.sphere.healpix import cell_of, neighbours

LEVEL = 0.05
"""False discovery rate at which a feature counts as concentrated, or a country as enriched."""
FEWEST = 10
"""Photos in which a feature must be to be tested."""


@dataclass(frozen=True, eq=False)
class FeatureMaps:
    """Mean codes over the cells that hold a photo."""

    nside: int
    cells: Int[np.ndarray, " cells"]
    """Numbers of those cells, rising."""
    photos: Int[np.ndarray, " cells"]
    """Photos in each."""
    means: Float[np.ndarray, "cells features"]


def feature_maps(codes: Any, lat_lon: Values, *, nside: int) -> FeatureMaps:
    """Make the map of the world of every feature: its mean code over each cell."""
    gather, cells, photos = _gathering(cell_of(lat_lon, nside).numpy(), codes.shape[0])
    return FeatureMaps(nside, cells, photos, (gather @ codes).toarray())


def _gathering(cell: Int[np.ndarray, " photos"], count: int) -> tuple[Any, Any, Any]:
    """Return the sparse matrix that takes values of photos to means of cells; cells; counts."""
    if len(cell) != count:
        raise ValueError(f"expected a place for each of {count} rows, got {len(cell)} places")
    cells, position, photos = np.unique(cell, return_inverse=True, return_counts=True)
    entries = (1 / photos[position], (position, np.arange(count)))
    return csr_array(entries, shape=(len(cells), count)), cells, photos


def neighbour_weights(cells: Int[np.ndarray, " cells"], nside: int) -> Any:
    """Return 1 for each pair of cells that touch, as a sparse array [cells, cells]."""
    position = np.full(12 * nside**2, -1)
    position[cells] = np.arange(len(cells))
    columns = position[neighbours(nside).numpy()[cells]]
    rows = np.broadcast_to(np.arange(len(cells))[:, None], columns.shape)
    mask = (columns >= 0) & (columns != rows)  # seven neighbours: the cell stands in for the eighth
    entries = (np.ones(mask.sum()), (rows[mask], columns[mask]))
    return csr_array(entries, shape=2 * (len(cells),))


def morans_i(values: Float[np.ndarray, "cells features"], weights: Any) -> Any:
    """Return Moran's I of each column (Moran 1950): 1 alike neighbours, about 0 by chance.

    NaN for a column that is the same everywhere.
    """
    off = values - values.mean(axis=0)
    squares = (off**2).sum(axis=0)
    # a constant column leaves rounding errors
    squares[squares <= 1e-20 * len(values) * (values**2).max(axis=0, initial=0)] = np.nan
    return len(values) / weights.sum() * (off * (weights @ off)).sum(axis=0) / squares


def effective_share(values: Float[np.ndarray, "cells features"]) -> Any:
    """Return the share of cells over which each column spreads: exp(entropy) / cells, in (0, 1].

    1 is the same everywhere, 1 / cells all in one; NaN for a column of zeros.
    """
    totals = values.sum(axis=0)
    shares = values / np.where(totals > 0, totals, np.nan)
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    return np.exp(-(shares * logs).sum(axis=0)) / len(values)


def concentration(
    codes: Any, lat_lon: Values, *, nside: int, generator: Generator, permutations: int = 999
) -> pd.DataFrame:
    """Test how concentrated each feature is on the globe, against permuted places.

    Rows are features; columns: `photos` with a code above 0, `moran` and `share` (the effective
    share of the cells), `moran_by_chance` and `share_by_chance` (means of the permutations),
    `moran_p` and `share_p` (one-sided, (1 + as extreme) / (1 + permutations)), `moran_q` and
    `share_q` (Benjamini and Hochberg 1995, over all features tested), `is_concentrated` (moran_q
    below 0.05). Of features in fewer than 10 photos p, q are NaN: they are not tested.

    Args:
        codes: sparse array [photos, features].
        lat_lon: places of the photos.
        nside: of the cells; best with five photos a cell or more (`suited_nside`).
        generator: shuffles places.
        permutations: the least p is 1 / (1 + permutations).
    """
    count = codes.shape[0]
    gather, cells, _ = _gathering(cell_of(lat_lon, nside).numpy(), count)
    if len(cells) < 3 or not (weights := neighbour_weights(cells, nside)).nnz:
        raise ValueError(
            f"expected photos in at least 3 cells, two of which touch, got {len(cells)} cells; "
            f"take more photos, or nside below {nside}"
        )

    def statistics(order: Any) -> Any:
        means = (gather[:, order] @ codes).toarray()
        return np.stack((morans_i(means, weights), effective_share(means)))

    observed = statistics(np.arange(count))
    exceedances, total = np.ones_like(observed), np.zeros_like(observed)
    sign = np.array([[1.0], [-1.0]])  # a high I, a small share
    for _ in range(permutations):
        by_chance = statistics(torch.randperm(count, generator=generator).numpy())
        exceedances += sign * (by_chance - observed) >= -1e-12
        total += by_chance
    photos = np.bincount(codes.indices[codes.data > 0], minlength=codes.shape[1])
    is_tested = (photos >= FEWEST) & np.isfinite(observed).all(axis=0)
    p = np.where(is_tested, exceedances / (1 + permutations), np.nan)
    table = pd.DataFrame({"photos": photos})
    for name, *columns in zip(("moran", "share"), observed, total, p, strict=True):
        table[name] = columns[0]
        table[f"{name}_by_chance"] = columns[1] / max(1, permutations)
        table[f"{name}_p"], table[f"{name}_q"] = columns[2], _discovery_rates(columns[2])
    return table.assign(is_concentrated=table.moran_q < LEVEL).rename_axis("feature")


def suited_nside(photos: int, *, most: int = 32) -> int:
    """Return the largest power of two with five photos or more a cell, if spread evenly."""
    nside = 1
    while nside < most and photos >= 5 * 12 * (2 * nside) ** 2:
        nside *= 2
    return nside


def _discovery_rates(p: Float[np.ndarray, " tests"]) -> Float[np.ndarray, " tests"]:
    """Adjust p-values for how many there are, leaving out NaN."""
    valid = np.isfinite(p)
    q = np.full(len(p), np.nan)
    q[valid] = false_discovery_control(p[valid])
    return q


def country_enrichment(codes: Any, countries: Sequence[str]) -> pd.DataFrame:
    """Test in which countries each feature is found more often than chance has it.

    A hypergeometric test of each feature and country: of all photos, how many are of the country,
    and of those with the feature? Rows: those that share a photo; columns: `feature`, `country`,
    `photos` (with the feature, of the country), `fold` (their number over what is expected), `p`,
    and `q` (Benjamini and Hochberg 1995, over all features and countries that are there), by which
    they are sorted.
    """
    count = codes.shape[0]
    names, position = np.unique(np.asarray(countries), return_inverse=True)
    if len(position) != count:
        raise ValueError(f"expected a country for each of {count} rows, got {len(position)}")
    of_country = csr_array((np.ones(count), (position, np.arange(count))), (len(names), count))
    counts = (of_country @ (codes > 0).astype(float)).toarray()
    of_feature, of_name = counts.sum(axis=0), np.bincount(position)
    p, rates = np.ones_like(counts), np.ones_like(counts)
    row, feature = np.nonzero(counts)
    overlap = counts[row, feature]
    p[row, feature] = hypergeom.sf(overlap - 1, count, of_name[row], of_feature[feature])
    if (is_active := of_feature > 0).any():
        p_values = p[:, is_active]
        rates[:, is_active] = false_discovery_control(p_values.ravel()).reshape(p_values.shape)
    table = {
        "feature": feature,
        "country": names[row],
        "photos": overlap.astype(int),
        "fold": overlap * count / (of_name[row] * of_feature[feature]),
        "p": p[row, feature],
        "q": rates[row, feature],
    }
    return pd.DataFrame(table).sort_values(["q", "p", "feature"], ignore_index=True)


def top_photos(codes: Any, feature: int, count: int) -> Int[np.ndarray, " photos"]:
    """Return the numbers of the photos with most of a feature, at most `count`, falling."""
    column = codes[:, [feature]].tocoo()
    order = np.argsort(-column.data, kind="stable")[:count]
    return column.coords[0][order]
