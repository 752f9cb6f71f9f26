"""Trainable baselines: a head on frozen features of photos, and the locator that it makes.

A head is an `nn.Module` with two methods, and one file beside this one. It is trained by
`icgeo.training.heads`, on photos of known places or, in context, on an episode's examples.
Conventions: what is located may be a photo or an album: features [items, *album, channels] and
places [items, *album, 3].
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from icgeo.baselines.constant import answers_at
from icgeo.data.photos import Photo
from icgeo.features import Features
from icgeo.prediction import Example, Prediction
from icgeo.sphere.best_point import best_points
from icgeo.sphere.density import Density

FLOOR = 0.01
"""Share of each density that is uniform: where no photo was, one may be taken yet."""
HEAD_NSIDE = 64
"""Of the densities of heads: cells of 0.9 degrees."""


Vectors = Float[Tensor, "photos channels"]
"""Features of photos."""
Places = Float[Tensor, "photos 3"]
"""Unit vectors to where they were taken."""
Loss = Float[Tensor, ""]
"""How wrong a head is on a batch, a scalar to train on."""
Items = Float[Tensor, "items *album channels"]
ItemPlaces = Float[Tensor, "items *album 3"]
"""Likewise of photos or albums."""


@runtime_checkable
class Head(Protocol):
    """Turns features of photos into densities, and says how wrong it is."""

    def loss(self, features: Items, xyz: ItemPlaces, generator: Generator) -> Loss:
        """Return the mean loss of photos taken at these unit vectors; the generator is a CPU's."""

    def densities(self, features: Items) -> list[Density]:
        """Return where each photo was taken."""


@runtime_checkable
class PointingHead(Head, Protocol):
    """A head whose answers are not the best points of its densities."""

    def points(self, features: Items) -> Float[Tensor, "items *album 2"]:
        """Return its answers, in degrees."""


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How a head is trained; the settings of each way add their own to these."""

    batch_size: int = 128
    """Photos of a step."""
    learning_rate: float = 1e-3
    """Peak of the learning rate of AdamW."""
    weight_decay: float = 0.01
    """Of AdamW."""
    width: int = 256
    """Of the layers of the head."""


@dataclass(frozen=True)
class Way:
    """A trainable way to locate photos: how its head is made, and with what settings."""

    make: Callable[[Tensor, Tensor, Any], Any]
    """Makes the head of the features [photos, channels] and places [photos, 3] to train on, and
    of the settings; cells, prototypes and galleries follow from them."""
    settings: TrainingSettings
    """Reduced to what minutes on a core can train; `configs/baselines` has the published ones."""
    few: TrainingSettings | None = None
    """Settings for the few examples of an episode, if not the same."""
    features: Features | None = None
    """What it looks at photos with, where that is not what the others are given."""

    def on_examples(self) -> "Way":
        """Return the way with its settings for the examples of an episode."""
        return replace(self, settings=self.few or self.settings)

    def head(self, features: Items, xyz: ItemPlaces, *, seed: int = 0) -> Any:
        """Make the untrained head; its first weights follow from the seed."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return self.make(features, xyz, self.settings)


@dataclass(frozen=True, eq=False)
class HeadLocator:
    """Locates photos with a trained head; the examples of a call do not change its answers."""

    encode: Callable[[Sequence[Photo]], Float[Tensor, "photos channels"]]
    """Such as `icgeo.features.open("efficientnet-lite0").encode`."""
    head: Head
    name: str

    def locate(self, photos: Sequence[Photo], examples: Sequence[Example]) -> list[Prediction]:
        """Locate each photo where the head points, or at the best point of its density."""
        if not photos:
            return []
        start = time.perf_counter()
        with torch.inference_mode():
            features = self.encode(photos)
            densities = self.head.densities(features)
            if isinstance(self.head, PointingHead):
                points = self.head.points(features).double()
            else:
                points = best_points(torch.stack([one.mass for one in densities]))
        return answers_at(densities, points.tolist(), start)


def floored(mass: Float[Tensor, " cells"]) -> Density:
    """Make a density of which a share `FLOOR` is uniform."""
    return Density((1 - FLOOR) * mass / mass.sum() + FLOOR / len(mass))


def trunk(channels: int, width: int, out: int, *, depth: int = 2) -> nn.Sequential:
    """Make an MLP of `depth` hidden layers on features brought to one scale."""
    layers: list[nn.Module] = [nn.LayerNorm(channels, elementwise_affine=False)]
    for _ in range(depth):
        layers += [nn.Linear(channels, width), nn.GELU()]
        channels = width
    return nn.Sequential(*layers, nn.Linear(channels, out))
