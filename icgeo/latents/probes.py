"""Probes: what of a place can be read from activations, on photos that the probe has not seen.

Conventions: activations are a row a photo, [photos, channels] or [photos, tokens, channels], and
are standardised by those that a probe is fitted on; places are regressed as unit vectors, whose
length says nothing. Folds are random, or blocked in space: whole HEALPix cells are left out, so
that no neighbour tells the place of a photo (Roberts et al. 2017). Choices, such as the strength of
ridge regression, are made within the photos that a probe is fitted on.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from pandas import DataFrame
from scipy.stats import spearmanr
from torch import Tensor

from icgeo.config import require
from icgeo.metrics.intervals import Interval, bootstrap_interval, weighted_median
from icgeo.seeds import seeded_generator
from icgeo.sphere import distance_km, to_lat_lon, to_xyz
from icgeo.sphere.healpix import cell_of

ALPHAS = np.logspace(-4, 10, 29)
"""Strengths of ridge regression to choose from."""
KINDS = ("ridge", "kernel")
Split = Literal["random", "blocked"]
Rows = Float[Tensor, "rows *channels"]
LatLon = Float[Tensor, "photos 2"]
PAIRS = 20_000
"""Pairs of photos of which distances are ranked."""
BLOCK_NSIDE = 4
"""192 cells of some 1,630 km."""
KERNEL_FEATURES = 300


def fold_numbers(lat_lon: LatLon, split: Split, *, folds: int = 5) -> Int[np.ndarray, " photos"]:
    """Return the fold in which each photo is left out; blocked folds leave out whole cells.

    Raises:
        ValueError: fewer photos, or fewer cells with photos, than folds.
    """
    generator = np.random.default_rng(0)
    groups = np.arange(len(lat_lon))
    if split == "blocked":
        groups = np.unique(cell_of(lat_lon, BLOCK_NSIDE).numpy(), return_inverse=True)[1]
    count = int(groups.max()) + 1 if len(groups) else 0
    if count < folds:
        unit = "cells with photos" if split == "blocked" else "photos"
        raise ValueError(f"expected at least {folds} {unit} for as many folds, got {count}")
    sizes, numbers = np.zeros(folds, int), np.zeros(count, int)
    weight = np.bincount(groups)
    # large cells first, each to the fold that has least, in a random order among equals
    for group in sorted(generator.permutation(count), key=lambda cell: -weight[cell]):
        numbers[group] = sizes.argmin()
        sizes[sizes.argmin()] += weight[group]
    return numbers[groups]


def _regression(kind: str) -> Any:
    require("sklearn", "a probe", "latents")
    from sklearn.kernel_approximation import Nystroem
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    scale = StandardScaler()
    if kind == "ridge":
        return make_pipeline(scale, RidgeCV(ALPHAS))
    if kind == "kernel":
        # Gaussian of a width of the root of the channels, about as far as photos are apart
        features = Nystroem(n_components=KERNEL_FEATURES, random_state=0)
        return make_pipeline(scale, features, RidgeCV(ALPHAS))
    raise ValueError(f"expected a probe of {KINDS}, got {kind!r}")


def _classifier() -> Any:
    require("sklearn", "a probe", "latents")
    from sklearn.linear_model import RidgeClassifierCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), RidgeClassifierCV(ALPHAS, class_weight="balanced"))


def _predict_left_out(probe: Any, x: np.ndarray, y: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Predict each row by a probe that was fitted without its fold."""
    from sklearn.model_selection import PredefinedSplit, cross_val_predict

    with warnings.catch_warnings():
        # of a few photos: a class with one member, a flat matrix
        warnings.simplefilter("ignore")
        return cross_val_predict(probe, x, y, cv=PredefinedSplit(folds))


@dataclass(frozen=True, eq=False)
class PlaceProbe:
    """Where a probe puts photos that it has not seen, and how good that is."""

    lat_lon: LatLon
    """Its answers."""
    distance_km: Float[Tensor, " photos"]
    """Great-circle errors."""
    median_km: Interval
    """Bootstrap over photos."""
    r2: float
    """Of unit vectors: 1 less the squared error by that of the mean; 0 and below know nothing."""
    spearman: float
    """Rank correlation of the distances between answers with those between places, over pairs."""


