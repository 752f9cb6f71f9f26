"""FLUX.2 klein and dev, and FLUX.1 Kontext, from pipelines of diffusers.

Images are in [0, 1]; tokens are latents in row order, normalised as the transformer expects them.
The VAE works in its own precision, tokens have that of the transformer. Pipelines take seconds to
import: only what is loaded is.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from icgeo.models.attention import AttentionContext, attention_kwargs
from icgeo.models.backbones import ArchitectureSpec, Config, PipelineBackbone, public_parts
from icgeo.models.backbones.tiny import EXAMPLE_IMAGE, grid_ids, text_ids
from icgeo.models.prompts import Embedding

Images = Float[Tensor, "images 3 height width"]
Tokens = Float[Tensor, "batch tokens channels"]
Grid = Float[Tensor, "images _ _ _"]
Ids = Int[Tensor, "tokens axes"]
TextInputs = tuple[Tensor, Tensor, dict[str, Tensor]]
"""Words for a transformer, their places, and its other inputs; all of batch 1."""


@dataclass(frozen=True)
class FluxBackbone(PipelineBackbone):
    """FLUX.2 klein or dev, whose VAE normalises latents by statistics of batches."""

    packed: ClassVar = 1
    """Places of latents, in each direction, that are joined in a token."""

    @property
    def patch(self) -> int:
        """Pixels a token, in each direction: those of the VAE, two by two."""
        return 2 * int(self.pipeline.vae_scale_factor)

    def encode(self, images: Images) -> Tokens:
        """Encode images as they are; stock pipelines resize them to about a megapixel."""
        pixels = 2 * images.to(self.device, self.codec.dtype) - 1
        latents: Tensor = self.pipeline._encode_vae_image(pixels, generator=None)
        latents, p = latents.to(self.transformer.dtype), self.packed
        return rearrange(latents, "n c (h p) (w q) -> n (h w) (c p q)", p=p, q=p)

    def decode(self, tokens: Tokens, *, rows: int) -> Images:
        """Decode tokens to images; in float32, unclipped."""
        tokens, p = tokens.to(self.codec.dtype), self.packed
        latents = rearrange(tokens, "n (h w) (c p q) -> n c (h p) (w q)", h=rows, p=p, q=p)
        images: Tensor = self.codec.decode(self.unscaled(latents), return_dict=False)[0]
        return (images.float() + 1) / 2

    def unscaled(self, latents: Grid) -> Grid:
        """Return what the VAE decodes of normalised latents."""
        norm, eps = self.codec.bn, self.codec.config.batch_norm_eps
        statistics = (norm.running_mean.to(latents), norm.running_var.to(latents))
        mean, variance = (x[:, None, None] for x in statistics)
        return self.pipeline._unpatchify_latents(latents * (variance + eps).sqrt() + mean)

    def ids(self, image: int, rows: int, columns: int) -> Ids:
        """Places of the tokens of an image: 0 is the one to draw, references count from 1."""
        ids = grid_ids(rows, columns, image=EXAMPLE_IMAGE * image)
        return ids.to(self.device)

    def text_inputs(self, text: Embedding | None, tokens: Tokens) -> TextInputs:
        """Return what an embedded text gives, as tokens have it; no text is no words at all."""
        words = tokens.new_zeros(1, 0, self.transformer.config.joint_attention_dim)
        if text is not None:
            words = text["encoder_hidden_states"].to(tokens)
        return words, text_ids(words.shape[1]), {}

    def mu(self, tokens: int, steps: int) -> float:
        """Return by how much the scheduler's times are shifted for so many tokens to draw."""
        from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu

        return compute_empirical_mu(image_seq_len=tokens, num_steps=steps)

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
        words, word_ids, extra_inputs = self.text_inputs(text, tokens)
        has_guidance = self.transformer.config.guidance_embeds
        return self.transformer(
            hidden_states=tokens,
            encoder_hidden_states=words.expand(batch, -1, -1),
            timestep=tokens.new_full((batch,), t),
            guidance=tokens.new_full((batch,), self.guidance) if has_guidance else None,
            img_ids=ids,
            txt_ids=word_ids.to(tokens.device),
            joint_attention_kwargs=attention_context
            and attention_kwargs(self.transformer, attention_context),
            return_dict=False,
            **{name: x.expand(batch, -1) for name, x in extra_inputs.items()},
        )[0]

    def times(self, tokens: int, steps: int) -> Float[Tensor, " times"]:
        """Return the time grid of the checkpoint's scheduler for so many tokens to draw."""
        scheduler, sigmas = self.pipeline.scheduler, np.linspace(1, 1 / steps, steps)
        scheduler.set_timesteps(sigmas=sigmas, mu=self.mu(tokens, steps))
        return scheduler.sigmas.cpu()

    def shift(self, tokens: int, steps: int) -> float:
        """Return how far that grid leans to the noise, as `icgeo.sampling.shifted` takes it."""
        config = self.pipeline.scheduler.config
        is_dynamic = config.use_dynamic_shifting
        return math.exp(self.mu(tokens, steps)) if is_dynamic else float(config.shift)


