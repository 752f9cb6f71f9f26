"""A locator with real densities, and episodes of a world small enough for tests."""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pytest
import torch

from icgeo.baselines import NearestPixels
from icgeo.evaluation import Episode, Query
from icgeo.prediction import Example


@dataclass(frozen=True)
class Matcher(NearestPixels):
    """Nearest example by pixels, narrower than the rival; counts the photos it is asked for."""

    name: ClassVar[str] = "matcher"
    kappa: float = 30.0
    asked: list[int] = field(default_factory=list)

    def locate(self, photos, examples):
        self.asked.append(len(photos))
        return super().locate(photos, examples)


def episode(name, *, queries=5, examples=4, seed=0):
    """Photos of noise in random places; each query is one of the examples with other noise."""
    generator = np.random.default_rng(seed)
    photos = generator.integers(256, size=(examples, 8, 8, 3), dtype=np.uint8)
    lat, lon = generator.uniform(-80, 80, examples), generator.uniform(-180, 180, examples)
    near = [number % examples for number in range(queries)]
    seen = [photos[n] // 2 + generator.integers(20, size=(8, 8, 3), dtype=np.uint8) for n in near]
    return Episode(
        name,
        "noise",
        [Example(*view) for view in zip(photos, lat, lon, strict=True)],
        [
            Query(f"{name}/{i}", photo, (float(lat[n] + 1), float(lon[n])))
            for i, (n, photo) in enumerate(zip(near, seen, strict=True))
        ],
    )


@pytest.fixture
def matcher():
    return Matcher()


@pytest.fixture
def episodes():
    return [episode("first", seed=1), episode("second", seed=2)]


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)
