"""Backbones of diffusers' pipelines, and what FLUX.1 and FLUX.2 share.

Images are in [0, 1]; tokens are latents in row order, normalised as the transformer expects them.
The VAE works in its own precision, tokens have that of the transformer.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from icgeo.models.attention import AttentionContext
from icgeo.models.prompts import Embedding, Prompts

Images = Float[Tensor, "images 3 height width"]
Tokens = Float[Tensor, "batch tokens channels"]
Grid = Float[Tensor, "images _ _ _"]
Ids = Int[Tensor, "tokens axes"]
TextInputs = tuple[Tensor, Tensor, dict[str, Tensor]]
"""Words for a transformer, their places, and its other inputs; all of batch 1."""


@dataclass(frozen=True)
class PipelineBackbone:
    """The parts of a pipeline of diffusers, and its instructions."""

    pipeline: Any
    prompts: Prompts

    layouts: ClassVar[tuple[str, ...]] = ("references", "panel")
    """Ways to show examples that it knows."""
    digest: ClassVar = ""
    """Hash of the weights, where they have no name."""

    @property
    def transformer(self) -> Any:
        """What predicts velocities, and what a LoRA adapts."""
        return self.pipeline.transformer

    @property
    def codec(self) -> Any:
        """What encodes images: the VAE."""
        return self.pipeline.vae


@dataclass(frozen=True)
class FluxBackbone(PipelineBackbone):
    """A FLUX; each says how its latents are scaled, where tokens are, and what a text gives."""

    guidance: float = 1.0
    """What a distilled checkpoint is told as its guidance; others take none."""

    packed: ClassVar = 1
    """Places of latents, in each direction, that are joined in a token."""

    @property
    def patch(self) -> int:
        """Pixels a token, in each direction: those of the VAE, two by two."""
        return 2 * int(self.pipeline.vae_scale_factor)

    def encode(self, images: Images) -> Tokens:
        """Encode images as they are; stock pipelines resize them to about a megapixel."""
        pixels = 2 * images.to(self.codec.device, self.codec.dtype) - 1
        latents: Tensor = self.pipeline._encode_vae_image(pixels, generator=None)
        return rearrange(
            latents.to(self.transformer.dtype),
            "n c (h p) (w q) -> n (h w) (c p q)",
            p=self.packed,
            q=self.packed,
        )

    def decode(self, tokens: Tokens, *, rows: int) -> Images:
        """Decode tokens to images; in float32, unclipped."""
        latents = rearrange(
            tokens.to(self.codec.dtype),
            "n (h w) (c p q) -> n c (h p) (w q)",
            h=rows,
            p=self.packed,
            q=self.packed,
        )
        images: Tensor = self.codec.decode(self.unscaled(latents), return_dict=False)[0]
        return (images.float() + 1) / 2

    def unscaled(self, latents: Grid) -> Grid:
        """Return what the VAE decodes of normalised latents."""
        raise NotImplementedError

    def ids(self, image: int, rows: int, columns: int) -> Ids:
        """Places of the tokens of an image: 0 is the one to draw, references count from 1."""
        raise NotImplementedError

    def text_inputs(self, text: Embedding | None, tokens: Tokens) -> TextInputs:
        """Return what an embedded text gives, as tokens have it; no text is no words at all."""
        raise NotImplementedError

    def mu(self, tokens: int, steps: int) -> float:
        """Return by how much the scheduler's times are shifted for so many tokens to draw."""
        raise NotImplementedError

    def forward(
        self,
        tokens: Tokens,
        t: float,
        ids: Ids,
        *,
        text: Embedding | None = None,
        attention_context: AttentionContext | None = None,
    ) -> Tokens:
        """Predict the velocity of tokens at time t by the stock forward."""
        batch = len(tokens)
        words, word_ids, others = self.text_inputs(text, tokens)
        has_guidance = self.transformer.config.guidance_embeds
        given = {"attention_context": attention_context} if attention_context is not None else None
        velocity: Tensor = self.transformer(
            hidden_states=tokens,
            encoder_hidden_states=words.expand(batch, -1, -1),
            timestep=tokens.new_full((batch,), t),
            guidance=tokens.new_full((batch,), self.guidance) if has_guidance else None,
            img_ids=ids,
            txt_ids=word_ids.to(tokens.device),
            joint_attention_kwargs=given,
            return_dict=False,
            **{name: x.expand(batch, -1) for name, x in others.items()},
        )[0]
        return velocity

    def times(self, tokens: int, steps: int) -> Float[Tensor, " times"]:
        """Return the time grid of the checkpoint's scheduler for so many tokens to draw."""
        scheduler, mu = self.pipeline.scheduler, self.mu(tokens, steps)
        if scheduler.config.get("use_flow_sigmas"):
            scheduler.set_timesteps(steps, mu=mu)
        else:
            scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps), mu=mu)
        return scheduler.sigmas.cpu()

    def shift(self, tokens: int, steps: int) -> float:
        """Return how far that grid leans to the noise, as `icgeo.sampling.shifted` takes it."""
        config = self.pipeline.scheduler.config
        is_dynamic = config.use_dynamic_shifting
        return math.exp(self.mu(tokens, steps)) if is_dynamic else float(config.shift)
