"""Photos with locations: files, EXIF, manifests, benchmarks, views from orbit, worlds."""

from icgeo.data.benchmark_rows import BenchmarkError, Skipped
from icgeo.data.benchmarks import BENCHMARKS, BenchmarkRecord
from icgeo.data.benchmarks import open_benchmark as open
from icgeo.data.manifest import ManifestError, read_manifest
from icgeo.data.photos import PhotoError, StoredPhoto, read_location, read_photo

__all__ = ["BENCHMARKS", "BenchmarkError", "BenchmarkRecord", "ManifestError", "PhotoError"]
__all__ += ["Skipped", "StoredPhoto", "open", "read_location", "read_manifest", "read_photo"]
