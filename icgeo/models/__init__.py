"""Diffusion transformers that draw maps, one file per architecture."""

from icgeo.models.base import Context, LoadError, MapModel, load

__all__ = ["Context", "LoadError", "MapModel", "load"]
