"""Baselines of the method, with its protocol; given no examples, all of them answer as `Chance`."""

from icgeo.baselines.chance import Chance
from icgeo.baselines.nearest import NearestOracle, NearestPixels

__all__ = ["Chance", "NearestOracle", "NearestPixels"]
