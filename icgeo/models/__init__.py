"""Diffusion transformers that draw maps, one file per architecture."""

from icgeo.models.base import Context, MapModel, load

__all__ = ["Context", "MapModel", "load"]
