"""In-context few-shot geolocation with pretrained diffusion transformers."""

from typing import Any

from icgeo import maps, metrics, sphere
from icgeo.density import Density
from icgeo.geolocator import Geolocator, predict, predict_clip
from icgeo.models import LoadError, load
from icgeo.prediction import Clip, Example, Locator, Prediction

__all__ = [
    "Clip",
    "Density",
    "Example",
    "Geolocator",
    "LoadError",
    "Locator",
    "Prediction",
    "load",
    "maps",
    "metrics",
    "plan",
    "predict",
    "predict_clip",
    "sphere",
]


def __getattr__(name: str) -> Any:
    """Import `plan` when it is asked for: diffusers takes seconds to import."""
    if name == "plan":
        from icgeo.models.plan import plan

        return plan
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