def probe_places(
    x: Rows,
    lat_lon: LatLon,
    *,
    split: Split = "blocked",
    kind: str = "ridge",
    folds: int = 5,
    shuffled: bool = False,
    groups: Sequence[str] | None = None,
) -> PlaceProbe:
    """Read places from activations, each photo by a probe that was fitted without its fold.

    `groups` names what is left out in turn in place of folds, such as the world of each photo.
    `shuffled` fits and scores on the places of other photos: the floor of what says nothing.
    """
    if shuffled:
        order = torch.randperm(len(lat_lon), generator=seeded_generator("shuffled places"))
        lat_lon = lat_lon[order]
    _require_rows(x, len(lat_lon))
    lat_lon = lat_lon.double()
    xyz = to_xyz(lat_lon).numpy()
    if groups is None:
        numbers = fold_numbers(lat_lon, split, folds=folds)
    else:
        numbers = np.unique(np.asarray(groups), return_inverse=True)[1]
    rows = x.flatten(1).double().numpy()
    predictions = torch.from_numpy(_predict_left_out(_regression(kind), rows, xyz, numbers))
    answers = to_lat_lon(predictions)
    error = distance_km(answers, lat_lon)
    rest = (predictions - torch.from_numpy(xyz)).square().sum()
    spread = (torch.from_numpy(xyz) - torch.from_numpy(xyz).mean(0)).square().sum()
    rank, r2 = _rank_correlation(answers, lat_lon), 1 - (rest / spread).item()
    return PlaceProbe(answers, error, median_km(error), r2, rank)


def median_km(error_km: Float[Tensor, " photos"], *names: str) -> Interval:
    """Return the median and its bootstrap interval over photos; `names` seed another one."""
    generator = seeded_generator("bootstrap", *names)
    return bootstrap_interval(error_km, statistic=weighted_median, generator=generator)


def _require_rows(x: Tensor, count: int) -> None:
    if len(x) != count or not x.isfinite().all():
        raise ValueError(
            f"expected finite activations of each of {count} photos, got shape {tuple(x.shape)}"
        )


def _rank_correlation(answers: Tensor, places: Tensor) -> float:
    numbers = torch.randint(len(places), (2, PAIRS), generator=seeded_generator("pairs"))
    first, second = numbers.unbind()
    first, second = first[first != second], second[first != second]
    distances = [distance_km(where[first], where[second]).numpy() for where in (answers, places)]
    return float(spearmanr(*distances).statistic) if distances[0].std() > 0 else 0.0


@dataclass(frozen=True)
class LabelProbe:
    """How well a probe tells labels of photos that it has not seen."""

    balanced: float
    """Mean of the shares of each label that are told: that of chance is 1 by their number."""
    labels: int
    photos: int


def probe_labels(
    x: Rows,
    labels: Sequence[str],
    lat_lon: LatLon,
    *,
    split: Split = "random",
    fewest: int = 10,
    folds: int = 5,
) -> LabelProbe:
    """Tell labels by ridge classification; those of fewer than `fewest` photos are left out.

    Raises:
        ValueError: fewer than two labels are left.
    """
    _require_rows(x, len(labels))
    names = np.asarray(labels)
    classes, counts = np.unique(names, return_counts=True)
    is_kept = np.isin(names, classes[counts >= fewest])
    if len(np.unique(names[is_kept])) < 2:
        counts_by_label = dict(zip(classes.tolist(), counts.tolist(), strict=True))
        raise ValueError(
            f"expected two labels of at least {fewest} photos each, got {counts_by_label}"
        )
    mask = torch.from_numpy(is_kept)
    numbers = fold_numbers(lat_lon[mask], split, folds=folds)
    rows, names = x[mask].flatten(1).double().numpy(), names[is_kept]
    predictions = _predict_left_out(_classifier(), rows, names, numbers)
    shares = [(predictions[names == name] == name).mean() for name in np.unique(names)]
    return LabelProbe(float(np.mean(shares)), len(shares), len(names))


def probe_numbers(
    x: Rows, values: Float[np.ndarray, " photos"], lat_lon: LatLon, *, split: Split = "random"
) -> float:
    """Return R2 of a ridge probe for a number, such as the distance to the coast."""
    _require_rows(x, len(values))
    rows, target = x.flatten(1).double().numpy(), np.asarray(values, float)
    numbers = fold_numbers(lat_lon, split)
    predictions = _predict_left_out(_regression("ridge"), rows, target, numbers)
    return 1 - float(((predictions - target) ** 2).sum() / ((target - target.mean()) ** 2).sum())


def error_by_group(error_km: Float[Tensor, " photos"], groups: Sequence[str]) -> DataFrame:
    """Return the median error in km of each group, with its interval and number of photos."""
    names, rows = np.asarray(groups), []
    for name in np.unique(names):
        part = error_km[torch.from_numpy(names == name)]
        median = median_km(part, name)
        rows.append((name, len(part), median.estimate, median.low, median.high))
    return DataFrame(rows, columns=["group", "photos", "median_km", "low", "high"])


def thirds(values: Float[Tensor, " photos"], names: Sequence[str]) -> list[str]:
    """Name each photo by the third in which its value lies, from low to high."""
    edges = values.double().quantile(torch.tensor([1 / 3, 2 / 3], dtype=torch.float64))
    return [names[number] for number in torch.bucketize(values.double(), edges).tolist()]
