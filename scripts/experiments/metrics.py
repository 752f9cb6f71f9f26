"""Score a million points and a hundred thousand densities: seconds, and memory at its peak."""

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import icgeo
from icgeo import config


@dataclass(frozen=True)
class Options:
    """Synthetic predictions, scored with everything there is; 0 leaves a part out."""

    points: int = 1_000_000
    """Point predictions: accuracies, by place, continent and training density, intervals."""
    densities: int = 100_000
    """Densities, scored one by one as they are made."""
    nside: Literal[16, 32, 64, 128] = 64
    """Resolution of the densities: cells along a side of HEALPix."""


def main(options: Options) -> None:
    """Score points, then densities; memory is shown after each tenth of them."""
    import torch

    from icgeo.metrics.densities import DensityScores

    if min(options.points, options.densities) < 0:
        raise config.UsageError("expected numbers of at least 0; 0 leaves a part out")
    generator = torch.Generator().manual_seed(0)
    start = time.perf_counter(), time.process_time()
    if options.points:
        for name, value in score_points(options.points, generator).items():
            print(f"{name}: {value}")
        report(options.points, "points", start)
    if options.densities:
        scores, start = DensityScores(), (time.perf_counter(), time.process_time())
        for number in range(options.densities):
            scores.add(*random_density(options.nside, generator))
            if (10 * (number + 1)) % options.densities < 10:
                report(number + 1, "densities", start)
        print(scores.summary())


def report(count: int, unit: str, start: tuple[float, float]) -> None:
    """Print the time since `start`, as it passed and of the processor, and the memory (of Linux).

    The peak is the process's own: getrusage's goes on from that of whoever started it.
    """
    wall, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
    status = Path("/proc/self/status").read_text()
    peak = 1024 * int(status.partition("VmHWM:")[2].split()[0]) / 1e6
    print(f"{count} {unit}: {wall:.1f} s, of CPU {cpu:.1f} s, peak {peak:.0f} MB", flush=True)


def score_points(count: int, generator: Any) -> dict[str, Any]:
    """Score random predictions with all scores of points, 95 % intervals of 1000 resamples."""
    import torch

    from icgeo.metrics import intervals, locations
    from icgeo.sphere import sample_von_mises_fisher, to_lat_lon, to_xyz

    metrics, gazetteer = icgeo.metrics, locations.bundled_gazetteer()
    cities = to_xyz(torch.from_numpy(gazetteer.lat_lon))

    def around_cities(number: int) -> torch.Tensor:  # unit vectors, scattered by some 20 km
        centres = cities[torch.randint(len(cities), (number,), generator=generator)]
        return sample_von_mises_fisher(centres, 1e5, generator=generator)

    true_xyz = around_cities(count)
    kappa = 10 ** (5 * torch.rand(count, generator=generator, dtype=torch.float64))
    guess = sample_von_mises_fisher(true_xyz, kappa, generator=generator)
    predictions, truth, photos = map(to_lat_lon, (guess, true_xyz, around_cities(100_000)))
    km = metrics.distances(predictions, truth)
    predicted_labels, labels = (gazetteer.locate(places) for places in (predictions, truth))
    columns = {"mean km": km, "GeoScore": metrics.geoscore(km)}
    columns |= {f"within {limit:g} km": (km < limit).double() for limit in metrics.THRESHOLDS_KM}
    label_counts = {}
    for level in locations.PLACE_LEVELS:
        hits = torch.from_numpy(locations.hits(predicted_labels[level], labels[level]))
        label_counts[level] = int((~hits.isnan()).sum())
        if label_counts[level]:
            columns[level] = hits[~hits.isnan()]
    interval = partial(intervals.bootstrap_interval, generator=generator)
    counts = metrics.training_counts(truth, photos)
    return {
        "summary": metrics.summarise(km),
        "accuracies": {
            limit: metrics.accuracy_within(km, limit) for limit in metrics.THRESHOLDS_KM
        },
        "median km": interval(km, statistic=intervals.weighted_median),
        **{name: interval(values) for name, values in columns.items()},
        "labels": label_counts,
        "continents": metrics.errors_by_group(km, labels["continent"]),
        "training density": metrics.errors_by_training_density(km, counts),
    }


def random_density(nside: int, generator: Any) -> Any:
    """Draw a kernel of random width on a uniform floor, and a truth that follows it."""
    import torch

    from icgeo.sphere import sample_uniform, sample_von_mises_fisher, to_lat_lon
    from icgeo.sphere.healpix import cell_xyz

    cells = cell_xyz(nside)
    kappa = 10 ** (1 + 2 * torch.rand(1, generator=generator, dtype=torch.float64))
    mode = sample_uniform(1, generator=generator)
    kernel = torch.softmax(kappa * (cells @ mode[0]), dim=0)
    truth = sample_von_mises_fisher(mode, kappa, generator=generator)
    return [icgeo.Density(0.9 * kernel + 0.1 / len(cells))], to_lat_lon(truth)


if __name__ == "__main__":
    config.run(main, Options)
