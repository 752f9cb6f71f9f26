"""Which photos are of the kind that a model was trained on: a linear rule on their statistics."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

Statistics = Float[Tensor, "_ statistics"]
RIDGE = 0.03


def fit_domain(
    inside: Sequence[Statistics],
    outside: Sequence[Statistics],
    unseen: Statistics,
    *,
    false_alarms: float = 0.015,
) -> Float[Tensor, " weights"]:
    """Fit a rule by ridge regression of 1 on what is inside, -1 outside (Fisher's discriminant).

    Sets of photos `inside` and `outside` the domain count the same, each; of the `unseen` ones in
    it the rule takes a share of `false_alarms` for others. Return the weights of the statistics and
    of 1: above 0 a photo is in the domain.
    """
    sets, sides = [*inside, *outside], len(inside) * [1.0] + len(outside) * [-1.0]
    x = torch.cat(sets).double()
    mean, spread = x.mean(0), x.std(0).clamp_min(1e-6)
    x = torch.cat(((x - mean) / spread, x.new_ones(len(x), 1)), dim=1)
    target, share = torch.zeros(2, len(x), dtype=torch.float64)
    numbers = torch.arange(len(x)).split([len(one) for one in sets])
    for rows, side in zip(numbers, sides, strict=True):
        target[rows] = side
        share[rows] = 1 / (len(rows) * sides.count(side))
    ridge = RIDGE * torch.eye(x.shape[1], dtype=torch.float64)
    ridge[-1, -1] = 0
    weights = torch.linalg.solve(x.T @ (share[:, None] * x) + ridge, x.T @ (share * target))
    slope = (weights[:-1] / spread).float()
    threshold = torch.quantile(unseen @ slope, false_alarms)
    return torch.cat((slope, -threshold[None]))
