"""Score a million points and a hundred thousand densities: seconds, and memory at its peak."""

import time
from dataclasses import dataclass

from torch import Generator

from icgeo import config
from icgeo.metrics import benchmark


@dataclass(frozen=True)
class Options:
    """Synthetic predictions, scored with everything there is; 0 leaves a part out."""

    points: int = 1_000_000
    """Point predictions: accuracies, by place, continent and training density, intervals."""
    densities: int = 100_000
    """Densities, scored one by one as they are made."""
    nside: int = 64
    """Of the densities; a power of two."""
    protocol: str = "osv5m"
    """By which points are scored: osv5m, geoclip or pigeon."""


def main(options: Options) -> None:
    """Score points, then densities; memory is shown after each tenth of them."""
    generator = Generator().manual_seed(0)
    start = time.perf_counter()
    if options.points:
        scores = benchmark.score_points(
            options.points, protocol=options.protocol, generator=generator
        )
        for name, value in scores.items():
            print(f"{name}: {value}")
        seconds = time.perf_counter() - start
        print(f"{options.points} points: {seconds:.1f} s, {benchmark.peak_megabytes():.0f} MB")
    start = time.perf_counter()
    if options.densities:
        for densities, peak in benchmark.score_densities(
            options.densities, options.nside, generator=generator
        ):
            seconds = time.perf_counter() - start
            print(f"{len(densities)} densities: {seconds:.1f} s, {peak:.0f} MB", flush=True)
        print(densities.summary())


if __name__ == "__main__":
    config.run(main, Options)
