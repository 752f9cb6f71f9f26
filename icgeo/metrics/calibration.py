"""Scores of probabilities: likelihood, coverage of credible regions, recall against area.

Conventions: one row a query; `nll` is minus the log-density at the truth, in nats per steradian;
`levels` are the credible levels of the truths (`Density.credible_level`). Fractions are in [0, 1].
NaN and inputs without a row raise `ValueError`.
"""

import math

import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

from icgeo.metrics.checks import as_column

UNIFORM_NLL = math.log(4 * math.pi)


def mean_nll(nll: ArrayLike | Tensor) -> float:
    """Mean negative log-likelihood in nats per steradian; log(4 pi) = 2.53 for the uniform one.

    Of densities that integrate to 1 over the sphere. Not comparable with the figures that Plonk
    (Dufour et al. 2025) publishes: its likelihood takes the divergence of the flow in R^3 without
    projecting it on the tangent plane, so that it is not that of a density on the sphere.
    """
    return as_column(nll, "nll").mean().item()


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
    probabilities = as_column(grid, "probability", low=0, high=1)
    return _share_up_to(_sorted_levels(levels), probabilities)


def _share_up_to(
    ordered: Float[Tensor, "rows"], bounds: Float[Tensor, "bounds"]
) -> Float[Tensor, "bounds"]:
    return torch.searchsorted(ordered, bounds.to(ordered), right=True).double() / len(ordered)


def _sorted_levels(levels: ArrayLike | Tensor) -> Float[Tensor, "rows"]:
    # sums of masses exceed 1 by rounding
    column = as_column(levels, "credible level", low=-1e-6, high=1 + 1e-6)
    return column.clamp(0, 1).sort().values


def calibration_error(levels: ArrayLike | Tensor) -> float:
    """Largest distance of the P-P curve from the diagonal (the Kolmogorov-Smirnov statistic).

    Above `1.36 / sqrt(rows)` it rejects calibration at 5 % for independent queries (Massey 1951).
    """
    ordered = _sorted_levels(levels)
    steps = torch.arange(len(ordered) + 1).to(ordered) / len(ordered)
    return torch.maximum(steps[1:] - ordered, ordered - steps[:-1]).max().item()


def recall_by_area(
    searched_area_km2: ArrayLike | Tensor, areas_km2: ArrayLike | Tensor
) -> Float[Tensor, "areas"]:
    """Fraction of the truths that a search of each area finds, most probable cells first.

    The recall-against-area curve (Bianco et al. 2024, arXiv 2407.13862): for ranked regions, the
    share of queries whose truth lies within those that together cover the area. The areas to
    search until each truth is found come from `DensityScores`.
    """
    ordered = as_column(searched_area_km2, "searched area", low=0).sort().values
    return _share_up_to(ordered, as_column(areas_km2, "area", low=0))
