"""FLUX.2 klein and dev, from pipelines of diffusers."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu, format_input
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from icgeo.models.attention import AttentionContext
from icgeo.models.backbones.tiny import EXAMPLE_IMAGE, grid_ids, text_ids
from icgeo.models.prompts import Embedding, Prompts


@dataclass(frozen=True)
class Flux2Backbone:
    """FLUX.2 klein or dev, from a pipeline of diffusers."""

    pipeline: Any
    prompts: Prompts
    guidance: float = 1.0
    """What dev is told as its guidance; klein takes none."""

    @property
    def patch(self) -> int:
        """Pixels a token: those of the VAE, two by two."""
        return 2 * int(self.pipeline.vae_scale_factor)

    def encode(
        self, images: Float[Tensor, "images 3 height width"]
    ) -> Float[Tensor, "images tokens channels"]:
        """Encode images; the VAE's statistics of batches normalise them."""
        pipeline = self.pipeline
        shown = 2 * images.to(pipeline.vae.device, pipeline.vae.dtype) - 1
        latents = pipeline._encode_vae_image(shown, generator=None)
        return rearrange(latents, "n c h w -> n (h w) c").to(pipeline.transformer.dtype)

    def decode(
        self, tokens: Float[Tensor, "images tokens channels"], *, rows: int
    ) -> Float[Tensor, "images 3 height width"]:
        """Decode tokens in the VAE's own precision."""
        vae = self.pipeline.vae
        deviation = (vae.bn.running_var + vae.config.batch_norm_eps).sqrt()
        grid = rearrange(
            tokens.to(vae.dtype) * deviation + vae.bn.running_mean,
            "n (h w) c -> n c h w",
            h=rows,
        )
        images = vae.decode(self.pipeline._unpatchify_latents(grid), return_dict=False)[0]
        return (images.float() + 1) / 2

    def ids(self, image: int, rows: int, columns: int) -> Int[Tensor, "tokens 4"]:
        """Places on (image, row, column, 0)."""
        places = grid_ids(rows, columns, image=EXAMPLE_IMAGE * image)
        return places.to(self.pipeline.transformer.device)

    def forward(
        self,
        tokens: Float[Tensor, "batch tokens channels"],
        t: float,
        ids: Int[Tensor, "tokens 4"],
        *,
        text: Embedding | None = None,
        attention_context: AttentionContext | None = None,
    ) -> Float[Tensor, "batch tokens channels"]:
        """Run the stock forward."""
        transformer = self.pipeline.transformer
        words = tokens.new_zeros(1, 0, transformer.config.joint_attention_dim)
        if text is not None:
            words = text["encoder_hidden_states"].to(tokens)
        guidance = tokens.new_full((len(tokens),), self.guidance)
        return transformer(
            hidden_states=tokens,
            encoder_hidden_states=words.expand(len(tokens), -1, -1),
            timestep=tokens.new_full((len(tokens),), t),
            guidance=guidance if transformer.config.guidance_embeds else None,
            img_ids=ids,
            txt_ids=text_ids(words.shape[1]).to(tokens.device),
            joint_attention_kwargs=None
            if attention_context is None
            else {"attention_context": attention_context},
            return_dict=False,
        )[0]

    def times(self, tokens: int, steps: int) -> Float[Tensor, " times"]:
        """Return the scheduler's times, shifted by the number of tokens and steps."""
        scheduler = self.pipeline.scheduler
        given = (
            {}
            if scheduler.config.get("use_flow_sigmas")
            else {"sigmas": np.linspace(1, 1 / steps, steps)}
        )
        mu = compute_empirical_mu(image_seq_len=tokens, num_steps=steps)
        scheduler.set_timesteps(None if given else steps, mu=mu, **given)
        return scheduler.sigmas.cpu()

    def shift(self, tokens: int, steps: int) -> float:
        """Return how far that grid leans to the noise."""
        config = self.pipeline.scheduler.config
        if not config.use_dynamic_shifting:
            return float(config.shift)
        return math.exp(compute_empirical_mu(image_seq_len=tokens, num_steps=steps))


def embed_klein(pipeline: Any, words: str) -> Embedding:
    """Embed an instruction, trimmed to its real tokens: stock pipelines pad to 512 and attend."""
    ids = pipeline.tokenizer.apply_chat_template(
        [{"role": "user", "content": words}],
        add_generation_prompt=True,
        enable_thinking=False,
        return_dict=True,
    )["input_ids"]
    text, _ = pipeline.encode_prompt(words, max_sequence_length=len(ids))
    return {"encoder_hidden_states": text}


def embed_dev(pipeline: Any, words: str) -> Embedding:
    """Embed an instruction with FLUX.2 dev's system message, trimmed to its real tokens."""
    messages = format_input([words], system_message=pipeline.system_message)
    ids = pipeline.tokenizer.apply_chat_template(
        messages, add_generation_prompt=False, tokenize=True, return_dict=True
    )["input_ids"][0]
    text, _ = pipeline.encode_prompt(words, max_sequence_length=len(ids))
    return {"encoder_hidden_states": text}
