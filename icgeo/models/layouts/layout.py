"""How examples and query are shown to a backbone, and what it draws."""

from collections.abc import Callable
from typing import ClassVar, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from icgeo.models.prompts import Embedding

Predict = Callable[[Tensor, float, Embedding], Tensor]
"""Velocity of noisy latents [queries, samples, ...] at a time, given an instruction."""


@runtime_checkable
class Layout(Protocol):
    """How examples and query are shown to a backbone, and what it draws."""

    modes: ClassVar[tuple[str, ...]]

    def latent_shape(self, shots: int) -> tuple[int, ...]:
        """Shape of the latents of what is drawn."""
        ...

    def times(self, shots: int, steps: int) -> Float[Tensor, " times"]:
        """Return the time grid for what is drawn."""
        ...

    def shift(self, shots: int, steps: int) -> float:
        """Return how far that grid leans to the noise, as `icgeo.sampling.shifted` takes it."""
        ...

    def answer(self, latents: Tensor) -> Tensor:
        """Cut out the map of what is drawn, still encoded."""
        ...

    def encode_pairs(self, photos: Tensor, drawn: Tensor) -> dict[str, Tensor]:
        """Encode examples, in [0, 1], to what is kept of them."""
        ...

    def encode_queries(self, kept: dict[str, Tensor], photos: Tensor) -> Tensor:
        """Encode query photos in [0, 1]."""
        ...

    def encode_answers(self, kept: dict[str, Tensor], photos: Tensor, drawn: Tensor) -> Tensor:
        """Encode what should be drawn of queries, as targets of training."""
        ...

    def predictor(self, kept: dict[str, Tensor], shots: int, asked: Tensor) -> Predict:
        """Return the velocity of what is drawn, from encoded queries."""
        ...

    def decode(self, latents: Tensor) -> Float[Tensor, "queries samples 3 height width"]:
        """Decode what was drawn to maps; in float32, unclipped."""
        ...
