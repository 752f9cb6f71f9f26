"""Trainable baselines: a head on frozen features of photos, and the locator that it makes.

A head is an `nn.Module` with two methods, and one file beside this one. It is trained by
`icgeo.training.heads`, on photos of known places or, in context, on an episode's examples.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from icgeo.data.photos import Photo
from icgeo.prediction import Example, Prediction
from icgeo.sphere.density import Density


@runtime_checkable
class Head(Protocol):
    """Turns features of photos into densities, and says how wrong it is."""

    def loss(
        self,
        features: Float[Tensor, "photos channels"],
        xyz: Float[Tensor, "photos 3"],
        generator: Generator,
    ) -> Float[Tensor, ""]:
        """Return the mean loss of photos taken at these unit vectors."""
        ...

    def densities(self, features: Float[Tensor, "photos channels"]) -> list[Density]:
        """Return where each photo was taken."""
        ...


@dataclass(frozen=True, eq=False)
class HeadLocator:
    """Locates photos with a trained head; the examples of a call do not change its answers."""

    encode: Callable[[Sequence[Photo]], Float[Tensor, "photos channels"]]
    """Such as `icgeo.features.open("efficientnet-lite0").encode`."""
    head: Head
    name: str

    def locate(self, photos: Sequence[Photo], examples: Sequence[Example]) -> list[Prediction]:
        """Locate each photo at the best point of its density."""
        if not photos:
            return []
        with torch.inference_mode():
            densities = self.head.densities(self.encode(photos))
        return [
            Prediction.from_density(density, legibility=1.0, seconds=0.0) for density in densities
        ]
