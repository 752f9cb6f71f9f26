"""Scores of predictions: arrays in, numbers out.

Conventions: one row a query; `distance_km` is the great-circle error, infinite for a query without
an answer (score 0, within no radius) unless the caller puts the error of a guess, as
`icgeo.evaluation` does; `nll` is minus the log-density at the truth, in nats per
steradian; `levels` are the credible levels of the truths (`Density.credible_level`). Fractions are
in [0, 1]. NaN and inputs without a row raise `ValueError`.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from torch import Generator, Tensor

from icgeo.best_point import GEOSCORE_SCALE_KM

UNIFORM_NLL = math.log(4 * math.pi)

Statistic = Callable[[Tensor, Tensor], Tensor]
"""Of values [rows] under weights [*resamples, rows], how often each row counts -> [*resamples]."""

_WEIGHTS_AT_ONCE = 2**22  # 32 MiB


@dataclass(frozen=True)
class Interval:
    """A statistic of the queries and the bounds of its bootstrap interval."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Summary:
    """The columns of a results table; None for what was not given."""

    queries: int
    median_km: float
    mean_km: float
    mean_geoscore: float
    within_200: float
    within_750: float
    within_2500: float
    mean_nll: float | None
    median_area_km2: float | None
    mean_seconds: float | None


def _checked(
    values: ArrayLike | Tensor, name: str, *, low: float = -math.inf, high: float = math.inf
) -> Float[Tensor, "..."]:
    tensor = values if isinstance(values, Tensor) else torch.from_numpy(np.array(values, float))
    tensor = tensor.double()
    wrong = ~((tensor >= low) & (tensor <= high))  # NaN is in no range
    if wrong.any():
        where = tuple(wrong.nonzero()[0].tolist())
        raise ValueError(
            f"expected {name} in [{low:g}, {high:g}], got {tensor[where].item():g} at index "
            f"{list(where)}; drop such queries, or score a missing answer as infinitely far"
        )
    return tensor


def _column(
    values: ArrayLike | Tensor, name: str, *, low: float = -math.inf, high: float = math.inf
) -> Float[Tensor, "rows"]:
    column = _checked(values, name, low=low, high=high)
    if column.ndim != 1 or not len(column):
        raise ValueError(
            f"expected one {name} for each of at least one query, got shape {tuple(column.shape)}"
        )
    return column


def geoscore(distance_km: ArrayLike | Tensor) -> Float[Tensor, "..."]:
    """Score each answer from 0 to 5000: `5000 exp(-d / 1492.7)` (Haas et al. 2024, as in OSV-5M).

    >>> geoscore([0.0, 1492.7, float("inf")]).round().tolist()
    [5000.0, 1839.0, 0.0]
    """
    return 5000 * torch.exp(-_checked(distance_km, "distance_km", low=0) / GEOSCORE_SCALE_KM)


def accuracy_within(distance_km: ArrayLike | Tensor, km: float) -> float:
    """Fraction of the queries closer than `km`, strictly (Hays and Efros 2008)."""
    return (_column(distance_km, "distance_km", low=0) < km).double().mean().item()


def mean_error(distance_km: ArrayLike | Tensor) -> float:
    """Mean error in km; infinite if any query has no answer."""
    return _column(distance_km, "distance_km", low=0).mean().item()


def median_error(distance_km: ArrayLike | Tensor) -> float:
    """Median error in km, midway between the middle two; infinite if they have no answer."""
    return _median(_column(distance_km, "distance_km", low=0))


def mean_nll(nll: ArrayLike | Tensor) -> float:
    """Mean negative log-likelihood in nats per steradian; log(4 pi) = 2.53 for the uniform one."""
    return _column(nll, "nll").mean().item()


def information_gain(nll: ArrayLike | Tensor) -> float:
    """Mean nats by which the densities beat the uniform one (Good 1952); negative if worse."""
    return UNIFORM_NLL - mean_nll(nll)


