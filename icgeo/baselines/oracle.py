"""The best to be had of all answers that are examples."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from icgeo.baselines.constant import NSIDE, Chance, answers_at
from icgeo.data.photos import Photo
from icgeo.prediction import Example, Prediction
from icgeo.sphere import distance_km
from icgeo.sphere.density import Density


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
        return answers_at(densities, answers, start)
