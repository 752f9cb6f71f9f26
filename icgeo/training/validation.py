"""Judge a model on photos whose places are known: error, likelihood, and the power that fits.

Conventions: queries are divided into episodes with examples of their own from a bank; the first k
of an episode's examples are its k shots.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Generator

from icgeo.metrics import median_error
from icgeo.models.map_model import MapModel
from icgeo.sphere import distance_km
from icgeo.sphere.best_point import best_points
from icgeo.sphere.density import Density
from icgeo.training.calibration import Drawn, best_power, negative_log_likelihood
from icgeo.training.photo_sets import PhotoSet


@dataclass(frozen=True)
class ValidationResult:
    """How a model did with a number of shots."""

    median_km: float
    nll: float
    """In nats per steradian, with the power."""
    power: float
    """Of the densities, under which the truth is likeliest."""


def validation_episodes(
    bank: PhotoSet, queries: PhotoSet, *, shots: int, queries_each: int, seed: int
) -> Iterator[tuple[PhotoSet, PhotoSet]]:
    """Divide queries into episodes, each with examples drawn from the bank."""
    generator = Generator().manual_seed(seed)
    for start in range(0, len(queries), queries_each):
        chosen = torch.randperm(len(bank), generator=generator)[:shots]
        yield bank[chosen], queries[start : start + queries_each]


def judge(
    model: MapModel,
    episodes: Sequence[tuple[PhotoSet, PhotoSet]],
    *,
    shots: Sequence[int],
    prompt: str,
    steps: int = 1,
    samples: int = 1,
) -> dict[int, ValidationResult]:
    """Judge a model for each number of shots, by one step of the flow if no more are asked for."""
    return {
        count: _judged(_drawn(model, episodes, count, prompt, (steps, samples)), model)
        for count in shots
    }


def _drawn(
    model: MapModel,
    episodes: Sequence[tuple[PhotoSet, PhotoSet]],
    shots: int,
    prompt: str,
    effort: tuple[int, int],
) -> Drawn:
    steps, samples = effort
    found = [
        model.draw_maps(
            model.encode_context(bank.photos[:shots], bank.lat_lon[:shots]),
            queries.photos,
            prompt=prompt,
            steps=steps,
            samples=samples,
        ).mean(dim=1)
        for bank, queries in episodes
    ]
    places = torch.cat([queries.lat_lon for _, queries in episodes])
    return Drawn(torch.cat(found).float().cpu(), places)


def _judged(drawn: Drawn, model: MapModel) -> ValidationResult:
    densities: list[Density] = drawn.read(model.settings.style, model.settings.noise)
    power = best_power(densities, drawn.lat_lon)
    points = best_points(torch.stack([density.mass for density in densities]).float())
    return ValidationResult(
        median_km=median_error(distance_km(points, drawn.lat_lon)),
        nll=negative_log_likelihood(densities, drawn.lat_lon, power=power),
        power=power,
    )