def coverage(levels: ArrayLike | Tensor, p: float) -> float:
    """Fraction of the truths inside their credible region of probability `p`."""
    return reliability(levels, [p]).item()


def reliability(levels: ArrayLike | Tensor, grid: ArrayLike | Tensor) -> Float[Tensor, "grid"]:
    """P-P curve: the observed fraction of truths inside the credible region of each probability.

    Calibrated densities follow the diagonal, since their levels are uniform (Dawid 1984).
    """
    ordered = _levels(levels)
    probabilities = _column(grid, "probability", low=0, high=1).to(ordered.device)
    return torch.searchsorted(ordered, probabilities, right=True).double() / len(ordered)


def calibration_error(levels: ArrayLike | Tensor) -> float:
    """Largest distance of the P-P curve from the diagonal (the Kolmogorov-Smirnov statistic).

    Above `1.36 / sqrt(rows)` it rejects calibration at 5 % for independent queries (Massey 1951).
    """
    ordered = _levels(levels)
    steps = torch.arange(len(ordered) + 1).to(ordered) / len(ordered)
    return torch.maximum(steps[1:] - ordered, ordered - steps[:-1]).max().item()


def _levels(levels: ArrayLike | Tensor) -> Float[Tensor, "rows"]:
    """Sorted levels; sums of masses exceed 1 by rounding."""
    return _column(levels, "credible level", low=-1e-6, high=1 + 1e-6).clamp(0, 1).sort().values


def weighted_mean(
    values: Float[Tensor, "rows"], weights: Float[Tensor, "*resamples rows"]
) -> Float[Tensor, "*resamples"]:
    """Mean of the values, each counted `weights` times; a weight of 0 leaves even infinity out."""
    counted = torch.where(weights > 0, values, 0)
    return (weights * counted).sum(-1) / weights.sum(-1)


