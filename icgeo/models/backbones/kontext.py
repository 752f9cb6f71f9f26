"""FLUX.1 Kontext, from a pipeline of diffusers.

Its checkpoint takes guidance as an input and a pooled embedding of the instruction in its
modulation. Examples that see no instruction are modulated by that of the empty one.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers.pipelines.flux.pipeline_flux_kontext import calculate_shift
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from icgeo.models.attention import AttentionContext
from icgeo.models.backbones.backbone import PipelineBackbone
from icgeo.models.backbones.flux import (
    decode_images,
    encode_images,
    run,
    scheduler_shift,
    scheduler_times,
)
from icgeo.models.instructions import TASK
from icgeo.models.prompts import Embedding


@dataclass(frozen=True)
class KontextBackbone(PipelineBackbone):
    """FLUX.1 Kontext; references count on the first axis of places, as its one reference does."""

    guidance: float = 2.5

    layouts: ClassVar[tuple[str, ...]] = ("references", "panel")

    @property
    def patch(self) -> int:
        """Pixels a token: those of the VAE, two by two."""
        return 2 * int(self.pipeline.vae_scale_factor)

    def encode(
        self, images: Float[Tensor, "images 3 height width"]
    ) -> Float[Tensor, "images tokens channels"]:
        """Encode images as they are; stock pipelines resize them to about a megapixel."""
        latents = encode_images(self.pipeline, images)
        return rearrange(latents, "n c (h p) (w q) -> n (h w) (c p q)", p=2, q=2)

    def decode(
        self, tokens: Float[Tensor, "images tokens channels"], *, rows: int
    ) -> Float[Tensor, "images 3 height width"]:
        """Decode tokens."""
        vae = self.codec
        latents = rearrange(
            tokens.to(vae.dtype), "n (h w) (c p q) -> n c (h p) (w q)", h=rows, p=2, q=2
        )
        latents = latents / vae.config.scaling_factor + vae.config.shift_factor
        return decode_images(vae, latents)

    def ids(self, image: int, rows: int, columns: int) -> Int[Tensor, "tokens 3"]:
        """Places on (image, row, column)."""
        axes = (torch.tensor([image]), torch.arange(rows), torch.arange(columns))
        return torch.cartesian_prod(*axes).to(self.transformer.device)

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
        embedding = self.prompts("") if text is None else text
        words = embedding["encoder_hidden_states"].to(tokens)
        words = words[:, :0] if text is None else words
        return run(
            self.transformer, tokens, t, ids,
            text=(words, torch.zeros(words.shape[1], 3)), guidance=self.guidance,
            attention_context=attention_context,
            pooled_projections=embedding["pooled_projections"].to(tokens),
        )  # fmt: skip

    def times(self, tokens: int, steps: int) -> Float[Tensor, " times"]:
        """Return the scheduler's times, shifted by the number of tokens."""
        return scheduler_times(self.pipeline.scheduler, steps, self._mu(tokens))

    def shift(self, tokens: int, steps: int) -> float:
        """Return how far that grid leans to the noise."""
        return scheduler_shift(self.pipeline.scheduler, self._mu(tokens))

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
