"""Chance: what a locator that knows nothing scores."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch.nn.functional import normalize

from icgeo.data.photos import Photo, read_photo
from icgeo.prediction import Example, Prediction
from icgeo.sampling import keyed_noise
from icgeo.sphere import to_lat_lon
from icgeo.sphere.density import Density


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
        density = Density.uniform(nside=16)
        seconds = (time.perf_counter() - start) / len(photos)
        return [
            Prediction(density, lat, lon, legibility=0.0, located=True, seconds=seconds)
            for lat, lon in to_lat_lon(normalize(normal, dim=-1)).tolist()
        ]
