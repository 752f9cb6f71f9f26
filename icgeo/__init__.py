"""In-context few-shot geolocation with pretrained diffusion transformers.

Public names and modules are imported when they are first used (PEP 562): torch alone takes a
second, and the help of a command needs none of it.
"""

import gc
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import icgeo.latents as latents
    from icgeo import baselines, data, evaluation, features, maps, metrics, plots, selection, sphere
    from icgeo.geolocator import Geolocator
    from icgeo.models import LoadError, load
    from icgeo.models.cost import plan
    from icgeo.predicting import predict, predict_sequence
    from icgeo.prediction import Example, Locator, Prediction, SequencePrediction
    from icgeo.sphere.density import Density

_HOMES = {
    **dict.fromkeys(("Example", "Locator", "Prediction", "SequencePrediction"), "prediction"),
    **dict.fromkeys(("predict", "predict_sequence"), "predicting"),
    **dict.fromkeys(("LoadError", "load"), "models"),
    "Density": "sphere.density",
    "Geolocator": "geolocator",
    "plan": "models.cost",
}
"""The module of each public name."""

__all__ = ["Density", "Example", "Geolocator", "LoadError", "Locator", "Prediction", "plots"]
__all__ += ["SequencePrediction", "baselines", "data", "evaluation", "features", "latents"]
__all__ += ["load", "maps", "metrics", "plan", "predict", "predict_sequence", "selection", "sphere"]


def __getattr__(name: str) -> Any:
    """Import a public name or module when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # imports make half a million objects that stay: looking at them costs a second, and taking
    # them apart at exit two, if they are not frozen
    collects, is_frozen = gc.isenabled(), gc.get_freeze_count() > 0
    has_tensors = "torch" in sys.modules  # of the caller, who may want their memory back
    gc.disable()
    try:
        home = import_module(f"icgeo.{_HOMES.get(name, name)}")
    finally:
        if collects:
            if not is_frozen:
                gc.freeze()
                if has_tensors:
                    gc.unfreeze()  # into the oldest generation, which is seldom looked at
            gc.enable()
    globals()[name] = value = getattr(home, name) if name in _HOMES else home
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__})
