"""What an architecture gives, so that any layout of examples can be drawn with it."""

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from icgeo.models.attention import AttentionContext
from icgeo.models.prompts import Embedding, Prompts


@runtime_checkable
class Backbone(Protocol):
    """A transformer between image tokens, with the codec and the prompts of its checkpoint.

    Images are in [0, 1]; tokens are latents, normalised as the transformer expects them.
    """

    @property
    def pipeline(self) -> Any:
        """The pipeline of diffusers, without its text encoders."""
        ...

    @property
    def prompts(self) -> Prompts:
        """Embeddings of instructions."""
        ...

    @property
    def patch(self) -> int:
        """Pixels a token, in each direction."""
        ...

    def encode(
        self, images: Float[Tensor, "images 3 height width"]
    ) -> Float[Tensor, "images tokens channels"]:
        """Encode images to tokens, in row order."""
        ...

    def decode(
        self, tokens: Float[Tensor, "images tokens channels"], *, rows: int
    ) -> Float[Tensor, "images 3 height width"]:
        """Decode tokens to images; in float32, unclipped."""
        ...

    def ids(self, image: int, rows: int, columns: int) -> Int[Tensor, "tokens axes"]:
        """Places of the tokens of an image: 0 is the one to draw, references count from 1."""
        ...

    def forward(
        self,
        tokens: Float[Tensor, "batch tokens channels"],
        t: float,
        ids: Int[Tensor, "tokens axes"],
        *,
        text: Embedding | None = None,
        attention_context: AttentionContext | None = None,
    ) -> Float[Tensor, "batch tokens channels"]:
        """Predict the velocity of tokens at time t; no text is no words at all."""
        ...

    def times(self, tokens: int, steps: int) -> Float[Tensor, " times"]:
        """Return the time grid of the checkpoint's scheduler for so many tokens to draw."""
        ...

    def shift(self, tokens: int, steps: int) -> float:
        """Return how far that grid leans to the noise, as `icgeo.sampling.shifted` takes it."""
        ...
