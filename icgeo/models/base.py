"""What every model that draws maps can do, and how one is loaded."""

import json
from importlib.resources import as_file, files
from pathlib import Path
from typing import Protocol

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from icgeo.models.flux2 import Context, Settings, StackedMapModel

BUILT_IN = ("tiny",)
LAYOUTS = {"stacked": StackedMapModel}


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
    if layout not in LAYOUTS:
        raise ValueError(f"expected a layout of {sorted(LAYOUTS)} in {index}, got {layout!r}")
    return LAYOUTS[layout].load(folder, device=device, dtype=dtype)
