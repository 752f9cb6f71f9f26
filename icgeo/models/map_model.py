"""What every model that draws maps can do."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float, UInt8
from torch import Tensor

from icgeo.models.context import Context
from icgeo.models.settings import Settings
from icgeo.sampling import StepCallback


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
        callback_on_step_end: StepCallback | None = None,
    ) -> Float[Tensor, "queries samples 3 height width"]:
        """Draw the maps of query photos, in float, unclipped.

        `callback_on_step_end` is told at each step the maps as they look from there, and the time, from 1 down.
        """
        ...
