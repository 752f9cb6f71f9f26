"""Baselines of the method, with its protocol; given no examples, all of them answer as `Chance`.

Retrieval answers with the example most alike, and a density around it that is as sure as features
are alike, fitted on the worlds that the model is calibrated on (`fit_retrieval`). The nearest on
the ground is the best to be had of all answers that are examples. Parts, learned or of pixels,
answer with their own likelihood and no drawn map.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import torch
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn.functional import normalize, pad, unfold

from icgeo.data.photos import Photo, read_photo
from icgeo.data.pixels import square_pixels
from icgeo.features import Features
from icgeo.features import open as open_features
from icgeo.models.map_model import MapModel
from icgeo.models.matching import MatchSettings, Parts
from icgeo.prediction import Example, Prediction, add_seconds
from icgeo.sampling import keyed_noise
from icgeo.sphere import distance_km, to_lat_lon, to_xyz
from icgeo.sphere.best_point import best_points
from icgeo.sphere.density import Density

NSIDE = 16
"""Cells of 4 degrees are fine for densities so wide."""
RETRIEVAL, CROSS_CORRELATION, PARTS_ALONE = "retrieval", "cross-correlation", "parts alone"


@dataclass(frozen=True)
class Spread:
    """How sure retrieval is: value and slope of straight lines in the cosine of the features."""

    log_kappa: tuple[float, float]
    """Of the von Mises-Fisher density around the example."""
    uniform_logit: tuple[float, float]
    """Log-odds of the share that is uniform, for an answer may be wrong altogether."""

    def density(self, lat_lon: Sequence[float], cosine: float) -> Density:
        """Return the density around an example so alike."""
        (value, slope), (logit, change) = self.log_kappa, self.uniform_logit
        kappa = math.exp(min(value + slope * cosine, MOST_LOG_KAPPA))
        uniform = 1 / (1 + math.exp(-logit - change * cosine))
        mass = Density.from_mixture(lat_lon, kappa, nside=NSIDE).mass
        return Density((1 - uniform) * mass + uniform / len(mass))


MOST_LOG_KAPPA = 7.0
"""A sigma of 1.7 degrees, half a cell."""
PIXEL_SPREAD = Spread((2.47, 2.38), (2.42, -1.16))
TINY_SPREAD = Spread((-0.46, 6.08), (5.68, -9.89))
"""Fitted by `icgeo.training.calibration.fit_retrieval`; the features of the model in the box."""


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
        places = to_lat_lon(normalize(normal, dim=-1)).tolist()
        return _answers(len(places) * [Density.uniform(NSIDE)], places, start, legibility=0.0)


def _answers(
    densities: Iterable[Density],
    places: Sequence[Sequence[float]],
    start: float,
    *,
    legibility: float = 1.0,
) -> list[Prediction]:
    """Answer with these places, found since `start`."""
    predictions = [
        Prediction(density, lat, lon, legibility, located=True, seconds=0.0)
        for density, (lat, lon) in zip(densities, places, strict=True)
    ]
    return add_seconds(predictions, time.perf_counter() - start)


@dataclass(frozen=True)
class Retrieval:
    """Answers with the example most alike."""

    features: Features
    spread: Spread = TINY_SPREAD
    seed: int = 0
    """Of `Chance`, which answers where there is no example."""
    name: str = RETRIEVAL

    def locate(self, photos: Sequence[Photo], examples: Sequence[Example]) -> list[Prediction]:
        """Locate each photo at one of the examples."""
        if not (photos and examples):
            return Chance(self.seed).locate(photos, examples)
        start = time.perf_counter()
        known, query = (
            self.features.encode(images).double()
            for images in ([example.image for example in examples], photos)
        )
        # rounded, for sums depend on how many photos are located at once
        cosines, nearest = (query @ known.T).round(decimals=6).max(-1)
        places = [(examples[number].lat, examples[number].lon) for number in nearest.tolist()]
        return _answers(map(self.spread.density, places, cosines.tolist()), places, start)


@dataclass(frozen=True)
class NearestPixels(Retrieval):
    """Answers with the example whose thumbnail is most alike: retrieval without learning."""

    features: Features = field(default_factory=partial(open_features, "pixels"))
    spread: Spread = PIXEL_SPREAD
    name: str = "nearest by pixels"


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


PIXEL_MATCHING = MatchSettings(26.3, 6.15, 0.0159, 0.773, blur=0.756, floor=0.12)
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
        places = torch.tensor([[one.lat, one.lon] for one in examples], dtype=torch.float64)
        shown, query = (
            self.describe(square_pixels(images, self.photo_size))
            for images in ([example.image for example in examples], photos)
        )
        parts, numbers = Parts(shown, to_xyz(places).float()), numbers.expand(len(photos), -1)
        evidence = parts.evidence(query, self.settings, numbers)
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
    kappa: float = 3.0
    """Of its density; a sigma of 33 degrees along each axis."""
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
        places = torch.tensor([[one.lat, one.lon] for one in examples], dtype=torch.float64)
        nearest = distance_km(self.truth[:, None].double(), places).argmin(-1)
        answers = places[nearest].tolist()
        densities = [Density.from_mixture(place, self.kappa, nside=NSIDE) for place in answers]
        return _answers(densities, answers, start)


BESIDE = (RETRIEVAL, CROSS_CORRELATION, PARTS_ALONE)
"""Names of those that tables show beside the method."""
BASELINES = (Chance.name, NearestPixels.name, *BESIDE, NearestOracle.name)
"""Names that tables and figures set apart."""
