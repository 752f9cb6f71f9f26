"""In-context few-shot geolocation with pretrained diffusion transformers.

What it holds is imported when it is asked for (PEP 562): torch alone takes a second, and whoever
wants the help of a command needs none of it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from icgeo import maps, metrics, sphere
    from icgeo.density import Density
    from icgeo.geolocator import Geolocator, predict, predict_clip
    from icgeo.models import LoadError, load
    from icgeo.models.plan import plan
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

_HOMES = {
    "density": ("Density",),
    "geolocator": ("Geolocator", "predict", "predict_clip"),
    "models": ("LoadError", "load"),
    "models.plan": ("plan",),
    "prediction": ("Clip", "Example", "Locator", "Prediction"),
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
