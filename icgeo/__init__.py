"""In-context few-shot geolocation with pretrained diffusion transformers.

What it holds is imported when it is asked for (PEP 562): torch alone takes a second, and whoever
wants the help of a command needs none of it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from icgeo import maps, metrics, sphere
    from icgeo.geolocator import Geolocator, predict, predict_sequence
    from icgeo.models import LoadError, load
    from icgeo.models.cost import plan
    from icgeo.prediction import Example, Locator, Prediction, SequencePrediction
    from icgeo.sphere.density import Density

__all__ = [
    "Density",
    "Example",
    "Geolocator",
    "LoadError",
    "Locator",
    "Prediction",
    "SequencePrediction",
    "load",
    "maps",
    "metrics",
    "plan",
    "predict",
    "predict_sequence",
    "sphere",
]

_HOMES = {
    "sphere.density": ("Density",),
    "geolocator": ("Geolocator", "predict", "predict_sequence"),
    "models": ("LoadError", "load"),
    "models.cost": ("plan",),
    "prediction": ("SequencePrediction", "Example", "Locator", "Prediction"),
}
"""Modules of what is no module itself."""


def __getattr__(name: str) -> Any:
    """Import what is public when it is asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = next((home for home, names in _HOMES.items() if name in names), None)
    found = (
        getattr(import_module(f"icgeo.{home}"), name) if home else import_module(f"icgeo.{name}")
    )
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__})
