"""Baselines of the method, with its protocol; given no examples, all of them answer as `Chance`.

The nearest example by pixels is retrieval without learning; on the ground, it is the best to be had
of all answers that are examples. Both answer with its place and a von Mises-Fisher density around
it of a fixed `kappa`. Alike parts, learned or of pixels, answer with their own likelihood and no
drawn map.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize, pad, unfold

from icgeo.data.photos import Photo, read_photo
from icgeo.data.pixels import square_pixels
from icgeo.models.map_model import MapModel
from icgeo.models.matching import MatchSettings, Parts
from icgeo.prediction import Example, Prediction
from icgeo.sampling import keyed_noise
from icgeo.sphere import distance_km, to_lat_lon, to_xyz
from icgeo.sphere.best_point import best_points
from icgeo.sphere.density import Density

KAPPA = 3.0
"""A sigma of 33 degrees along each axis."""
NSIDE = 16
"""Cells of 4 degrees are fine for so wide a density."""


@dataclass(frozen=True)
class Chance:
    """Answers with the uniform density and a point that (seed, content of the photo) draws."""

    seed: int = 0
    name: ClassVar[str] = "chance"

    def locate(self, photos: Sequence[Photo], examples: Sequence[Example]) -> list[Prediction]:
        """Guess uniformly, whatever the examples."""
        if not photos:
            return []
        start = time.perf_counter()
        contents = [read_photo(photo).tobytes() for photo in photos]
        normal = keyed_noise(contents, (3,), samples=1, seed=self.seed)[:, 0].double()
        density = Density.uniform(NSIDE)
        seconds = (time.perf_counter() - start) / len(photos)
        return [
            Prediction(density, lat, lon, legibility=0.0, located=True, seconds=seconds)
            for lat, lon in to_lat_lon(normalize(normal, dim=-1)).tolist()
        ]


def thumbnail(photo: Photo, size: int) -> Float[Tensor, "size size 3"]:
    """Shrink a photo to values of mean 0 and variance 1 over all pixels and channels.

    So exposure and haze, which scale and shift all of them, hardly count; hues do.
    """
    image = read_photo(photo, size_hint=8 * size).resize((size, size), Image.Resampling.BOX)
    colours = torch.from_numpy(np.array(image, dtype=np.float32))
    return (colours - colours.mean()) / colours.std().clamp_min(1e-3)


def _at_nearest(
    distance: Float[Tensor, "queries examples"],
    examples: Sequence[Example],
    kappa: float,
    start: float,
) -> list[Prediction]:
    """Answer each query with the example of least distance."""
    nearest = distance.argmin(-1).tolist()
    places = {index: (examples[index].lat, examples[index].lon) for index in nearest}
    around = {i: Density.from_mixture(place, kappa, nside=NSIDE) for i, place in places.items()}
    seconds = (time.perf_counter() - start) / len(nearest)
    return [
        Prediction(around[i], *places[i], legibility=1.0, located=True, seconds=seconds)
        for i in nearest
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
        return _at_nearest(torch.cdist(query, known), examples, self.kappa, start)


def pixel_cells(
    photos: UInt8[Tensor, "photos 3 size size"], *, side: int = 4, patch: int = 12
) -> Float[Tensor, "photos cells channels"]:
    """Describe cells by the pixels around them, less their mean and at unit length.

    The cosine of two is the normalised cross-correlation, free of exposure and of haze.
    """
    padding = (patch - side) // 2
    padded = pad(photos.float() / 255, 4 * (padding,), mode="reflect")
    patches = rearrange(unfold(padded, patch, stride=side), "n c p -> n p c")
    return normalize(patches - patches.mean(-1, keepdim=True), dim=-1)


CROSS_CORRELATION, PARTS_ALONE = "cross-correlation", "alike parts alone"
PIXEL_MATCHING = MatchSettings(31.5, 6.38, 0.0593, 0.225, floor=0.12)
"""Fitted for `pixel_cells`, as a model's own are for its descriptors: by `fit_matching`."""


@dataclass(frozen=True, eq=False)
class AlikeParts:
    """Answers with what alike parts of photo and examples say, without a model that draws.

    By default parts are compared by normalised cross-correlation, and nothing is learned; see
    `icgeo.models.matching`, whose `of` takes what a model has learned.
    """

    describe: Callable[[UInt8[Tensor, "photos 3 size size"]], Tensor] = pixel_cells
    """Gives the cells of photos their descriptors."""
    settings: MatchSettings = PIXEL_MATCHING
    photo_size: int = 64
    seed: int = 0
    """Of `Chance`, which answers where there is no example."""
    name: str = CROSS_CORRELATION

    @classmethod
    def of(cls, model: MapModel) -> "AlikeParts":
        """Take the encoder of parts of a model, without the model."""
        matching = model.settings.matching
        return cls(model.describe_parts, matching, model.photo_size, name=PARTS_ALONE)

    def locate(self, photos: Sequence[Photo], examples: Sequence[Example]) -> list[Prediction]:
        """Locate each photo from all examples."""
        return self.locate_chosen(photos, examples, torch.arange(len(examples))[None])

    def locate_chosen(
        self, photos: Sequence[Photo], bank: Sequence[Example], chosen: Int[Tensor, "_ shots"]
    ) -> list[Prediction]:
        """Locate each photo from the examples of these numbers; one row of them is for all."""
        if not (photos and chosen.numel()):
            return Chance(self.seed).locate(photos, [])
        start = time.perf_counter()
        used, numbers = chosen.unique(return_inverse=True)
        examples = [bank[number] for number in used.tolist()]
        places = torch.tensor([[example.lat, example.lon] for example in examples])
        shown, query = (
            self.describe(square_pixels(images, self.photo_size))
            for images in ([example.image for example in examples], photos)
        )
        parts = Parts(shown, to_xyz(places)).of(numbers)
        evidence = parts.evidence(query, self.settings)
        prior = Density.uniform(NSIDE)
        densities = [prior.updated(ratios, floor=self.settings.floor) for ratios in evidence]
        points = best_points(torch.stack([density.mass for density in densities]).float())
        seconds = (time.perf_counter() - start) / len(photos)
        return [
            Prediction.from_density(density, point, legibility=1.0, seconds=seconds)
            for density, point in zip(densities, points, strict=True)
        ]


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
        distance = distance_km(self.truth[:, None].double(), places.double())
        return _at_nearest(distance, examples, self.kappa, start)
