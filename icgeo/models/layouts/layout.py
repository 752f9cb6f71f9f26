"""How examples and query are shown to a backbone, and what it draws."""

from collections.abc import Callable
from typing import Any, ClassVar, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from icgeo.models.instructions import instruction

Predict = Callable[[Tensor, float, Any], Tensor]
"""Velocity of noisy latents [queries, samples, ...] at a time, given an embedded text."""


@runtime_checkable
class Layout(Protocol):
    """A way to show examples; made of a backbone, settings and a kernel of attention."""

    modes: ClassVar[tuple[str, ...]]
    """Modes of attention that it knows."""
    fixed: ClassVar[tuple[str, ...]]
    """Settings that belong to the weights."""
    is_one_picture: ClassVar[bool]
    """Whether examples and query are one picture, drawn again as a whole."""
    takes_groups: ClassVar[bool]
    """Whether queries with examples of their own go through in one pass."""
    can_drop_text: ClassVar[bool]
    """Whether training may leave the text out, for guidance by it."""
    has_one_time: ClassVar[bool]
    """Whether all targets of an episode have the same time."""

    @property
    def photo_size(self) -> int:
        """Height and width of photos in pixels."""
        ...

    @property
    def leaves_one_out(self) -> bool:
        """Whether all pairs of an episode can be targets of one pass, each hidden from itself."""
        ...

    def latent_shape(self, shots: int) -> tuple[int, ...]:
        """Shape of the latents of what is drawn."""
        ...

    def times(self, shots: int, steps: int) -> Float[Tensor, " times"]:
        """Return the time grid for what is drawn."""
        ...

    def shift(self, shots: int, steps: int) -> float:
        """Return how far that grid leans to the noise, as `icgeo.sampling.shifted` takes it."""
        ...

    def text(self, prompt: str, shots: int) -> Any:
        """Embed what the model is told; "" is nothing."""
        ...

    def answer(self, latents: Tensor) -> Tensor:
        """Cut the map out of what is drawn, still encoded."""
        ...

    def encode_pairs(self, photos: Tensor, drawn: Tensor) -> dict[str, Tensor]:
        """Encode examples, in [0, 1], to what a context holds."""
        ...

    def encode_queries(self, kept: dict[str, Tensor], photos: Tensor) -> Tensor:
        """Encode query photos in [0, 1]."""
        ...

    def encode_answers(self, kept: dict[str, Tensor], photos: Tensor, drawn: Tensor) -> Tensor:
        """Encode what should be drawn of queries, as targets of training."""
        ...

    def predictor(self, kept: dict[str, Tensor], shots: int, queries: Tensor) -> Predict:
        """Return the velocity of what is drawn, from encoded queries."""
        ...

    def describe(self, photos: Tensor) -> Float[Tensor, "photos features"]:
        """Describe photos in [0, 1] by features that are alike for photos that look alike."""
        ...

    def decode(self, latents: Tensor) -> Float[Tensor, "queries samples 3 height width"]:
        """Decode what was drawn to maps; in float32, unclipped."""
        ...


def colours(layout: Any, photos: Tensor) -> Float[Tensor, "photos features"]:
    """Describe photos in [0, 1] by their colours at 8 x 8 pixels."""
    return functional.adaptive_avg_pool2d(photos.float(), 8).flatten(1)


def instructed(layout: Any, prompt: str, shots: int) -> Any:
    """Embed the instruction of a layout for a pretrained model; "" is nothing."""
    words = instruction(prompt, shots=shots, layout=layout.settings.layout) if prompt else ""
    return layout.backbone.prompts(words)
