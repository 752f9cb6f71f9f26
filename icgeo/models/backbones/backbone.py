"""What an architecture gives, so that any layout of examples can be drawn with it."""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from icgeo.models.attention import AttentionContext
from icgeo.models.prompts import Embedding, Prompts


@runtime_checkable
class Backbone(Protocol):
    """A transformer with the codec of its checkpoint."""

    layouts: ClassVar[tuple[str, ...]]
    """Ways to show examples that it knows."""

    @property
    def transformer(self) -> Any:
        """What predicts velocities, and what a LoRA adapts."""
        ...

    @property
    def codec(self) -> Any:
        """What encodes images."""
        ...

    @property
    def digest(self) -> str:
        """Hash of the weights, where they have no name."""
        ...

    @property
    def patch(self) -> int:
        """Pixels a token, in each direction."""
        ...


@dataclass(frozen=True)
class PipelineBackbone:
    """The parts of a pipeline of diffusers, and its instructions."""

    pipeline: Any
    prompts: Prompts

    digest: ClassVar = ""

    @property
    def transformer(self) -> Any:
        """The pipeline's."""
        return self.pipeline.transformer

    @property
    def codec(self) -> Any:
        """The VAE of the pipeline."""
        return self.pipeline.vae


@runtime_checkable
class ImageBackbone(Backbone, Protocol):
    """A transformer between image tokens.

    Images are in [0, 1]; tokens are latents, normalised as the transformer expects them.
    """

    @property
    def prompts(self) -> Prompts:
        """Embeddings of instructions."""
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
