"""Published benchmarks of geolocation, read as their authors lay them out."""

from icgeo.data.benchmarks.catalogue import BENCHMARKS, Benchmark, Columns, SplitFiles
from icgeo.data.benchmarks.opening import BenchmarkRecord, OpenBenchmark, open_benchmark
from icgeo.data.benchmarks.sources import BenchmarkError, Skipped

__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "BenchmarkError",
    "BenchmarkRecord",
    "Columns",
    "OpenBenchmark",
    "Skipped",
    "SplitFiles",
    "open_benchmark",
]
