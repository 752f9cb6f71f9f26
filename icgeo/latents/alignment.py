"""How alike two spaces arrange the same photos, or a space and the globe.

Four measures that do not mind rotations and scale: the share of mutual nearest neighbours and CKNNA
(Huh et al. 2024, "The Platonic Representation Hypothesis"), unbiased CKA (Song et al. 2012, eq. 5,
in Nguyen et al. 2021), and bias-corrected distance correlation (Székely and Rizzo 2013).

Conventions: photos are rows. Activations are centred first, and neighbours are by cosine; the globe
is the space of unit vectors, where that is the great circle. Spaces that have nothing to do with
each other are near 0 in CKA and distance correlation, and near k / (photos - 1) in mutual
neighbours and CKNNA; equal ones are 1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from icgeo.seeds import seeded_generator
from icgeo.sphere import to_xyz

NEIGHBOURS = 10
Square = Float[Tensor, "photos photos"]


@dataclass(frozen=True, eq=False)
class Space:
    """Photos in a space, in float64."""

    kernel: Square
    """Inner products."""
    k: int = NEIGHBOURS

    @classmethod
    def of(cls, activations: Float[Tensor, "photos *channels"], k: int = NEIGHBOURS) -> "Space":
        """Take activations, centred.

        Raises:
            ValueError: no more photos than neighbours.
        """
        points = activations.flatten(1).double()
        if len(points) < k + 2:
            raise ValueError(
                f"expected more photos than {k + 1} for {k} neighbours, got {len(points)}"
            )
        points = points - points.mean(0)
        return cls(points @ points.T, k)

    @classmethod
    def globe(cls, lat_lon: Float[Tensor, "photos 2"], k: int = NEIGHBOURS) -> "Space":
        """Take places on the globe as unit vectors, not centred."""
        xyz = to_xyz(lat_lon.double())
        return cls(xyz @ xyz.T, k)

    @cached_property
    def cosines(self) -> Square:
        """Inner products of the directions."""
        norms = self.kernel.diagonal().sqrt().clamp_min(1e-12)
        return self.kernel / norms / norms[:, None]

    @cached_property
    def neighbours(self) -> Bool[Tensor, "photos photos"]:
        """Which photos are among the `k` nearest of each, without itself."""
        cosines = self.cosines.clone().fill_diagonal_(-torch.inf)
        indices: Int[Tensor, "photos k"] = cosines.topk(self.k, dim=1).indices
        return torch.zeros_like(cosines, dtype=torch.bool).scatter_(1, indices, value=True)

    @cached_property
    def distances(self) -> Square:
        """Distances, centred as Székely and Rizzo (2013, definition 2) centre them."""
        squares = self.kernel.diagonal()
        return _u_centred((squares + squares[:, None] - 2 * self.kernel).clamp_min(0).sqrt())

    @cached_property
    def centred(self) -> Square:
        """The kernel, centred without bias."""
        return _u_centred(self.kernel)


def _u_centred(x: Square) -> Square:
    """Centre a matrix without its diagonal, so that means are unbiased; the diagonal is 0."""
    count = len(x)
    x = x - torch.diag(x.diagonal())
    rows = x.sum(1)
    centred = x - (rows[:, None] + rows) / (count - 2) + rows.sum() / ((count - 1) * (count - 2))
    return centred.fill_diagonal_(0)


Order = Int[Tensor, " photos"]


def _ordered(x: Tensor, order: Order) -> Tensor:
    return x[order][:, order]


def mutual_neighbours(a: Space, b: Space, order: Order) -> float:
    """Return the share of the nearest neighbours that both spaces have in common."""
    overlap = a.neighbours & _ordered(b.neighbours, order)
    return (overlap.sum(1).double() / a.k).mean().item()


def _correlation(a: Square, b: Square) -> float:
    return ((a * b).sum() / ((a * a).sum() * (b * b).sum()).sqrt()).item()


def cka(a: Space, b: Space, order: Order) -> float:
    """Return linear centred kernel alignment without bias.

    HSIC without bias is the inner product of kernels that are centred without their diagonal, but
    for a factor.
    """
    return _correlation(a.centred, _ordered(b.centred, order))


def distance_correlation(a: Space, b: Space, order: Order) -> float:
    """Return the bias-corrected squared distance correlation; it may be below 0."""
    return _correlation(a.distances, _ordered(b.distances, order))


def cknna(a: Space, b: Space, order: Order) -> float:
    """Return centred kernel alignment over mutual nearest neighbours (Huh et al. 2024, app. A)."""
    cosines, neighbours = _ordered(b.cosines, order), _ordered(b.neighbours, order)
    first = a.cosines - a.cosines.mean(1, keepdim=True)
    second = cosines - cosines.mean(1, keepdim=True)
    covariance = (first * second)[a.neighbours & neighbours].sum()
    variances = first[a.neighbours].square().sum() * second[neighbours].square().sum()
    return (covariance / variances.sqrt()).item()


MEASURES: dict[str, Callable[[Space, Space, Order], float]] = {
    "mutual neighbours": mutual_neighbours,
    "CKA": cka,
    "CKNNA": cknna,
    "distance correlation": distance_correlation,
}
"""By name; the second space's photos are taken in the order given."""


@dataclass(frozen=True)
class Alignment:
    """How alike two spaces are, beside chance."""

    value: float
    low: float
    high: float
    """95 % interval, of random halves of the photos (Politis et al. 1999)."""
    chance: float
    """Mean over photos that were permuted."""
    p: float
    """Share of permutations that are as alike or more, with itself."""


def align(
    a: Space, b: Space, measure: str = "mutual neighbours", *, permutations: int = 100
) -> Alignment:
    """Measure how alike two spaces arrange the same photos, in the same order.

    Raises:
        ValueError: other photos, or an unknown measure.
    """
    if measure not in MEASURES:
        raise ValueError(f"expected a measure of {list(MEASURES)}, got {measure!r}")
    if len(a.kernel) != len(b.kernel):
        raise ValueError(
            f"expected the same photos in both spaces, got {len(a.kernel)} and {len(b.kernel)}"
        )
    call, count = MEASURES[measure], len(a.kernel)
    if count // 2 < (minimum := max(a.k, b.k) + 2):
        raise ValueError(f"expected at least {2 * minimum} photos for intervals, got {count}")
    value = call(a, b, torch.arange(count))
    generator = seeded_generator("alignment", measure)
    orders = [torch.randperm(count, generator=generator) for _ in range(2 * permutations)]
    null = torch.tensor([call(a, b, order) for order in orders[:permutations]])
    identity = torch.arange(count // 2)
    halves = torch.tensor(
        [call(_half(a, order), _half(b, order), identity) for order in orders[permutations:]]
    )
    # a half, drawn without replacement, varies about its mean as the whole does
    low, high = (halves - halves.mean()).quantile(torch.tensor([0.025, 0.975])).tolist()
    p = (1 + (null >= value).sum().item()) / (1 + permutations)
    return Alignment(value, value + low, value + high, null.mean().item(), p)


def _half(space: Space, order: Order) -> Space:
    return Space(_ordered(space.kernel, order[: len(order) // 2]), space.k)
