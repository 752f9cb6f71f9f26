"""Draw locations on maps and read maps back to densities: inverses of each other."""

from icgeo.maps.drawing import base_image as base_image
from icgeo.maps.drawing import draw as draw
from icgeo.maps.drawing import draw_density as draw_density
from icgeo.maps.operator import Noise as Noise
from icgeo.maps.reading import LEGIBLE as LEGIBLE
from icgeo.maps.reading import Reading as Reading
from icgeo.maps.reading import read as read
from icgeo.maps.style import MapStyle as MapStyle
