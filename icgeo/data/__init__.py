"""Photos with locations: files, EXIF, manifests, views from orbit, procedural worlds."""

from icgeo.data.manifest import ManifestError, Record, read_manifest
from icgeo.data.photos import Photo, PhotoError, read_location, read_photo

__all__ = [
    "ManifestError",
    "Photo",
    "PhotoError",
    "Record",
    "read_location",
    "read_manifest",
    "read_photo",
]
