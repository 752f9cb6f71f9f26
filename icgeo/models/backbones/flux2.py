"""FLUX.2 klein and dev, from pipelines of diffusers."""

from dataclasses import dataclass
from typing import Any, ClassVar

from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu, format_input
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
from icgeo.models.backbones.tiny import EXAMPLE_IMAGE, grid_ids, text_ids
from icgeo.models.prompts import Embedding


@dataclass(frozen=True)
class Flux2Backbone(PipelineBackbone):
    """FLUX.2 klein or dev, from a pipeline of diffusers."""

    guidance: float = 1.0
    """What dev is told as its guidance; klein takes none."""

    layouts: ClassVar[tuple[str, ...]] = ("references", "panel")

    @property
    def patch(self) -> int:
        """Pixels a token: those of the VAE, two by two."""
        return 2 * int(self.pipeline.vae_scale_factor)

    def encode(
        self, images: Float[Tensor, "images 3 height width"]
    ) -> Float[Tensor, "images tokens channels"]:
        """Encode images; the VAE's statistics of batches normalise them."""
        return rearrange(encode_images(self.pipeline, images), "n c h w -> n (h w) c")

    def decode(
        self, tokens: Float[Tensor, "images tokens channels"], *, rows: int
    ) -> Float[Tensor, "images 3 height width"]:
        """Decode tokens."""
        vae = self.codec
        deviation = (vae.bn.running_var + vae.config.batch_norm_eps).sqrt()
        grid = rearrange(
            tokens.to(vae.dtype) * deviation + vae.bn.running_mean, "n (h w) c -> n c h w", h=rows
        )
        return decode_images(vae, self.pipeline._unpatchify_latents(grid))

    def ids(self, image: int, rows: int, columns: int) -> Int[Tensor, "tokens 4"]:
        """Places on (image, row, column, 0)."""
        places = grid_ids(rows, columns, image=EXAMPLE_IMAGE * image)
        return places.to(self.transformer.device)

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
        words = tokens.new_zeros(1, 0, self.transformer.config.joint_attention_dim)
        if text is not None:
            words = text["encoder_hidden_states"].to(tokens)
        return run(
            self.transformer, tokens, t, ids,
            text=(words, text_ids(words.shape[1])), guidance=self.guidance,
            attention_context=attention_context,
        )  # fmt: skip

    def times(self, tokens: int, steps: int) -> Float[Tensor, " times"]:
        """Return the scheduler's times, shifted by the number of tokens and steps."""
        mu = compute_empirical_mu(image_seq_len=tokens, num_steps=steps)
        return scheduler_times(self.pipeline.scheduler, steps, mu)

    def shift(self, tokens: int, steps: int) -> float:
        """Return how far that grid leans to the noise."""
        mu = compute_empirical_mu(image_seq_len=tokens, num_steps=steps)
        return scheduler_shift(self.pipeline.scheduler, mu)


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
