"""What every model that draws maps can do, and how one is loaded."""

import json
from dataclasses import asdict, dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from icgeo import maps

BUILT_IN = ("tiny",)


@dataclass(frozen=True)
class Settings:
    """What a checkpoint says of itself in `icgeo.json`."""

    style: maps.MapStyle
    prompts: tuple[str, ...]
    default_prompt: str
    noise: maps.Noise = field(default_factory=maps.Noise)
    """How far the maps that it draws are from ink, for reading them."""
    calibration: dict[str, dict[str, float]] = field(default_factory=dict)
    """Power that calibrates the density, fitted on held-out worlds, by prompt and shots."""
    layout: str = "stacked"
    attention: str = "pairwise"
    steps: int = 1
    samples: int = 1

    def power(self, prompt: str, shots: int) -> float:
        """Power that calibrates the density, interpolated in the logarithm of 1 + shots."""
        fitted = {int(k): power for k, power in self.calibration.get(prompt, {}).items()}
        if not fitted:
            return 1.0
        known = sorted(fitted)
        return float(np.interp(np.log1p(shots), np.log1p(known), [fitted[k] for k in known]))

    @classmethod
    def read(cls, path: Path) -> "Settings":
        """Read the settings of a checkpoint folder."""
        values = json.loads(path.read_text())
        return cls(
            style=maps.MapStyle.from_dict(values.pop("style")),
            prompts=tuple(values.pop("prompts")),
            noise=maps.Noise(**values.pop("noise")),
            **values,
        )

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as plain values, ready for JSON."""
        return {**asdict(self), "style": self.style.to_dict(), "prompts": list(self.prompts)}


@dataclass(frozen=True)
class Context:
    """Examples as the model holds them, computed once."""

    shots: int
    kept: Any
    """What the architecture keeps of them: keys and values."""


@runtime_checkable
class MapModel(Protocol):
    """A model that is shown examples and draws the maps of new photos."""

    @property
    def settings(self) -> Settings:
        """What the checkpoint says of itself: map style, prompts, calibration, defaults."""
        ...

    @property
    def photo_size(self) -> int:
        """Height and width of the photos that it takes, in pixels."""
        ...

    def encode_context(
        self, photos: UInt8[Tensor, "examples 3 size size"], lat_lon: Float[Tensor, "examples 2"]
    ) -> Context:
        """Encode examples once, for any number of queries, steps and samples."""
        ...

    def draw_maps(
        self,
        context: Context,
        photos: UInt8[Tensor, "queries 3 size size"],
        *,
        prompt: str,
        samples: int = 1,
        steps: int = 1,
        seed: int = 0,
    ) -> Float[Tensor, "queries samples 3 height width"]:
        """Draw the maps of query photos, in float, unclipped."""
        ...


def load(
    model: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> MapModel:
    """Load a model: "tiny", which is in the package, or a checkpoint folder.

    Raises:
        ValueError: neither a built-in name nor a folder with `icgeo.json`; an unknown layout.
    """
    if str(model) in BUILT_IN:
        with as_file(files("icgeo") / "assets" / str(model)) as folder:
            return load_folder(folder, device=device, dtype=dtype)
    return load_folder(Path(model), device=device, dtype=dtype)


def load_folder(folder: Path, *, device: str | torch.device, dtype: torch.dtype) -> MapModel:
    """Load a checkpoint folder by the layout that its `icgeo.json` names."""
    index = folder / "icgeo.json"
    if not index.is_file():
        raise ValueError(
            f"expected one of {BUILT_IN} or a folder with icgeo.json, got {str(folder)!r}"
        )
    layout = json.loads(index.read_text())["layout"]
    if layout != "stacked":
        raise ValueError(f"expected layout 'stacked' in {index}, got {layout!r}; update icgeo")
    # diffusers takes seconds to import: only who loads a model waits for it
    from icgeo.models.flux2 import StackedMapModel

    return StackedMapModel.load(folder, device=device, dtype=dtype)
