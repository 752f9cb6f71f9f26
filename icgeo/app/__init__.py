"""A page on which photos are located with a mouse: `launch` serves it, `build` makes it."""

from icgeo.app.interface import build
from icgeo.app.serving import launch

__all__ = ["build", "launch"]
