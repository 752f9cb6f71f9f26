"""Bootstrap intervals of any statistic of the queries, alone or of two systems on the same ones.

Conventions: one row a query; a statistic is a function of values and of how often each counts.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from einops import repeat
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Generator, Tensor

from icgeo.metrics import Numbers, as_column, check_same_rows

Statistic = Callable[[Tensor, Tensor], Tensor]
"""Of values [rows] under weights [*resamples, rows], how often each row counts -> [*resamples]."""

LEVEL = 0.95
_WEIGHTS_AT_ONCE = 2**22  # 32 MiB
_RUNS = 2**15
"""More rows than this are gathered into as many runs of neighbours before they are resampled."""


@dataclass(frozen=True)
class Interval:
    """A statistic of the queries and the bounds of its bootstrap interval."""

    estimate: float
    low: float
    high: float


def weighted_mean(
    values: Float[Tensor, "rows"], weights: Float[Tensor, "*resamples rows"]
) -> Float[Tensor, "*resamples"]:
    """Return the mean, values counted `weights` times; a weight of 0 leaves even infinity out.

    NaN of NaN, and where nothing has a weight.
    """
    if values.isfinite().all():
        return weights.to(values) @ values / weights.sum(-1)
    return (weights * torch.where(weights > 0, values, 0)).sum(-1) / weights.sum(-1)


def weighted_median(
    values: Float[Tensor, "rows"], weights: Float[Tensor, "*resamples rows"]
) -> Float[Tensor, "*resamples"]:
    """Return the median of the values, each repeated a whole number `weights` of times.

    NaN where no value is left; NaN counts as the largest value.
    """
    sorted_values, order = values.sort()
    cumulative_weights = weights[..., order].cumsum(-1)
    total = cumulative_weights[..., -1:]
    middle = torch.cat(((total - 1) // 2, total // 2), dim=-1)
    return sorted_values[torch.searchsorted(cumulative_weights, middle, right=True)].mean(-1)


def bootstrap_interval(
    values: Numbers,
    *,
    statistic: Statistic = weighted_mean,
    clusters: ArrayLike | None = None,
    resamples: int = 1000,
    generator: Generator | None = None,
) -> Interval:
    """Return the 95 % percentile interval (Efron and Tibshirani 1993, section 13.3).

    `clusters` names the episode of each row, by number or string: queries that share examples are
    not independent, so episodes are resampled whole (Davison and Hinkley 1997, section 3.8).
    Without them each row is its own. A single cluster says nothing about the spread: its bounds
    are NaN.

    Beyond 32768 rows without clusters each row counts a Poisson number of times, independent of
    the others (Hanley and MacGibbon 2006; Chamandy et al. 2012), and neighbours in order of value
    are drawn together at their mean. Time then hardly depends on the number of rows.
    """
    rows = as_column(values, "value")
    if clusters is not None or len(rows) <= _RUNS:
        (replicates,) = _replicates(rows[None], statistic, clusters, resamples, generator)
        return _interval(replicates)
    at, counts = _runs(rows)
    weights = (
        torch.poisson(repeat(counts, "run -> part run", part=part), generator=generator)
        for part in _parts(resamples, len(counts))
    )
    estimate = statistic(rows, torch.ones_like(rows[None]))
    return _interval(torch.cat([estimate, *(statistic(at, part) for part in weights)]))


def paired_bootstrap(
    a: Numbers,
    b: Numbers,
    *,
    statistic: Statistic = weighted_mean,
    ratio: bool = False,
    clusters: ArrayLike | None = None,
    resamples: int = 1000,
    generator: Generator | None = None,
) -> Interval:
    """Return the 95 % interval of statistic(a) - statistic(b), or of a / b, on the same queries.

    Both systems are resampled together, so what makes a query hard for both cancels. `clusters` as
    in `bootstrap_interval`. NaN where both are infinite or, for the ratio, both zero. Time grows
    with rows times resamples.
    """
    first, second = as_column(a, "value of a"), as_column(b, "value of b")
    check_same_rows(len(first), len(second), "values of b")
    systems = torch.stack((first, second))
    left, right = _replicates(systems, statistic, clusters, resamples, generator)
    return _interval(left / right if ratio else left - right)


def _replicates(
    systems: Float[Tensor, "systems rows"],
    statistic: Statistic,
    clusters: ArrayLike | None,
    resamples: int,
    generator: Generator | None,
) -> Float[Tensor, "systems replicates"]:
    """Return the statistic of each system: of the queries, then of each resample."""
    rows = systems.shape[-1]
    names = np.arange(rows) if clusters is None else np.asarray(clusters)
    if names.shape != (rows,):
        raise ValueError(f"expected one cluster for each of {rows} rows, got shape {names.shape}")
    unique, inverse = np.unique(names, return_inverse=True)
    count, index = len(unique), torch.from_numpy(inverse).to(systems.device)
    parts = [torch.stack([statistic(x, torch.ones_like(x[None])) for x in systems])]
    for part in _parts(resamples, rows):
        draws = torch.randint(count, (part, count), generator=generator, device=index.device)
        times = torch.zeros(draws.shape, dtype=torch.float64, device=index.device)
        times.scatter_add_(1, draws, torch.ones_like(times))
        weights = times if count == rows else times[:, index]
        parts.append(torch.stack([statistic(x, weights) for x in systems]))
    replicates = torch.cat(parts, dim=-1)
    if count == 1:
        replicates[:, 1:] = math.nan
    return replicates


def _parts(resamples: int, rows: int) -> Iterator[int]:
    """Return how many resamples to draw at once, until all are drawn."""
    if resamples < 1:
        raise ValueError(f"expected at least 1 resample, got {resamples}")
    at_once = max(1, _WEIGHTS_AT_ONCE // rows)
    for start in range(0, resamples, at_once):
        yield min(at_once, resamples - start)


def _runs(values: Float[Tensor, "rows"]) -> tuple[Float[Tensor, "runs"], Float[Tensor, "runs"]]:
    """Gather rows into at most `_RUNS` runs of neighbours: their means and how many they are."""
    at, counts = values.unique(return_counts=True)
    if len(at) <= _RUNS:
        return at, counts.double()
    run = torch.arange(len(values), device=values.device) * _RUNS // len(values)
    counts = torch.bincount(run, minlength=_RUNS).double()
    total = torch.zeros_like(counts).scatter_add_(0, run, values.sort().values)
    return total / counts, counts


def _interval(replicates: Float[Tensor, "replicates"]) -> Interval:
    estimate, samples = replicates[0], replicates[1:]
    # Neighbouring replicates outwards, not an interpolation: infinity minus infinity is NaN.
    low = samples.quantile((1 - LEVEL) / 2, interpolation="lower")
    high = samples.quantile((1 + LEVEL) / 2, interpolation="higher")
    return Interval(estimate.item(), low.item(), high.item())
