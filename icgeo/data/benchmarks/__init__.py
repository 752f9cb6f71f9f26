"""Published benchmarks of geolocation, read as their authors lay them out."""

from icgeo.data.benchmarks.catalogue import BENCHMARKS, Benchmark, Columns, Layout
from icgeo.data.benchmarks.reading import OpenBenchmark, open_benchmark
from icgeo.data.benchmarks.records import BenchmarkError, BenchmarkRecord, Skipped

__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "BenchmarkError",
    "BenchmarkRecord",
    "Columns",
    "Layout",
    "OpenBenchmark",
    "Skipped",
    "open_benchmark",
]
