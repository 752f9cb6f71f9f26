"""Wan, from a pipeline of diffusers.

An image is one latent frame: 4 frames of the video, the first alone. VACE sees the known frames in
its control branch (Jiang et al. 2025); the 5B model of Wan 2.2 sees them in place of noise, at time
0. All frames see each other at every step, which is of Euler, on the times of the stock scheduler.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from icgeo.models.backbones import ArchitectureSpec, Config, PipelineBackbone, public_parts
from icgeo.models.hub import LoadError
from icgeo.models.prompts import Embedding

Video = Float[Tensor, "videos 3 frames height width"]
Latents = Float[Tensor, "videos channels latent_frames rows columns"]
Shown = Float[Tensor, "videos shown_channels latent_frames rows columns"]
"""Known frames; for VACE what is masked and the mask too, in more channels."""


@dataclass(frozen=True)
class WanBackbone(PipelineBackbone):
    """A Wan 2.1 VACE, or a Wan 2.2 that takes a time for each token (TI2V-5B)."""

    layouts: ClassVar[tuple[str, ...]] = ("frames",)

    @property
    def patch(self) -> int:
        """Pixels a token, in each direction."""
        return self.scale * int(self.transformer.config.patch_size[1])

    @property
    def scale(self) -> int:
        """Pixels a latent, in each direction."""
        return int(self.pipeline.vae_scale_factor_spatial)

    @property
    def has_control(self) -> bool:
        """Whether known frames go to a control branch, as in VACE."""
        return hasattr(self.pipeline.transformer, "vace_blocks")

    def encode(self, video: Video) -> Latents:
        """Encode videos in [-1, 1] to normalised latents."""
        vae, (mean, deviation) = self.codec, self.statistics()
        latents = vae.encode(video.to(self.device, vae.dtype)).latent_dist.mode()
        return ((latents - mean) / deviation).to(self.transformer.dtype)

    def decode(self, latents: Latents) -> Video:
        """Decode latents to videos in [0, 1]; in float32, unclipped."""
        vae, (mean, deviation) = self.codec, self.statistics()
        video = vae.decode(latents.to(vae.dtype) * deviation + mean, return_dict=False)[0]
        return (video.float() + 1) / 2

    def forward(
        self,
        latents: Latents,
        t: Float[Tensor, " videos"] | Float[Tensor, "videos tokens"],
        *,
        text: Embedding,
        control: Shown | None = None,
    ) -> Latents:
        """Run the stock forward; `t` is one time, or one for each token."""
        words = text["encoder_hidden_states"].to(latents)
        control_inputs = {} if control is None else {"control_hidden_states": control}
        return self.transformer(
            hidden_states=latents,
            timestep=1000 * t,
            encoder_hidden_states=words.expand(len(latents), -1, -1),
            return_dict=False,
            **control_inputs,
        )[0]

    def times(self, tokens: int, steps: int) -> Float[Tensor, " times"]:
        """Return the scheduler's times; they are the same for any number of tokens."""
        self.pipeline.scheduler.set_timesteps(steps)
        return self.pipeline.scheduler.sigmas.cpu()

    def shift(self, tokens: int, steps: int) -> float:
        """Return how far that grid leans to the noise."""
        config = self.pipeline.scheduler.config
        return float(config.get("flow_shift") or config.get("shift") or 1.0)


def embed_wan(pipeline: Any, words: str) -> Embedding:
    """Embed an instruction, padded to 512 tokens as Wan was trained; it is not trimmed."""
    options = {"do_classifier_free_guidance": False, "max_sequence_length": 512}
    text, _ = pipeline.encode_prompt(words, **options)
    return {"encoder_hidden_states": text}


def _check(index: Config, source: str | Path) -> None:
    """Raise LoadError for a Wan that takes no known frames."""
    if index.get("boundary_ratio") is not None:
        raise LoadError(f"expected a Wan of one transformer in {source}, got one of two")
    if index["_class_name"] != "WanVACEPipeline" and not index.get("expand_timesteps"):
        raise LoadError(
            f"expected a Wan that takes known frames, VACE or 2.2 TI2V-5B, in {source}, got "
            "one that does not"
        )


def _cost(config: Config, width: int) -> tuple[int, float]:
    """Count cross-attention too, and in VACE the branch of control."""
    blocks = config["num_layers"] + len(config.get("vace_layers", ()))
    return blocks, blocks * width * (12.0 * width + 4 * config["ffn_dim"])


VACE_14B: dict[str, Any] = {"_class_name": "WanVACETransformer3DModel"}
VACE_1_3B = {
    **VACE_14B,
    "num_layers": 30,
    "num_attention_heads": 12,
    "ffn_dim": 8960,
    "vace_layers": [*range(0, 30, 2)],
}
TI2V_5B = {
    "_class_name": "WanTransformer3DModel",
    "num_layers": 30,
    "num_attention_heads": 24,
    "ffn_dim": 14336,
    "in_channels": 48,
    "out_channels": 48,
}
VAE: dict[str, Any] = {"_class_name": "AutoencoderKLWan"}
TI2V_VAE = {
    **VAE,
    "base_dim": 160,
    "decoder_base_dim": 256,
    "z_dim": 48,
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_spatial": 16,
}
VACE = ArchitectureSpec(
    transformer="WanVACETransformer3DModel",
    pipelines=("WanVACEPipeline",),
    backbone=WanBackbone,
    embed=embed_wan,
    targets=r"(vace_)?blocks\.\d+\.attn[12]\.(to_[qkv]|to_out\.0)",
    patch=lambda vae: 2 * int(vae.get("scale_factor_spatial") or 8),
    codec=lambda vae: 52 * vae["base_dim"],
    cost=_cost,
    check=_check,
    guidance_scale=5.0,
    public={
        "Wan-AI/Wan2.1-VACE-1.3B-diffusers": public_parts("WanVACEPipeline", VACE_1_3B, VAE),
        "Wan-AI/Wan2.1-VACE-14B-diffusers": public_parts("WanVACEPipeline", VACE_14B, VAE),
    },
)
TI2V = replace(
    VACE,
    transformer="WanTransformer3DModel",
    pipelines=("WanPipeline", "WanImageToVideoPipeline"),
    codec=lambda vae: 21.4 * (vae["decoder_base_dim"] or vae["base_dim"]),
    public={
        "Wan-AI/Wan2.2-TI2V-5B-Diffusers": public_parts(
            "WanPipeline", TI2V_5B, TI2V_VAE, expand_timesteps=True
        )
    },
)
SPECS = (VACE, TI2V)
