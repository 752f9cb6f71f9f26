"""Score a million points and a hundred thousand densities: seconds, and memory at its peak."""

import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from icgeo import config

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from icgeo.metrics.densities import DensityScores


@dataclass(frozen=True)
class Options:
    """Synthetic predictions, scored with everything there is; 0 leaves a part out."""

    points: int = 1_000_000
    """Point predictions: accuracies, by place, continent and training density, intervals."""
    densities: int = 100_000
    """Densities, scored one by one as they are made."""
    nside: Literal[16, 32, 64, 128] = 64
    """Resolution of the densities: cells along a side of HEALPix."""
    protocol: Literal["osv5m", "geoclip", "pigeon"] = "osv5m"
    """Protocol by which points are scored."""


def main(options: Options) -> None:
    """Score points, then densities; memory is shown after each tenth of them."""
    from torch import Generator

    if min(options.points, options.densities) < 0:
        raise config.UsageError("expected numbers of at least 0; 0 leaves a part out")
    generator = Generator().manual_seed(0)
    start = time.perf_counter(), time.process_time()
    if options.points:
        scores = score_points(options.points, protocol=options.protocol, generator=generator)
        for name, value in scores.items():
            print(f"{name}: {value}")
        report(options.points, "points", start)
    if options.densities:
        start = time.perf_counter(), time.process_time()
        for densities in score_densities(options.densities, options.nside, generator=generator):
            report(len(densities), "densities", start)
        print(densities.summary())


def report(count: int, what: str, start: tuple[float, float]) -> None:
    """Print the time since `start`, as it passed and of the processor, and the memory."""
    wall, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{count} {what}: {wall:.1f} s, of CPU {cpu:.1f} s, peak {peak:.0f} MB", flush=True)


def score_points(count: int, *, protocol: str, generator: "Generator") -> dict[str, Any]:
    """Score random predictions with all scores of points, 95 % intervals of 1000 resamples."""
    import torch

    from icgeo import metrics
    from icgeo.metrics import intervals, locations
    from icgeo.sphere import sample_von_mises_fisher, to_lat_lon, to_xyz

    gazetteer = locations.bundled_gazetteer()
    cities = to_xyz(torch.from_numpy(gazetteer.lat_lon))

    def around_cities(number: int) -> "Tensor":  # unit vectors, scattered by some 20 km
        centres = cities[torch.randint(len(cities), (number,), generator=generator)]
        return sample_von_mises_fisher(centres, 1e5, generator=generator)

    true = around_cities(count)
    kappa = 10 ** (5 * torch.rand(count, generator=generator, dtype=torch.float64))
    guess = sample_von_mises_fisher(true, kappa, generator=generator)
    predicted, truth, photos = map(to_lat_lon, (guess, true, around_cities(100_000)))
    km = metrics.distances(predicted, truth, protocol=protocol)
    guessed, labels = (gazetteer.locate(places) for places in (predicted, truth))
    columns = {"mean km": km, "GeoScore": metrics.geoscore(km, protocol=protocol)}
    columns |= {f"within {near:g} km": (km < near).double() for near in metrics.THRESHOLDS_KM}
    scored = {}
    for level in locations.PLACE_LEVELS:
        hits = torch.from_numpy(locations.hits(guessed[level], labels[level]))
        scored[level] = int((~hits.isnan()).sum())
        if scored[level]:
            columns[level] = hits[~hits.isnan()]
    interval = partial(intervals.bootstrap_interval, generator=generator)
    within = partial(metrics.accuracy_within, km, protocol=protocol)
    counts = metrics.training_counts(truth, photos)
    return {
        "summary": metrics.summarise(km, protocol=protocol),
        "accuracies": {near: within(near) for near in metrics.THRESHOLDS_KM},
        "median km": interval(km, statistic=intervals.weighted_median),
        **{name: interval(values) for name, values in columns.items()},
        "labels": scored,
        "continents": metrics.errors_by_group(km, labels["continent"], protocol=protocol),
        "training density": metrics.errors_by_training_density(km, counts, protocol=protocol),
    }


def score_densities(count: int, nside: int, *, generator: "Generator") -> "Iterator[DensityScores]":
    """Score kernels of random widths on a uniform floor as they are made; yield ten times."""
    import torch

    from icgeo.metrics.densities import DensityScores
    from icgeo.sphere import sample_uniform, sample_von_mises_fisher, to_lat_lon
    from icgeo.sphere.density import Density
    from icgeo.sphere.healpix import cell_xyz

    scores, cells = DensityScores(), cell_xyz(nside)
    for part in range(10):
        for _ in range(count * part // 10, count * (part + 1) // 10):
            kappa = 10 ** (1 + 2 * torch.rand(1, generator=generator, dtype=torch.float64))
            mode = sample_uniform(1, generator=generator)
            kernel = torch.softmax(kappa * (cells @ mode[0]), dim=0)
            truth = sample_von_mises_fisher(mode, kappa, generator=generator)
            scores.add([Density(0.9 * kernel + 0.1 / len(cells))], to_lat_lon(truth))
        yield scores


if __name__ == "__main__":
    config.run(main, Options)
