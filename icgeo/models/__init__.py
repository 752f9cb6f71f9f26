"""Models that draw maps."""

from icgeo.models.context import Context
from icgeo.models.hub import LoadError
from icgeo.models.loading import load
from icgeo.models.map_model import MapModel
from icgeo.options import LoadOptions

__all__ = ["Context", "LoadError", "LoadOptions", "MapModel", "load"]
