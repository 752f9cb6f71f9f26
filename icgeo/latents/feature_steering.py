"""Changes of activations by a feature: it is added, taken away, or taken out.

Conventions: activations are [photos, tokens, channels]; an autoencoder is one of their means over
tokens. What a change does is compared with changes of the same norm.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from einops import einsum, rearrange, reduce
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn import functional

from icgeo.latents.concentration import top_photos
from icgeo.latents.sparse import SparseAutoencoder, remove
from icgeo.models.blocks import Activation
from icgeo.sphere import Values, as_lat_lon, to_lat_lon, to_xyz

MOST = 50
"""Photos that say where a feature is, and how much of it there is."""
RANDOM = "random direction"
Activations = Float[Tensor, "photos tokens channels"]


def of_norm(x: Activations, like: Activations) -> Activations:
    """Scale each photo's change to the norm of another."""
    norms = [rearrange(part.flatten(1).norm(dim=1), "n -> n 1 1") for part in (x, like)]
    return x * norms[1] / norms[0].clamp_min(1e-12)


@dataclass(frozen=True, eq=False)
class Changed:
    """What activations become."""

    name: str
    activations: Activations
    against: str | None = None
    """The name of the change of the same norm, which knows no place, to compare it with."""


@dataclass(frozen=True, eq=False)
class FeatureDirection:
    """Where a feature is, and how activations change with it."""

    autoencoder: SparseAutoencoder
    number: int
    goal: Float[Tensor, "2"]
    """Mean direction of the photos with most of it, weighted by their codes, in degrees."""
    amount: float
    """Mean code of those photos, in units of the activations."""
    difference: Float[Tensor, "tokens channels"]
    """Mean activations of those photos, token by token, less those of all."""

    @classmethod
    def of(
        cls,
        autoencoder: SparseAutoencoder,
        number: int,
        *,
        codes: Any,
        x: Activations,
        lat_lon: Values,
    ) -> "FeatureDirection":
        """Take the photos with most of the feature of a number, of sparse codes [photos, features].

        Raises:
            ValueError: it fires in none.
        """
        photos = top_photos(codes, number, MOST)
        if not len(photos):
            raise ValueError(f"expected photos with feature {number}, which fires in none")
        values = torch.from_numpy(codes[photos][:, [number]].toarray()).double()[:, 0]
        rows = torch.from_numpy(photos).long()
        weights, x = values / values.sum(), x.double()
        goal = weights @ to_xyz(as_lat_lon(lat_lon).double()[rows])
        with_it = einsum(weights, x[rows], "n, n t c -> t c")
        goal, amount = to_lat_lon(functional.normalize(goal, dim=0)), values.mean().item()
        return cls(autoencoder, number, goal, amount, with_it - x.mean(0))


ATOM, ATOM_BY_TOKEN = "direction, all tokens alike", "direction, token by token"
ITS_PHOTOS, OTHER_PHOTOS = "mean of its photos", "mean of another's photos"
REMOVED = "taken out"


def edit_mean(
    autoencoder: SparseAutoencoder, change: Callable[[Tensor], Tensor]
) -> Callable[[Activation], Activation]:
    """Return a change of activations, for `Edit`, by which the codes of their mean are changed.

    `change` is `sparse.remove`, `sparse.exchange`, or any other of codes; every token moves by the
    same, for autoencoders of means over tokens.
    """

    def changed(activations: Activation) -> Activation:
        mean = reduce(activations, "n t c -> n 1 c", "mean")
        return activations + (autoencoder.edit(mean, change) - mean)

    return changed


def feature_changes(
    x: Activations,
    feature: FeatureDirection,
    other: FeatureDirection,
    *,
    strength: float = 1.0,
    generator: Generator,
) -> list[Changed]:
    """Return all changes of photos by which a feature is added, or taken away and out below 0.

    Each comes with a random direction of the same norm; what its photos are beside all others is
    compared with what the photos of another feature are, scaled to the same norm, too.
    """
    x = x.double()
    atom = feature.autoencoder.direction(feature.number).double()
    steps = {
        ATOM: (feature.amount * atom).expand_as(feature.difference),
        ATOM_BY_TOKEN: (feature.difference @ atom)[:, None] * atom,
        ITS_PHOTOS: feature.difference,
        OTHER_PHOTOS: of_norm(other.difference[None], feature.difference[None])[0],
    }
    changes = []
    if strength < 0:
        ablated = edit_mean(feature.autoencoder, remove(feature.number))(x.float())
        changes.append(Changed(REMOVED, ablated))
    for name, step in steps.items():
        noise = torch.randn(step.shape, generator=generator, dtype=torch.float64)
        random_step = of_norm(noise[None], step[None])
        changes += [
            Changed(name, x + strength * step, f"{RANDOM}, as {name}"),
            Changed(f"{RANDOM}, as {name}", x + strength * random_step),
        ]
    return changes
