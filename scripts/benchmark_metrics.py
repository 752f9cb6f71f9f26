"""Score a million points and a hundred thousand densities: seconds, and memory at its peak."""

import resource
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from icgeo import config, metrics, sphere
from icgeo.density import Density
from icgeo.healpix import cell_xyz


@dataclass(frozen=True)
class Options:
    """Synthetic predictions, scored with everything there is; 0 leaves a part out."""

    points: int = 1_000_000
    """Point predictions: accuracies, by place, continent and training density, intervals."""
    densities: int = 100_000
    """Densities, scored one by one as they are made."""
    nside: int = 64
    """Of the densities."""
    protocol: str = "osv5m"
    """By which points are scored: osv5m, geoclip or pigeon."""


def cities(count: int, kappa: float, generator: Generator) -> Tensor:
    """Unit vectors scattered around random cities."""
    lat_lon = torch.from_numpy(metrics.bundled_gazetteer().lat_lon)
    chosen = sphere.to_xyz(lat_lon[torch.randint(len(lat_lon), (count,), generator=generator)])
    return sphere.sample_von_mises_fisher(chosen, kappa, generator=generator)


def score_points(options: Options, generator: Generator) -> None:
    """Score predictions whose errors run from tens of km to the other side."""
    truth = cities(options.points, 1e5, generator)
    kappa = 10 ** (5 * torch.rand(len(truth), generator=generator, dtype=torch.float64))
    guess = sphere.sample_von_mises_fisher(truth, kappa, generator=generator)
    predicted, true, training = map(
        sphere.to_lat_lon, (guess, truth, cities(100_000, 1e5, generator))
    )
    km = metrics.distances(predicted, true, protocol=options.protocol)
    print(metrics.summarise(km, protocol=options.protocol))
    guessed, labels = map(metrics.bundled_gazetteer().locate, (predicted, true))
    for level in metrics.LEVELS:
        right = metrics.hits(guessed[level], labels[level])
        known = right[~np.isnan(right)]
        print(level, metrics.bootstrap_interval(known) if len(known) else "no labels", len(known))
    columns = {"geoscore": metrics.geoscore(km, protocol=options.protocol), "mean km": km}
    columns |= {f"within {near:g}": (km < near).double() for near in metrics.THRESHOLDS_KM}
    for name, values in columns.items():
        print(name, metrics.bootstrap_interval(values, generator=generator))
    print("median km", metrics.bootstrap_interval(km, statistic=metrics.weighted_median))
    print(metrics.errors_by_group(km, labels["continent"]).summaries["EU"])
    print(metrics.errors_by_training_density(km, metrics.training_counts(true, training))[0])


def score_densities(options: Options, generator: Generator) -> None:
    """Score bumps of many widths on a uniform floor, a tenth of all between two looks at memory."""
    scores, cells = metrics.DensityScores(), cell_xyz(options.nside)
    for part in range(10):
        for _ in range(options.densities // 10):
            kappa = 10 ** (1 + 2 * torch.rand(1, generator=generator, dtype=torch.float64))
            mode = cities(1, 1e5, generator)[0]
            density = Density(0.1 / len(cells) + torch.softmax(kappa * (cells @ mode), 0))
            truth = sphere.sample_von_mises_fisher(mode, kappa[0], generator=generator)
            scores.add([density], sphere.to_lat_lon(truth)[None])
        print(f"{part + 1} tenths: peak {peak():.0f} MB")
    print(scores.summary())


def peak() -> float:
    """Most memory that the process has held so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def main(options: Options) -> None:
    """Score points, then densities."""
    for name, score in (("points", score_points), ("densities", score_densities)):
        if getattr(options, name):
            start = time.perf_counter()
            score(options, Generator().manual_seed(0))
            print(f"{name}: {time.perf_counter() - start:.1f} s, peak {peak():.0f} MB")


if __name__ == "__main__":
    config.run(main, Options)