def embed_klein(pipeline: Any, words: str) -> Embedding:
    """Embed an instruction as the stock pipeline does: padded on the right to 512 tokens."""
    ids = pipeline.tokenizer.apply_chat_template(
        [{"role": "user", "content": words}],
        add_generation_prompt=True,
        enable_thinking=False,
        return_dict=True,
    )["input_ids"]
    text, _ = pipeline.encode_prompt(words)
    is_word = torch.arange(text.shape[1]) < len(ids)
    return {"encoder_hidden_states": text, "is_word": is_word[None]}


def embed_dev(pipeline: Any, words: str) -> Embedding:
    """Embed an instruction with FLUX.2 dev's system message, padded as the stock pipeline does.

    Its tokenizer pads on the left, so the words come last on the axis of places.
    """
    from diffusers.pipelines.flux2.pipeline_flux2 import format_input

    messages = format_input([words], system_message=pipeline.system_message)
    text, _ = pipeline.encode_prompt(words)
    padding_options = {"padding": "max_length", "truncation": True, "max_length": text.shape[1]}
    tokens = pipeline.tokenizer.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_tensors="pt", **padding_options
    )
    return {"encoder_hidden_states": text, "is_word": tokens["attention_mask"].bool()}


@dataclass(frozen=True)
class KontextBackbone(FluxBackbone):
    """FLUX.1 Kontext; references count on the first axis of places, as its one reference does.

    A pooled embedding of the instruction, or of the empty one, is in its modulation.
    """

    guidance: float = 2.5
    layouts: ClassVar = ("panel", "references", "pair", "sheet")
    packed: ClassVar = 2
    takes_references: ClassVar = False

    def unscaled(self, latents: Grid) -> Grid:
        """Undo the scale."""
        return latents / self.codec.config.scaling_factor + self.codec.config.shift_factor

    def ids(self, image: int, rows: int, columns: int) -> Ids:
        """Return places on (image, row, column)."""
        axes = (torch.tensor([image]), torch.arange(rows), torch.arange(columns))
        return torch.cartesian_prod(*axes).to(self.device)

    def text_inputs(self, text: Embedding | None, tokens: Tokens) -> TextInputs:
        """Return words, their places, and what is pooled of them."""
        embedding = self.prompts("") if text is None else text
        words = embedding["encoder_hidden_states"].to(tokens)
        words = words[:, :0] if text is None else words
        pooled = embedding["pooled_projections"].to(tokens)
        return words, torch.zeros(words.shape[1], 3), {"pooled_projections": pooled}

    def mu(self, tokens: int, steps: int) -> float:
        """Return the shift between those of the scheduler's shortest and longest sequence."""
        from diffusers.pipelines.flux.pipeline_flux_kontext import calculate_shift

        names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
        config = self.pipeline.scheduler.config
        return float(calculate_shift(tokens, *(config.get(name) for name in names)))


def embed_kontext(pipeline: Any, words: str) -> Embedding:
    """Embed an instruction as the stock pipeline does: T5 pads to 512 tokens, CLIP reads 77."""
    length = len(pipeline.tokenizer_2(words)["input_ids"])
    text, pooled, _ = pipeline.encode_prompt(words, None)
    is_word = torch.arange(text.shape[1]) < length
    return {"encoder_hidden_states": text, "pooled_projections": pooled, "is_word": is_word[None]}


