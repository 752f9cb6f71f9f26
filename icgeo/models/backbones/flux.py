"""What the pipelines of FLUX.1 and FLUX.2 share: parts, codec, forward pass and scheduler.

The VAE works in its own precision, tokens have that of the transformer.
"""

import math
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from icgeo.models.attention import AttentionContext


def encode_images(pipeline: Any, images: Float[Tensor, "images 3 height width"]) -> Tensor:
    """Encode images in [0, 1] to the latents of a pipeline, [images, channels, rows, columns]."""
    pixels = 2 * images.to(pipeline.vae.device, pipeline.vae.dtype) - 1
    latents: Tensor = pipeline._encode_vae_image(pixels, generator=None)
    return latents.to(pipeline.transformer.dtype)


def decode_images(vae: Any, latents: Tensor) -> Float[Tensor, "images 3 height width"]:
    """Decode what the VAE encodes to images in [0, 1]; in float32, unclipped."""
    images: Tensor = vae.decode(latents, return_dict=False)[0]
    return (images.float() + 1) / 2


def run(
    transformer: Any,
    tokens: Float[Tensor, "batch tokens channels"],
    t: float,
    ids: Int[Tensor, "tokens axes"],
    *,
    text: tuple[Tensor, Tensor],
    guidance: float,
    attention_context: AttentionContext | None,
    **inputs: Tensor,
) -> Float[Tensor, "batch tokens channels"]:
    """Run the stock forward on embedded words with their places; what is of batch 1 is repeated."""
    batch, (words, word_ids) = len(tokens), text
    has_guidance = transformer.config.guidance_embeds
    given = {"attention_context": attention_context} if attention_context is not None else None
    velocity: Tensor = transformer(
        hidden_states=tokens,
        encoder_hidden_states=words.expand(batch, -1, -1),
        timestep=tokens.new_full((batch,), t),
        guidance=tokens.new_full((batch,), guidance) if has_guidance else None,
        img_ids=ids,
        txt_ids=word_ids.to(tokens.device),
        joint_attention_kwargs=given,
        return_dict=False,
        **{name: x.expand(batch, -1) for name, x in inputs.items()},
    )[0]
    return velocity


def scheduler_times(scheduler: Any, steps: int, mu: float) -> Float[Tensor, " times"]:
    """Return the scheduler's times, shifted by `mu`."""
    if scheduler.config.get("use_flow_sigmas"):
        scheduler.set_timesteps(steps, mu=mu)
    else:
        scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps), mu=mu)
    times: Tensor = scheduler.sigmas.cpu()
    return times


def scheduler_shift(scheduler: Any, mu: float) -> float:
    """Return how far those times lean to the noise."""
    config = scheduler.config
    return math.exp(mu) if config.use_dynamic_shifting else float(config.shift)
