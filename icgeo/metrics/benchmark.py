"""How fast scores are, and how much memory they take: synthetic points and densities, scored."""

import resource
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor

from icgeo.metrics.densities import DensityScores
from icgeo.metrics.errors import THRESHOLDS_KM, accuracies, distances, geoscore, summarise
from icgeo.metrics.groups import errors_by_group, errors_by_training_density, training_counts
from icgeo.metrics.intervals import bootstrap_interval, weighted_median
from icgeo.metrics.locations import PLACE_LEVELS, bundled_gazetteer, hits
from icgeo.sphere import sample_uniform, sample_von_mises_fisher, to_lat_lon, to_xyz
from icgeo.sphere.density import Density
from icgeo.sphere.healpix import cell_xyz


def peak_megabytes() -> float:
    """Most memory that this process has held so far, in MB."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def _cities(count: int, generator: Generator) -> Float[Tensor, "count 3"]:
    """Unit vectors scattered some 20 km around random cities."""
    lat_lon = torch.from_numpy(bundled_gazetteer().lat_lon)
    chosen = lat_lon[torch.randint(len(lat_lon), (count,), generator=generator)]
    return sample_von_mises_fisher(to_xyz(chosen), 1e5, generator=generator)


def score_points(
    count: int, *, protocol: str = "osv5m", training: int = 100_000, generator: Generator
) -> dict[str, Any]:
    """Score random predictions with all scores of points, 95 % intervals of 1000 resamples."""
    true = _cities(count, generator)
    kappa = 10 ** (5 * torch.rand(count, generator=generator, dtype=torch.float64))
    guess = sample_von_mises_fisher(true, kappa, generator=generator)
    predicted, truth, photos = map(to_lat_lon, (guess, true, _cities(training, generator)))
    km = distances(predicted, truth, protocol=protocol)
    guessed, labels = (bundled_gazetteer().locate(places) for places in (predicted, truth))
    right = {level: hits(guessed[level], labels[level]) for level in PLACE_LEVELS}
    columns = {"mean km": km, "GeoScore": geoscore(km, protocol=protocol)}
    columns |= {f"within {near:g} km": (km < near).double() for near in THRESHOLDS_KM}
    known = {level: values[~np.isnan(values)] for level, values in right.items()}
    columns |= {level: torch.from_numpy(values) for level, values in known.items() if len(values)}
    around = training_counts(truth, photos)
    return {
        "summary": summarise(km, protocol=protocol),
        "accuracies": accuracies(km, protocol=protocol),
        "median km": bootstrap_interval(km, statistic=weighted_median, generator=generator),
        **{name: bootstrap_interval(x, generator=generator) for name, x in columns.items()},
        "labels": {level: len(values) for level, values in known.items()},
        "continents": errors_by_group(km, labels["continent"], protocol=protocol),
        "training density": errors_by_training_density(km, around, protocol=protocol),
    }


def score_densities(count: int, nside: int, *, generator: Generator) -> Iterator[DensityScores]:
    """Score kernels of random widths on a uniform floor as they are made; show ten times how far."""
    scores, cells = DensityScores(), cell_xyz(nside)
    for part in range(10):
        for _ in range(count * part // 10, count * (part + 1) // 10):
            kappa = 10 ** (1 + 2 * torch.rand(1, generator=generator, dtype=torch.float64))
            mode = sample_uniform(1, generator=generator)
            kernel = torch.softmax(kappa * (cells @ mode[0]), dim=0)
            truth = sample_von_mises_fisher(mode, kappa, generator=generator)
            scores.add([Density(0.9 * kernel + 0.1 / len(cells))], to_lat_lon(truth))
        yield scores