def _cost(config: Config, width: int) -> tuple[int, float]:
    blocks = int(config["num_layers"] + config["num_single_layers"])
    return blocks, (26.0 if "mlp_ratio" in config else 24.0) * width**2 * blocks


_SEPARATE = r"to_[qkv]|to_out\.0"
_DOUBLE = rf"transformer_blocks\.\d+\.attn\.({_SEPARATE}|add_[qkv]_proj|to_add_out)"
_TARGETS = rf"{_DOUBLE}|single_transformer_blocks\.\d+\.attn\.(to_qkv_mlp_proj|to_out)"
_TARGETS_1 = rf"{_DOUBLE}|single_transformer_blocks\.\d+\.(attn\.to_[qkv]|proj_mlp|proj_out)"


def flux2_sizes(double: int, single: int, *, heads: int, text: int) -> dict[str, Any]:
    """Return the configuration of a transformer of FLUX.2, as far as it is not the default's."""
    sizes = {"num_layers": double, "num_single_layers": single, "num_attention_heads": heads}
    config = {"_class_name": "Flux2Transformer2DModel", "guidance_embeds": False}
    return {**config, **sizes, "joint_attention_dim": text}


KLEIN_4B = flux2_sizes(5, 20, heads=24, text=7680)
KLEIN_9B = flux2_sizes(8, 24, heads=32, text=12288)
KONTEXT_12B = {"_class_name": "FluxTransformer2DModel", "guidance_embeds": True}


VAE = {"_class_name": "AutoencoderKLFlux2"}
KONTEXT_VAE = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": 4 * ("DownEncoderBlock2D",),
    "up_block_types": 4 * ("UpDecoderBlock2D",),
    "layers_per_block": 2,
    "latent_channels": 16,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}


KLEIN = ArchitectureSpec(
    transformer="Flux2Transformer2DModel",
    pipelines=("Flux2KleinPipeline",),
    backbone=FluxBackbone,
    embed=embed_klein,
    targets=_TARGETS,
    # halvings, and latents two by two
    patch=lambda vae: 2 ** len(vae.get("block_out_channels", range(4))),
    codec=lambda vae: 6 * vae["block_out_channels"][0],
    cost=_cost,
    guidance_scale=4.0,
    references=4,
    public={
        f"black-forest-labs/FLUX.2-klein-{name}": public_parts(
            "Flux2KleinPipeline",
            KLEIN_4B if "4B" in name else KLEIN_9B,
            VAE,
            is_distilled="base" not in name,
        )
        for name in ("4B", "base-4B", "9B", "base-9B")
    },
)
KLEIN_KV = replace(
    KLEIN,
    pipelines=("Flux2KleinKVPipeline",),
    loader="Flux2KleinPipeline",  # the other's attention processors would take the place of ours
    attention="joint",
    is_distilled=True,
    public={
        "black-forest-labs/FLUX.2-klein-9b-kv": public_parts("Flux2KleinKVPipeline", KLEIN_9B, VAE)
    },
)
DEV_32B = flux2_sizes(8, 48, heads=48, text=15360) | {"guidance_embeds": True}
DEV = replace(
    KLEIN,
    pipelines=("Flux2Pipeline",),
    embed=embed_dev,
    guidance_scale=1.0,
    embedded_guidance=4.0,
    references=6,
    public={"black-forest-labs/FLUX.2-dev": public_parts("Flux2Pipeline", DEV_32B, VAE)},
)
KONTEXT = replace(
    KLEIN,
    transformer="FluxTransformer2DModel",
    pipelines=("FluxKontextPipeline",),
    backbone=KontextBackbone,
    embed=embed_kontext,
    targets=_TARGETS_1,
    guidance_scale=1.0,
    embedded_guidance=2.5,
    references=1,
    public={
        "black-forest-labs/FLUX.1-Kontext-dev": public_parts(
            "FluxKontextPipeline", KONTEXT_12B, KONTEXT_VAE
        )
    },
)
SPECS = (KLEIN, KLEIN_KV, DEV, KONTEXT)