def weighted_median(
    values: Float[Tensor, "rows"], weights: Float[Tensor, "*resamples rows"]
) -> Float[Tensor, "*resamples"]:
    """Median of the values, each repeated a whole number `weights` of times."""
    ordered, order = values.sort()
    upto = weights[..., order].cumsum(-1)
    total = upto[..., -1:]
    middle = torch.cat(((total - 1) // 2, total // 2), dim=-1)
    return ordered[torch.searchsorted(upto, middle, right=True)].mean(-1)


def _median(values: Float[Tensor, "rows"]) -> float:
    return weighted_median(values, torch.ones_like(values)).item()


def bootstrap_interval(
    values: ArrayLike | Tensor,
    *,
    statistic: Statistic = weighted_mean,
    clusters: ArrayLike | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    generator: Generator | None = None,
) -> Interval:
    """Percentile interval of a statistic of the queries (Efron and Tibshirani 1993, section 13.3).

    `clusters` names the episode of each row, by number or string: queries that share examples are
    not independent, so episodes are resampled whole (Davison and Hinkley 1997, section 3.8).
    Without them each row is its own. A single cluster says nothing about the spread: its bounds
    are NaN.
    """
    systems = _column(values, "value")[None]
    (replicates,) = _replicates(systems, statistic, clusters, resamples, generator)
    return _interval(replicates, level)


def paired_bootstrap(
    a: ArrayLike | Tensor,
    b: ArrayLike | Tensor,
    *,
    statistic: Statistic = weighted_mean,
    ratio: bool = False,
    clusters: ArrayLike | None = None,
    resamples: int = 1000,
    generator: Generator | None = None,
) -> Interval:
    """95 % interval of statistic(a) - statistic(b), or of their ratio a / b, over the same queries.

    Both systems are resampled together, so what makes a query hard for both cancels. `clusters` as
    in `bootstrap_interval`. NaN where both are infinite or, for the ratio, both zero.
    """
    first, second = _column(a, "value of a"), _column(b, "value of b")
    if len(first) != len(second):
        raise ValueError(
            f"expected both systems on the same queries, got {len(first)} and {len(second)} rows"
        )
    systems = torch.stack((first, second))
    left, right = _replicates(systems, statistic, clusters, resamples, generator)
    return _interval(left / right if ratio else left - right, 0.95)


def _replicates(
    systems: Float[Tensor, "systems rows"],
    statistic: Statistic,
    clusters: ArrayLike | None,
    resamples: int,
    generator: Generator | None,
) -> Float[Tensor, "systems replicates"]:
    """Statistic of each system: first of the queries themselves, then of each resample."""
    index = _cluster_index(clusters, systems.shape[-1]).to(systems.device)
    weights = [torch.ones_like(systems[:1]), *_resample(index, resamples, generator)]
    parts = [torch.stack([statistic(values, part) for values in systems]) for part in weights]
    replicates = torch.cat(parts, dim=-1)
    if index.max() == 0:
        replicates[:, 1:] = math.nan
    return replicates


def _cluster_index(clusters: ArrayLike | None, rows: int) -> Int[Tensor, "rows"]:
    if clusters is None:
        return torch.arange(rows)
    index = np.unique(np.asarray(clusters), return_inverse=True)[1]
    if index.shape != (rows,):
        raise ValueError(f"expected one cluster for each of {rows} rows, got shape {index.shape}")
    return torch.from_numpy(index)


def _resample(
    index: Int[Tensor, "rows"], resamples: int, generator: Generator | None
) -> Iterator[Float[Tensor, "part rows"]]:
    """How often each row stands in each resample of whole clusters, as many at once as fit."""
    if resamples < 1:
        raise ValueError(f"expected at least 1 resample, got {resamples}")
    clusters = int(index.max()) + 1
    at_once = max(1, _WEIGHTS_AT_ONCE // len(index))
    for done in range(0, resamples, at_once):
        shape = (min(at_once, resamples - done), clusters)
        drawn = torch.randint(clusters, shape, generator=generator, device=index.device)
        times = torch.zeros(shape, dtype=torch.float64, device=index.device)
        yield times.scatter_add_(1, drawn, torch.ones_like(times))[:, index]


def _interval(replicates: Float[Tensor, "replicates"], level: float) -> Interval:
    if not 0 < level < 1:
        raise ValueError(f"expected a confidence level between 0 and 1, got {level:g}")
    estimate, resampled = replicates[0], replicates[1:]
    # Neighbouring replicates outwards, not an interpolation: infinity minus infinity is NaN.
    low = resampled.quantile((1 - level) / 2, interpolation="lower")
    high = resampled.quantile((1 + level) / 2, interpolation="higher")
    return Interval(estimate.item(), low.item(), high.item())


def summarise(
    distance_km: ArrayLike | Tensor,
    nll: ArrayLike | Tensor | None = None,
    *,
    area_km2: ArrayLike | Tensor | None = None,
    seconds: ArrayLike | Tensor | None = None,
) -> Summary:
    """Summarise queries as one row of a table; `area_km2` are those of the 90 % credible regions.

    Raises:
        ValueError: no query, NaN, or columns of different lengths.
    """
    distance = _column(distance_km, "distance_km", low=0)
    columns = {"nll": nll, "area_km2": area_km2, "seconds": seconds}
    given = {name: _column(values, name) for name, values in columns.items() if values is not None}
    for name, values in given.items():
        if len(values) != len(distance):
            raise ValueError(f"expected {name} of {len(distance)} queries, got {len(values)}")
    return Summary(
        queries=len(distance),
        median_km=_median(distance),
        mean_km=mean_error(distance),
        mean_geoscore=geoscore(distance).mean().item(),
        within_200=accuracy_within(distance, 200),
        within_750=accuracy_within(distance, 750),
        within_2500=accuracy_within(distance, 2500),
        mean_nll=given["nll"].mean().item() if "nll" in given else None,
        median_area_km2=_median(given["area_km2"]) if "area_km2" in given else None,
        mean_seconds=given["seconds"].mean().item() if "seconds" in given else None,
    )
