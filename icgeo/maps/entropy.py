"""The density of largest entropy that explains a map, solved for a batch of maps at once.

Minimises energy(map - drawing of m) / 2 + scale KL(m, prior) over the masses m of the candidates:
non-negative, of sum 1, unique, smooth, and equal to the prior where the map says nothing (Skilling
and Bryan 1984, "Maximum entropy image reconstruction: general algorithm").

Conventions: fields are those of `icgeo.maps.operator`; `scale` is how many times larger the noise
variance of a map turned out than the noise model says, never below 1.
"""

import torch
from torch import Tensor

from icgeo.maps.operator import DrawingOperator, Evidence, Field, dot

_LONGEST_STEP = 4.0
"""Masses grow or shrink at most this many nats an iteration."""
_INNER_STEPS = 4
"""Conjugate gradient steps in each Newton step."""


def _newton_step(operator: DrawingOperator, mass: Field, slope: Field, scale: Tensor) -> Field:
    """Change of log mass that solves (scale + normal . J) x = slope, J = diag(m) - m m'.

    Conjugate gradients in the inner product of J, in which the matrix is self-adjoint.
    """

    def centred(field: Field) -> Field:
        return field - dot(mass, field)

    change = direction = torch.zeros_like(slope)
    residual, before = centred(slope), torch.full_like(scale, torch.inf)
    for _ in range(_INNER_STEPS):
        size = dot(residual, mass * residual)
        momentum = torch.where(before > 1e-20, size / before, 0.0)
        direction = torch.addcmul(residual, momentum, direction)
        moved = mass * direction
        image = centred(torch.addcmul(operator.normal(moved), scale, direction))
        curvature = dot(moved, image)
        step = torch.where(curvature > 1e-20, size / curvature, 0.0)
        change = torch.addcmul(change, step, direction)
        residual, before = torch.addcmul(residual, -step, image), size
    return change


def maximum_entropy(
    operator: DrawingOperator, evidence: Evidence, prior: Field, *, steps: int
) -> Field:
    """Find the masses of the candidates from what fields of opacity say of them.

    Newton's method on the log masses; `scale` follows the misfit, so that the fit starts stiff,
    loosens as it improves, and stays stiff for a map that no density explains.
    """
    mass, log_ratio = prior.expand_as(evidence.adjoint), torch.zeros_like(evidence.adjoint)
    for _ in range(steps):
        drawn = operator.normal(mass)
        scale = (evidence.misfit(mass, drawn) / operator.pixels).clamp_min(1)
        slope = evidence.adjoint - drawn - scale * log_ratio
        change = _newton_step(operator, mass, slope, scale)
        log_ratio = log_ratio + change.clamp(-_LONGEST_STEP, _LONGEST_STEP)
        log_ratio = log_ratio - log_ratio.amax((1, 2, 3), keepdim=True)
        mass = prior * log_ratio.exp()
        total = mass.sum((1, 2, 3), keepdim=True)
        mass, log_ratio = mass / total, log_ratio - total.log()
    return mass
