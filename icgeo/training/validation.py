"""Validate a model on photos whose locations are known: error, likelihood, fitted temperature.

Conventions: queries are split into episodes with examples of their own from a bank; the first k of
an episode's examples are its k shots. A temperature T raises a density to the power 1 / T.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from icgeo import maps
from icgeo.metrics import median_error
from icgeo.models.map_model import MapModel
from icgeo.sphere import distance_km
from icgeo.sphere.best_point import best_points
from icgeo.sphere.density import Density
from icgeo.training.photo_sets import PhotoSet

Split = tuple[PhotoSet, PhotoSet]
"""The examples and the queries of an episode."""
TEMPERATURES = tuple(1 / x for x in torch.logspace(math.log10(0.2), math.log10(3), 28).tolist())


@dataclass(frozen=True)
class ValidationResult:
    """How a model did with a number of shots."""

    median_km: float
    nll: float
    """Negative log-likelihood in nats per steradian, at the temperature."""
    temperature: float
    """The one under which the true locations are likeliest."""


@dataclass(frozen=True)
class DrawnMaps:
    """Maps that a model drew of photos whose locations are known."""

    maps: Float[Tensor, "queries 3 height width"]
    lat_lon: Float[Tensor, "queries 2"]

    def read(self, style: maps.MapStyle, noise: maps.Noise) -> list[Density]:
        """Read the maps, given how noisy they are."""
        return [reading.density for reading in maps.read(self.maps, style, noise=noise)]


def validation_episodes(
    bank: PhotoSet, queries: PhotoSet, *, shots: int, queries_each: int, seed: int
) -> Iterator[Split]:
    """Split queries into episodes, each with examples drawn from the bank."""
    generator = Generator().manual_seed(seed)
    for start in range(0, len(queries), queries_each):
        numbers = torch.randperm(len(bank), generator=generator)[:shots]
        yield bank[numbers], queries[start : start + queries_each]


def draw_queries(
    model: MapModel,
    episodes: Sequence[Split],
    shots: int,
    *,
    prompt: str,
    steps: int = 1,
    samples: int = 1,
) -> DrawnMaps:
    """Draw the maps of all queries, each from the first examples of its episode."""
    drawn = [
        model.draw_maps(
            model.encode_context(bank.photos[:shots], bank.lat_lon[:shots]),
            queries.photos,
            prompt=prompt,
            steps=steps,
            samples=samples,
        ).mean(dim=1)
        for bank, queries in episodes
    ]
    lat_lon = torch.cat([queries.lat_lon for _, queries in episodes])
    return DrawnMaps(torch.cat(drawn).float().cpu(), lat_lon)


def validate(
    model: MapModel,
    episodes: Sequence[Split],
    *,
    shots: Sequence[int],
    prompt: str,
    steps: int = 1,
    samples: int = 1,
) -> dict[int, ValidationResult]:
    """Validate a model for each number of shots, by one step of the flow if not told otherwise."""
    results = {}
    for count in shots:
        drawn = draw_queries(model, episodes, count, prompt=prompt, steps=steps, samples=samples)
        densities = drawn.read(model.settings.style, model.settings.noise)
        temperature = best_temperature(densities, drawn.lat_lon)
        points = best_points(torch.stack([density.mass for density in densities]).float())
        results[count] = ValidationResult(
            median_km=median_error(distance_km(points, drawn.lat_lon)),
            nll=negative_log_likelihood(densities, drawn.lat_lon, temperature=temperature),
            temperature=temperature,
        )
    return results


def fit_temperatures(
    model: Any, episodes: Sequence[Split], *, shots: Sequence[int], prompt: str
) -> MapModel:
    """Return a model with the temperatures of a prompt that fit episodes, by number of shots."""
    settings = model.settings
    results = validate(
        model, episodes, shots=shots, prompt=prompt, steps=settings.steps, samples=settings.samples
    )
    temperatures = {str(count): result.temperature for count, result in results.items()}
    calibration = {**settings.calibration, prompt: temperatures}
    calibrated: MapModel = replace(model, settings=replace(settings, calibration=calibration))
    return calibrated


def negative_log_likelihood(
    densities: Sequence[Density], truth: Float[Tensor, "queries 2"], *, temperature: float = 1.0
) -> float:
    """Return the mean of -log p(truth), in nats per steradian, for densities at a temperature."""
    log_prob = torch.stack(
        [density.log_prob(place) for density, place in zip(densities, truth, strict=True)]
    )
    log_mass = torch.stack([density.mass for density in densities]).log()
    log_area = math.log(4 * math.pi / log_mass.shape[-1])
    power = 1 / temperature
    log_total = torch.logsumexp(power * (log_mass - log_area), -1) + log_area
    return (log_total - power * log_prob).mean().item()


def best_temperature(densities: Sequence[Density], truth: Float[Tensor, "queries 2"]) -> float:
    """Return the temperature under which the truth is likeliest; its power has 3 digits."""
    best = min(
        TEMPERATURES, key=lambda one: negative_log_likelihood(densities, truth, temperature=one)
    )
    return 1 / round(1 / best, 3)
