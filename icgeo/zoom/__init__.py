"""Zoom from the planet to the place on a map."""
