"""Baselines that answer with the example most alike.

The density around it is as sure as features are alike, fitted on the worlds that the model is
calibrated on (`icgeo.training.calibration.fit_retrieval`).
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from icgeo.baselines.constant import NSIDE, Chance, answers_at
from icgeo.data.photos import Photo
from icgeo.features import Features
from icgeo.features import open as open_features
from icgeo.prediction import Example, Prediction
from icgeo.sphere.density import Density

RETRIEVAL = "retrieval"


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
        return answers_at(map(self.spread.density, places, cosines.tolist()), places, start)


@dataclass(frozen=True)
class NearestPixels(Retrieval):
    """Answers with the example whose thumbnail is most alike: retrieval without learning."""

    features: Features = field(default_factory=partial(open_features, "pixels"))
    spread: Spread = PIXEL_SPREAD
    name: str = "nearest by pixels"
