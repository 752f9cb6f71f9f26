"""Baselines that look at no photo: the floor of every comparison."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch.nn.functional import normalize

from icgeo.data.photos import Photo, read_photo
from icgeo.prediction import Example, Prediction, add_seconds
from icgeo.sampling import keyed_noise
from icgeo.sphere import to_lat_lon
from icgeo.sphere.density import Density

NSIDE = 16
"""Cells of 4 degrees are fine for densities so wide."""


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
        return answers_at(len(places) * [Density.uniform(NSIDE)], places, start, legibility=0.0)


def answers_at(
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
