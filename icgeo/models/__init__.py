"""Models that draw maps."""

from icgeo.models.context import Context
from icgeo.models.hub import LoadError
from icgeo.models.loading import LoadOptions, load
from icgeo.models.map_model import MapModel

__all__ = ["Context", "LoadError", "LoadOptions", "MapModel", "load"]
