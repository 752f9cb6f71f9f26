"""Locators made as sure as they are right, by what happened on other episodes than those scored."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from icgeo.data.photos import Photo
from icgeo.prediction import Example, Locator, Prediction
from icgeo.sphere.density import Density
from icgeo.sphere.healpix import cell_of

TEMPERATURES = tuple(2 ** (step / 2) for step in range(-2, 11))
UNIFORM = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Temperatures and shares of a uniform density, of which the likeliest pair is taken."""


@dataclass(frozen=True, eq=False)
class Calibrated:
    """Answers as a locator does, with densities at a temperature, mixed with a uniform one."""

    locator: Locator
    levels: Mapping[int, tuple[float, float]]
    """Temperature and uniform share by number of examples; the nearest number counts."""

    @property
    def name(self) -> str:
        """That of the locator."""
        return self.locator.name

    def locate(self, photos: Sequence[Photo], examples: Sequence[Example]) -> list[Prediction]:
        """Locate each photo at the same point, as sure as answers of this kind have been right."""
        nearest_shots = min(self.levels, key=lambda shots: abs(shots - len(examples)))
        temperature, uniform = self.levels[nearest_shots]
        predictions = self.locator.locate(photos, examples)
        masses = [one.density.tempered(temperature).mass for one in predictions]
        return [
            replace(one, density=Density((1 - uniform) * mass + uniform / len(mass)))
            for one, mass in zip(predictions, masses, strict=True)
        ]


def fit_levels(
    runs: Sequence[tuple[Locator, Any]], shots: Sequence[int]
) -> dict[int, tuple[float, float]]:
    """Return temperature and uniform share under which episodes are likeliest, for each shots.

    `runs` are the locator of each episode and the episode, an `icgeo.evaluation.Episode`.
    """
    levels = {}
    temperature = torch.tensor(TEMPERATURES, dtype=torch.float64)[:, None]
    uniform = torch.tensor(UNIFORM, dtype=torch.float64)[:, None, None]
    for count in shots:
        likelihoods = []
        for locator, episode in runs:
            photos = [query.photo for query in episode.queries]
            predictions = locator.locate(photos, episode.examples[:count])
            for one, query in zip(predictions, episode.queries, strict=True):
                mass = one.density.mass.double()
                cell = cell_of(torch.tensor(query.lat_lon, dtype=torch.float64), one.density.nside)
                share = (mass.log() / temperature).softmax(-1)[:, cell]
                likelihoods.append(share * len(mass) / (4 * math.pi))
        likelihood = (1 - uniform) * torch.stack(likelihoods) + uniform / (4 * math.pi)
        row, column = divmod(int(likelihood.log().mean(1).argmax()), len(TEMPERATURES))
        levels[count] = (TEMPERATURES[column], UNIFORM[row])
    return levels
