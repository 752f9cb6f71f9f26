"""FLUX.1 Kontext, from a pipeline of diffusers.

Its checkpoint takes guidance as an input and a pooled embedding of the instruction in its
modulation. Examples that see no instruction are modulated by that of the empty one.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.flux.pipeline_flux_kontext import calculate_shift
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from icgeo.models.attention import AttentionContext
from icgeo.models.instructions import TASK
from icgeo.models.prompts import Embedding, Prompts


@dataclass(frozen=True)
class KontextBackbone:
    """FLUX.1 Kontext; references count on the first axis of places, as its one reference does."""

    pipeline: Any
    prompts: Prompts
    guidance: float = 2.5

    @property
    def patch(self) -> int:
        """Pixels a token: those of the VAE, two by two."""
        return 2 * int(self.pipeline.vae_scale_factor)

    def encode(
        self, images: Float[Tensor, "images 3 height width"]
    ) -> Float[Tensor, "images tokens channels"]:
        """Encode images as they are; stock pipelines resize them to about a megapixel."""
        pipeline = self.pipeline
        shown = 2 * images.to(pipeline.vae.device, pipeline.vae.dtype) - 1
        latents = pipeline._encode_vae_image(shown, generator=None)
        tokens = rearrange(latents, "n c (h p) (w q) -> n (h w) (c p q)", p=2, q=2)
        return tokens.to(pipeline.transformer.dtype)

    def decode(
        self, tokens: Float[Tensor, "images tokens channels"], *, rows: int
    ) -> Float[Tensor, "images 3 height width"]:
        """Decode tokens in the VAE's own precision."""
        vae = self.pipeline.vae
        latents = rearrange(
            tokens.to(vae.dtype), "n (h w) (c p q) -> n c (h p) (w q)", h=rows, p=2, q=2
        )
        latents = latents / vae.config.scaling_factor + vae.config.shift_factor
        return (vae.decode(latents, return_dict=False)[0].float() + 1) / 2

    def ids(self, image: int, rows: int, columns: int) -> Int[Tensor, "tokens 3"]:
        """Places on (image, row, column)."""
        axes = (torch.tensor([image]), torch.arange(rows), torch.arange(columns))
        return torch.cartesian_prod(*axes).to(self.pipeline.transformer.device)

    def forward(
        self,
        tokens: Float[Tensor, "batch tokens channels"],
        t: float,
        ids: Int[Tensor, "tokens 3"],
        *,
        text: Embedding | None = None,
        attention_context: AttentionContext | None = None,
    ) -> Float[Tensor, "batch tokens channels"]:
        """Run the stock forward."""
        transformer = self.pipeline.transformer
        told = self.prompts("") if text is None else text
        words, pooled = (
            told[name].to(tokens) for name in ("encoder_hidden_states", "pooled_projections")
        )
        if text is None:
            words = words[:, :0]
        guidance = tokens.new_full((len(tokens),), self.guidance)
        return transformer(
            hidden_states=tokens,
            encoder_hidden_states=words.expand(len(tokens), -1, -1),
            pooled_projections=pooled.expand(len(tokens), -1),
            timestep=tokens.new_full((len(tokens),), t),
            guidance=guidance if transformer.config.guidance_embeds else None,
            img_ids=ids,
            txt_ids=torch.zeros(words.shape[1], 3, device=tokens.device),
            joint_attention_kwargs=None
            if attention_context is None
            else {"attention_context": attention_context},
            return_dict=False,
        )[0]

    def times(self, tokens: int, steps: int) -> Float[Tensor, " times"]:
        """Return the scheduler's times, shifted by the number of tokens."""
        scheduler = self.pipeline.scheduler
        scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps), mu=self._mu(tokens))
        return scheduler.sigmas.cpu()

    def shift(self, tokens: int, steps: int) -> float:
        """Return how far that grid leans to the noise."""
        config = self.pipeline.scheduler.config
        return math.exp(self._mu(tokens)) if config.use_dynamic_shifting else float(config.shift)

    def _mu(self, tokens: int) -> float:
        config = self.pipeline.scheduler.config
        names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
        return float(calculate_shift(tokens, *(config.get(name) for name in names)))


def embed_kontext(pipeline: Any, words: str) -> Embedding:
    """Embed an instruction: its task pooled by CLIP, all by T5, without the stock padding."""
    length = len(pipeline.tokenizer_2(words)["input_ids"])
    short = TASK if words else ""  # CLIP reads 77 tokens
    text, pooled, _ = pipeline.encode_prompt(short, words, max_sequence_length=length)
    return {"encoder_hidden_states": text, "pooled_projections": pooled}
