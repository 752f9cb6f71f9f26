"""Score a million points and a hundred thousand densities: seconds, and memory at its peak."""

import time
from dataclasses import dataclass
from typing import Literal

from icgeo import config


@dataclass(frozen=True)
class Options:
    """Synthetic predictions, scored with everything there is; 0 leaves a part out."""

    points: int = 1_000_000
    """Point predictions: accuracies, by place, continent and training density, intervals."""
    densities: int = 100_000
    """Densities, scored one by one as they are made."""
    nside: Literal[16, 32, 64, 128] = 64
    """Of the densities."""
    protocol: Literal["osv5m", "geoclip", "pigeon"] = "osv5m"
    """By which points are scored."""


def report(count: int, what: str, start: tuple[float, float]) -> None:
    """Print the time since `start`, as it passed and of the processor, and the memory."""
    from icgeo.metrics.benchmark import peak_megabytes

    wall, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
    peak = peak_megabytes()
    print(f"{count} {what}: {wall:.1f} s, of CPU {cpu:.1f} s, peak {peak:.0f} MB", flush=True)


def main(options: Options) -> None:
    """Score points, then densities; memory is shown after each tenth of them."""
    from torch import Generator

    from icgeo.metrics import benchmark

    if min(options.points, options.densities) < 0:
        raise config.UsageError("expected numbers of at least 0; 0 leaves a part out")
    generator = Generator().manual_seed(0)
    start = time.perf_counter(), time.process_time()
    if options.points:
        scores = benchmark.score_points(
            options.points, protocol=options.protocol, generator=generator
        )
        for name, value in scores.items():
            print(f"{name}: {value}")
        report(options.points, "points", start)
    if options.densities:
        start = time.perf_counter(), time.process_time()
        for densities in benchmark.score_densities(
            options.densities, options.nside, generator=generator
        ):
            report(len(densities), "densities", start)
        print(densities.summary())


if __name__ == "__main__":
    config.run(main, Options)
