"""Baselines that answer with the example most alike.

The density around it is as sure as features are alike, fitted on the worlds that the model is
calibrated on (`icgeo.training.calibration.fit_retrieval`).
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor

from icgeo.baselines.constant import NSIDE, Chance, answers_at
from icgeo.data.photos import Photo
from icgeo.features import Features, search
from icgeo.features import open as open_features
from icgeo.prediction import Example, Prediction
from icgeo.sphere import to_xyz, von_mises_fisher_log_prob
from icgeo.sphere.best_point import best_points
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
        example_features = self.features.encode([example.image for example in examples]).double()
        query = self.features.encode(photos).double()
        # rounded, for sums depend on how many photos are located at once
        cosines, indices = (query @ example_features.T).round(decimals=6).max(-1)
        places = [(examples[number].lat, examples[number].lon) for number in indices.tolist()]
        return answers_at(map(self.spread.density, places, cosines.tolist()), places, start)


KERNEL_KAPPAS = (3.0, 10.0, 30.0, 100.0, 300.0)
KERNEL_TEMPERATURES = (0.01, 0.03, 0.1, 0.3)
"""Candidates, of which the examples choose."""


@dataclass(frozen=True)
class KernelRetrieval:
    """Answers with a mixture of von Mises-Fisher densities around the nearest examples.

    Weights are the softmax of cosines over a temperature. Temperature and concentration are those
    under which each example is likeliest given the others: leave-one-out kernel regression.
    """

    features: Features
    neighbours: int = 32
    """Most examples that have a weight."""
    uniform: float = 0.05
    """Share of the density that is uniform."""
    name: str = "kernel retrieval"

    def locate(self, photos: Sequence[Photo], examples: Sequence[Example]) -> list[Prediction]:
        """Locate each photo from the examples nearest in features."""
        if not (photos and examples):
            return Chance().locate(photos, examples)
        start = time.perf_counter()
        example_features = self.features.encode([example.image for example in examples]).double()
        query = self.features.encode(photos).double()
        places = torch.tensor([[one.lat, one.lon] for one in examples], dtype=torch.float64)
        kappa, temperature = self.fit(example_features, to_xyz(places))
        cosine, indices = search(
            example_features, query, min(self.neighbours, len(example_features))
        )
        weights = (cosine / temperature).softmax(-1)
        masses = [
            Density.from_mixture(centres, kappa, weight, nside=NSIDE).mass
            for centres, weight in zip(places[indices], weights, strict=True)
        ]
        densities = [
            Density((1 - self.uniform) * mass + self.uniform / len(mass)) for mass in masses
        ]
        points = best_points(torch.stack([one.mass for one in densities])).tolist()
        return answers_at(densities, points, start)

    def fit(
        self, features: Float[Tensor, "examples channels"], xyz: Float[Tensor, "examples 3"]
    ) -> tuple[float, float]:
        """Return kappa and temperature by leave-one-out likelihood; of one example the widest."""
        if len(xyz) < 2:
            return KERNEL_KAPPAS[0], KERNEL_TEMPERATURES[0]
        diagonal = torch.eye(len(xyz), dtype=torch.bool)
        cosine = (features @ features.T).masked_fill(diagonal, -math.inf)
        floor = math.log(self.uniform / (4 * math.pi))

        def score(choice: tuple[float, float]) -> float:
            kappa, temperature = choice
            kernels = von_mises_fisher_log_prob(xyz[:, None], xyz, kappa)
            log_prob = torch.logsumexp((cosine / temperature).log_softmax(-1) + kernels, dim=-1)
            log_mixture = torch.logaddexp(log_prob + math.log1p(-self.uniform), torch.tensor(floor))
            return log_mixture.mean().item()

        return max(product(KERNEL_KAPPAS, KERNEL_TEMPERATURES), key=score)


@dataclass(frozen=True)
class NearestPixels(Retrieval):
    """Answers with the example whose thumbnail is most alike: retrieval without learning."""

    features: Features = field(default_factory=partial(open_features, "pixels"))
    spread: Spread = PIXEL_SPREAD
    name: str = "nearest by pixels"
