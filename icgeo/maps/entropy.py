"""The density of largest entropy that explains a map, solved for a batch of maps at once.

Minimises energy(map - drawing of m) / 2 + scale KL(m, prior) over the masses m of the candidates:
non-negative, of sum 1, unique, smooth, and equal to the prior where the map says nothing (Skilling
and Bryan 1984, "Maximum entropy image reconstruction: general algorithm").

Conventions: fields are those of `icgeo.maps.operator`; `scale` is how many times larger the noise
variance of a map turned out than the noise model says, never below 1.
"""

import torch
from torch import Tensor

from icgeo.maps.operator import Field, InkOperator, dot

_LONGEST_STEP = 4.0
"""Masses grow or shrink at most this many nats an iteration."""
_INNER_STEPS = 4
"""Conjugate gradient steps in each Newton step."""


def _newton_step(operator: InkOperator, mass: Field, slope: Field, scale: Tensor) -> Field:
    """Change of log mass that solves (scale + normal . J) x = slope, J = diag(m) - m m'.

    Conjugate gradients in the inner product of J, in which the matrix is self-adjoint.
    """

    def centred(field: Field) -> Field:
        return field - dot(mass, field)

    change = torch.zeros_like(slope)
    residual = direction = centred(slope)
    moved = mass * direction
    size = dot(residual, moved)
    for _ in range(_INNER_STEPS):
        image = centred(scale * direction + operator.normal(moved))
        curvature = dot(moved, image)
        step = torch.where(curvature > 1e-20, size / curvature, 0.0)
        change = change + step * direction
        residual = residual - step * image
        before, size = size, dot(residual, mass * residual)
        direction = residual + torch.where(before > 1e-20, size / before, 0.0) * direction
        moved = mass * direction
    return change


def maximum_entropy(operator: InkOperator, opacity: Field, prior: Field, *, steps: int) -> Field:
    """Find the masses of the candidates for fields of opacity.

    Newton's method on the log masses; `scale` follows the misfit, so that the fit starts stiff,
    loosens as it improves, and stays stiff for a map that no density explains.
    """
    adjoint, energy = operator.adjoint(opacity), operator.energy(opacity)
    grid = operator.grid
    pixels = opacity.shape[1] * opacity.shape[2] * (grid.places - 2 * grid.margin)
    mass, log_ratio = prior.expand_as(adjoint), torch.zeros_like(adjoint)
    scale = torch.ones_like(energy)
    for _ in range(steps):
        drawn = operator.normal(mass)
        misfit = energy - 2 * dot(adjoint, mass) + dot(drawn, mass)
        scale = (misfit / pixels).clamp_min(1)
        slope = adjoint - drawn - scale * log_ratio
        change = _newton_step(operator, mass, slope, scale)
        log_ratio = log_ratio + change.clamp(-_LONGEST_STEP, _LONGEST_STEP)
        log_ratio = log_ratio - log_ratio.amax((1, 2, 3), keepdim=True)
        mass = prior * log_ratio.exp()
        total = mass.sum((1, 2, 3), keepdim=True)
        mass, log_ratio = mass / total, log_ratio - total.log()
    return mass
