"""Wan, from a pipeline of diffusers: pairs as frames of a video whose last frames are masked.

Photo, map, photo, map, ..., the query's photo, and its map, which is to be filled in. An image is
one latent frame: 4 frames of the video, the first alone. VACE sees the known frames in its control
branch (Jiang et al. 2025); the 5B model of Wan 2.2 sees them in place of noise, at time 0. Nothing
is kept but pixels: all frames see each other at every step.

The pipelines' own scheduler, UniPC, steps by a method of second order; here its times are stepped
through by Euler.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from icgeo import layout, maps
from icgeo.models.prompts import Embedding, Prompts
from icgeo.models.references import Predict

TRAINING_TIMES = 1000
TEXT_TOKENS = 512
"""Wan was trained with instructions padded to so many; they are not trimmed."""

Video = Float[Tensor, "videos 3 frames height width"]
Latents = Float[Tensor, "videos channels latent_frames rows columns"]
Shown = Float[Tensor, "videos shown_channels latent_frames rows columns"]
"""Known frames; for VACE what is masked and the mask too, in more channels."""


@dataclass(frozen=True)
class WanBackbone:
    """A Wan 2.1 VACE, or a Wan 2.2 that takes a time for each token (TI2V-5B)."""

    pipeline: Any
    prompts: Prompts

    @property
    def patch(self) -> int:
        """Pixels a token, in each direction."""
        return self.scale * int(self.pipeline.transformer.config.patch_size[1])

    @property
    def scale(self) -> int:
        """Pixels a latent, in each direction."""
        return int(self.pipeline.vae_scale_factor_spatial)

    @property
    def has_control(self) -> bool:
        """Whether known frames go to a control branch, as in VACE."""
        return hasattr(self.pipeline.transformer, "vace_blocks")

    def _statistics(self) -> Float[Tensor, "two channels 1 1 1"]:
        """Mean and deviation of latents."""
        vae = self.pipeline.vae
        told = torch.tensor([vae.config.latents_mean, vae.config.latents_std])
        return rearrange(told.to(vae.device, vae.dtype), "two c -> two c 1 1 1")

    def encode(self, video: Video) -> Latents:
        """Encode videos in [-1, 1] to normalised latents."""
        vae = self.pipeline.vae
        mean, deviation = self._statistics()
        latents = vae.encode(video.to(vae.device, vae.dtype)).latent_dist.mode()
        return ((latents - mean) / deviation).to(self.pipeline.transformer.dtype)

    def decode(self, latents: Latents) -> Video:
        """Decode latents to videos in [0, 1]; in float32, unclipped."""
        mean, deviation = self._statistics()
        vae = self.pipeline.vae
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
        shown = {} if control is None else {"control_hidden_states": control}
        return self.pipeline.transformer(
            hidden_states=latents,
            timestep=TRAINING_TIMES * t,
            encoder_hidden_states=words.expand(len(latents), -1, -1),
            return_dict=False,
            **shown,
        )[0]

    def times(self, steps: int) -> Float[Tensor, " times"]:
        """Return the scheduler's times."""
        scheduler = self.pipeline.scheduler
        scheduler.set_timesteps(steps)
        return scheduler.sigmas.cpu()

    @property
    def shift(self) -> float:
        """How far that grid leans to the noise."""
        config = self.pipeline.scheduler.config
        return float(config.get("flow_shift") or config.get("shift") or 1.0)


