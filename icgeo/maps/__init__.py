"""Draw locations on maps and read maps back to densities: inverses of each other."""

from icgeo.maps.drawing import draw, draw_density, drawing_matrix
from icgeo.maps.operator import Noise
from icgeo.maps.reading import LEGIBLE, Reading, read
from icgeo.maps.style import MapStyle

__all__ = [
    "LEGIBLE",
    "MapStyle",
    "Noise",
    "Reading",
    "draw",
    "draw_density",
    "drawing_matrix",
    "read",
]
