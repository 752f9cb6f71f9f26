"""The nearest example: by pixels, matching without learning; on the ground, the best to be had.

Both answer with the example's place and a von Mises-Fisher density around it of a fixed `kappa`.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from icgeo.baselines.chance import Chance
from icgeo.data.photos import Photo, read_photo
from icgeo.prediction import Example, Prediction
from icgeo.sphere import distance_km
from icgeo.sphere.density import Density

KAPPA = 3.0
"""A spread of 33 degrees along each axis."""
NSIDE = 16
"""Cells of 4 degrees are fine for so wide a density."""


def thumbnail(photo: Photo, size: int) -> Float[Tensor, "size size 3"]:
    """Shrink a photo to values of mean 0 and variance 1 over all pixels and channels.

    So exposure and haze, which scale and shift all of them, hardly count; hues do.
    """
    image = read_photo(photo, size_hint=8 * size).resize((size, size), Image.Resampling.BOX)
    colours = torch.from_numpy(np.array(image, dtype=np.float32))
    return (colours - colours.mean()) / colours.std().clamp_min(1e-3)


def _at_examples(
    nearest: Int[Tensor, " queries"], examples: Sequence[Example], kappa: float, start: float
) -> list[Prediction]:
    """Answer each query with the example of that index."""
    around = {
        index: Density.from_mixture([examples[index].lat, examples[index].lon], kappa, nside=NSIDE)
        for index in set(nearest.tolist())
    }
    seconds = (time.perf_counter() - start) / len(nearest)
    return [
        Prediction(
            density=around[index],
            lat=examples[index].lat,
            lon=examples[index].lon,
            legibility=1.0,
            located=True,
            seconds=seconds,
        )
        for index in nearest.tolist()
    ]


@dataclass(frozen=True)
class NearestPixels:
    """Answers with the example whose thumbnail differs least, in the mean square."""

    size: int = 16
    """Side of the thumbnails in pixels."""
    kappa: float = KAPPA
    seed: int = 0
    """Of `Chance`, which answers where there is no example."""
    name: ClassVar[str] = "nearest by pixels"

    def locate(self, photos: Sequence[Photo], examples: Sequence[Example]) -> list[Prediction]:
        """Locate each photo at one of the examples."""
        if not (photos and examples):
            return Chance(self.seed).locate(photos, examples)
        start = time.perf_counter()
        query, known = (
            torch.stack([thumbnail(image, self.size).flatten() for image in images])
            for images in (photos, [example.image for example in examples])
        )
        return _at_examples(torch.cdist(query, known).argmin(-1), examples, self.kappa, start)


@dataclass(frozen=True, eq=False)
class NearestOracle:
    """Answers with the example nearest on the ground, for it knows where the photos were taken.

    No locator that always answers with one of the examples is closer.
    """

    truth: Float[Tensor, "queries 2"]
    """Locations of the photos that it will be asked for, in their order."""
    kappa: float = KAPPA
    seed: int = 0
    """Of `Chance`, which answers where there is no example."""
    name: ClassVar[str] = "nearest oracle"

    def locate(self, photos: Sequence[Photo], examples: Sequence[Example]) -> list[Prediction]:
        """Locate each photo at one of the examples.

        Raises:
            ValueError: another number of photos than of known locations.
        """
        if len(photos) != len(self.truth):
            raise ValueError(
                f"expected the {len(self.truth)} photos whose places the oracle knows, "
                f"got {len(photos)}; construct it with theirs"
            )
        if not (photos and examples):
            return Chance(self.seed).locate(photos, examples)
        start = time.perf_counter()
        places = torch.tensor([[example.lat, example.lon] for example in examples])
        nearest = distance_km(self.truth[:, None].double(), places.double()).argmin(-1)
        return _at_examples(nearest, examples, self.kappa, start)
