"""Photos with locations: files, EXIF, manifests, benchmarks, views from orbit, worlds."""

from icgeo.data.benchmark_rows import BenchmarkError, Skipped
from icgeo.data.benchmarks import BENCHMARKS, Benchmark, BenchmarkRecord, OpenBenchmark
from icgeo.data.benchmarks import open_benchmark as open
from icgeo.data.manifest import ManifestError, Record, read_manifest
from icgeo.data.photos import Photo, PhotoError, StoredPhoto, read_location, read_photo

__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "BenchmarkError",
    "BenchmarkRecord",
    "ManifestError",
    "OpenBenchmark",
    "Photo",
    "PhotoError",
    "Record",
    "Skipped",
    "StoredPhoto",
    "open",
    "read_location",
    "read_manifest",
    "read_photo",
]
