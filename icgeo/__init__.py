"""In-context few-shot geolocation with pretrained diffusion transformers."""

from icgeo import maps, metrics, sphere
from icgeo.density import Density
from icgeo.geolocator import Geolocator, predict
from icgeo.models import load
from icgeo.prediction import Example, Locator, Prediction

__all__ = [
    "Density",
    "Example",
    "Geolocator",
    "Locator",
    "Prediction",
    "load",
    "maps",
    "metrics",
    "predict",
    "sphere",
]