@dataclass(frozen=True)
class Frames:
    """The layout `frames`; photos stand in the middle of frames as large as maps."""

    backbone: WanBackbone
    style: maps.MapStyle
    attention: str
    photo_size: int
    backend: str = "native"

    modes: ClassVar = ("full",)

    def __post_init__(self) -> None:
        # not set_attention_backend: it sets that of every other model in the process too
        for module in self.backbone.pipeline.transformer.modules():
            if hasattr(getattr(module, "processor", None), "_attention_backend"):
                module.processor._attention_backend = self.backend

    def latent_shape(self, shots: int) -> tuple[int, ...]:
        """Channels, latent frames, rows and columns of a video."""
        scale, config = self.backbone.scale, self.backbone.pipeline.vae.config
        size = (self.style.height // scale, self.style.width // scale)
        return config.z_dim, 2 * shots + 2, *size

    def times(self, shots: int, steps: int) -> Float[Tensor, " times"]:
        """Return the time grid."""
        return self.backbone.times(steps)

    def shift(self, shots: int, steps: int) -> float:
        """Return how far that grid leans to the noise."""
        return self.backbone.shift

    def answer(self, latents: Tensor) -> Tensor:
        """Cut out the map of what is drawn: the last frame."""
        return latents[..., -1:, :, :]

    def encode_pairs(
        self,
        photos: Float[Tensor, "examples 3 size size"],
        drawn: Float[Tensor, "examples 3 height width"],
    ) -> dict[str, Tensor]:
        """Keep the images of examples, in pixels."""
        shown = layout.framed(photos, self.style.height, self.style.width)
        return {"images": torch.stack((shown, drawn.to(shown)), dim=1)}

    def _video(self, kept: dict[str, Tensor], photos: Tensor, drawn: Tensor | None = None) -> Video:
        """Lay images on frames; a map that is not given is grey."""
        asked = layout.framed(photos, self.style.height, self.style.width)
        last = torch.full_like(asked, 0.5) if drawn is None else drawn.to(asked)
        pairs = kept["images"].to(asked) if kept else asked[:0, None].expand(-1, 2, -1, -1, -1)
        examples = repeat(pairs, "k pair c h w -> q (k pair) c h w", q=len(asked))
        images = torch.cat((examples, asked[:, None], last[:, None]), dim=1)
        frames = repeat(images[:, 1:], "q n c h w -> q c (n four) h w", four=4)
        return 2 * torch.cat((images[:, 0, :, None], frames), dim=2) - 1

    def encode_queries(
        self, kept: dict[str, Tensor], photos: Float[Tensor, "queries 3 size size"]
    ) -> Shown:
        """Encode the videos of queries: known frames, and for VACE what is masked."""
        video = self._video(kept, photos)
        known = self.backbone.encode(video)
        if not self.backbone.has_control:
            return known
        nothing = self.backbone.encode(torch.zeros_like(video))
        mask = torch.zeros_like(known[:, :1]).repeat(1, self.backbone.scale**2, 1, 1, 1)
        mask[:, :, -1] = 1
        return torch.cat((known, nothing, mask), dim=1)

    def encode_answers(
        self,
        kept: dict[str, Tensor],
        photos: Float[Tensor, "queries 3 size size"],
        drawn: Float[Tensor, "queries 3 height width"],
    ) -> Latents:
        """Encode the videos of queries with their maps, as targets."""
        return self.backbone.encode(self._video(kept, photos, drawn))

    def decode(
        self, latents: Float[Tensor, "queries samples channels latent_frames rows columns"]
    ) -> Float[Tensor, "queries samples 3 height width"]:
        """Decode videos; the map is the mean of the last four frames."""
        video = self.backbone.decode(rearrange(latents, "q s c f h w -> (q s) c f h w"))
        return rearrange(video[:, :, -4:].mean(2), "(q s) c h w -> q s c h w", q=len(latents))

    def predictor(self, kept: dict[str, Tensor], shots: int, asked: Shown) -> Predict:
        """Return the velocity of noisy videos."""
        one = self._controlled if self.backbone.has_control else self._in_place

        def predict(x: Tensor, t: float, text: Embedding) -> Tensor:
            noisy = rearrange(x, "q s c f h w -> (q s) c f h w")
            shown = repeat(asked, "q c f h w -> (q s) c f h w", s=x.shape[1])
            return one(noisy, t, text, shown).float().unflatten(0, x.shape[:2])

        return predict

    def _controlled(self, noisy: Latents, t: float, text: Embedding, shown: Shown) -> Latents:
        times = torch.full((len(noisy),), t, device=noisy.device)
        return self.backbone.forward(noisy.to(shown), times, text=text, control=shown)

    def _in_place(self, noisy: Latents, t: float, text: Embedding, shown: Shown) -> Latents:
        """Put known frames in place of noise, at time 0; their velocity leads back to them."""
        mixed = torch.cat((shown[:, :, :-1].to(noisy), noisy[:, :, -1:]), dim=2)
        rows, columns = self.backbone.pipeline.transformer.config.patch_size[1:]
        frame = mixed.shape[-2] // rows * (mixed.shape[-1] // columns)
        times = torch.zeros(len(noisy), frame * mixed.shape[2], device=noisy.device)
        times[:, -frame:] = t
        found = self.backbone.forward(mixed.to(shown), times, text=text)
        back = (noisy[:, :, :-1] - shown[:, :, :-1]) / t
        return torch.cat((back, found[:, :, -1:].to(back)), dim=2)


def embed_wan(pipeline: Any, words: str) -> Embedding:
    """Embed an instruction, padded as Wan was trained."""
    text, _ = pipeline.encode_prompt(
        words, do_classifier_free_guidance=False, max_sequence_length=TEXT_TOKENS
    )
    return {"encoder_hidden_states": text}
