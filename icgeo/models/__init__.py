"""Models that draw maps."""

from icgeo.models.base import Context, MapModel
from icgeo.models.hub import LoadError
from icgeo.models.loading import LoadOptions, load

__all__ = ["Context", "LoadError", "LoadOptions", "MapModel", "load"]
