"""Baselines that answer with what alike parts of photo and examples say, and draw no map."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn.functional import normalize, pad, unfold

from icgeo.baselines.constant import NSIDE, Chance
from icgeo.data.photos import Photo
from icgeo.data.pixels import square_pixels
from icgeo.models.map_model import MapModel
from icgeo.models.matching import MatchSettings, Parts
from icgeo.prediction import Example, Prediction
from icgeo.sphere import to_xyz
from icgeo.sphere.best_point import best_points
from icgeo.sphere.density import Density

CROSS_CORRELATION, PARTS_ALONE = "cross-correlation", "parts alone"


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
