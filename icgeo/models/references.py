"""FLUX.2 klein, shown pairs as reference images, as diffusers stores it.

In the layout `references` photo and map of a pair are images of their own, with places of their own
on the first axis, in the order of stock pipelines: photo, map, photo, map, ..., the query's photo.
So the mode `full` computes what `Flux2KleinPipeline` computes for the same images. The pipeline
loads, encodes and schedules; the denoising is here, for theirs can neither keep a context nor
batch different queries.
"""

import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import Flux2KleinPipeline
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from einops import rearrange, repeat
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from icgeo import layout, maps, sampling
from icgeo.models.base import Context, LoadError, Settings
from icgeo.models.flux2 import grid_ids, text_ids
from icgeo.models.prefix import Kept, Seen, Sight, install

SPACING = 10
"""Distance of images on the first axis, as in diffusers' `_prepare_image_ids`."""
MODES = ("full", "joint", "pairwise")
SETTINGS = Settings(
    style=maps.MapStyle.marker(),
    prompts=(layout.EARTH, layout.UNKNOWN),
    default_prompt=layout.EARTH,
    layout="references",
    attention="joint",
    steps=4,
    samples=4,
)
"""What a checkpoint without `icgeo.json` is taken for; not calibrated."""


@dataclass(frozen=True)
class ReferenceMapModel:
    """A FLUX.2 klein that draws maps, from a diffusers pipeline."""

    pipeline: Flux2KleinPipeline
    settings: Settings = SETTINGS
    name: str = "klein"
    photo_size: int = 256
    texts: dict[str, Tensor] = field(default_factory=dict)
    """Embeddings of prompts, each computed once."""

    def __post_init__(self) -> None:
        install(self.pipeline.transformer)

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.bfloat16,
        revision: str | None = None,
    ) -> "ReferenceMapModel":
        """Load a pipeline folder or hub id; the VAE stays in float32, for maps are measured."""
        pipeline = Flux2KleinPipeline.from_pretrained(
            source, dtype={"default": dtype, "vae": torch.float32}, revision=revision
        )
        own = Path(source) / "icgeo.json"
        settings = Settings.read(own) if own.is_file() else SETTINGS
        for part in (pipeline.transformer, pipeline.vae, pipeline.text_encoder):
            part.eval().requires_grad_(False)
        return cls(pipeline.to(device), settings, str(source))

    def choosing(
        self, *, attention: str | None = None, style: maps.MapStyle | None = None
    ) -> "ReferenceMapModel":
        """Return the same model with another mode of attention or style of maps.

        Raises:
            LoadError: an unknown mode, or maps that are no whole number of tokens.
        """
        attention, style = attention or self.settings.attention, style or self.settings.style
        patch = 2 * self.pipeline.vae_scale_factor
        if attention not in MODES:
            raise LoadError(f"expected attention of {MODES}, got {attention!r}")
        if style.height % patch or style.width % patch:
            raise LoadError(
                f"expected maps of multiples of {patch} pixels, got {style.height} x {style.width}"
            )
        return replace(self, settings=replace(self.settings, attention=attention, style=style))

    @cached_property
    def made_by(self) -> dict[str, str]:
        """What a context depends on beside its examples."""
        return {
            "model": self.name,
            "dtype": str(self.pipeline.transformer.dtype),
            "style": json.dumps(self.settings.style.to_dict()),
            "layout": self.settings.layout,
            "attention": self.settings.attention,
        }

    @torch.no_grad()
    def text(self, prompt: str, *, shots: int) -> Float[Tensor, "1 length width"]:
        """Embed the instruction, trimmed to its real tokens; "" is no instruction."""
        words = layout.words(prompt, shots=shots) if prompt else ""
        if words not in self.texts:
            ids = self.pipeline.tokenizer.apply_chat_template(
                [{"role": "user", "content": words}],
                add_generation_prompt=True,
                enable_thinking=False,
                return_dict=True,
            )["input_ids"]
            self.texts[words], _ = self.pipeline.encode_prompt(words, max_sequence_length=len(ids))
        return self.texts[words]

    @torch.no_grad()
    def encode_images(
        self, images: Float[Tensor, "*batch 3 height width"]
    ) -> Float[Tensor, "*batch tokens channels"]:
        """Encode images in [0, 1] to latents, normalised as the transformer expects them."""
        vae = self.pipeline.vae
        flat = images.reshape(-1, *images.shape[-3:]).to(vae.device, vae.dtype)
        latents = self.pipeline._encode_vae_image(2 * flat - 1, generator=None)
        tokens = rearrange(latents, "n c h w -> n (h w) c").to(self.pipeline.transformer.dtype)
        return tokens.unflatten(0, images.shape[:-3])

    def decode_maps(
        self, latents: Float[Tensor, "queries samples tokens channels"]
    ) -> Float[Tensor, "queries samples 3 height width"]:
        """Decode latents to maps; in float32, unclipped."""
        vae = self.pipeline.vae
        rows, _ = self._grid(self.settings.style.height, self.settings.style.width)
        grid = rearrange(latents.to(vae.dtype), "q s (h w) c -> (q s) c h w", h=rows)
        deviation = (vae.bn.running_var + vae.config.batch_norm_eps).sqrt()
        grid = grid * rearrange(deviation, "c -> c 1 1") + rearrange(
            vae.bn.running_mean, "c -> c 1 1"
        )
        images = vae.decode(self.pipeline._unpatchify_latents(grid), return_dict=False)[0]
        return rearrange((images.float() + 1) / 2, "(q s) c h w -> q s c h w", q=len(latents))

    def _grid(self, height: int, width: int) -> tuple[int, int]:
        patch = 2 * self.pipeline.vae_scale_factor
        return height // patch, width // patch

    def _ids(self, place: int, *, of_map: bool) -> Int[Tensor, "tokens 4"]:
        style = self.settings.style
        size = (style.height, style.width) if of_map else (self.photo_size, self.photo_size)
        rows, columns = self._grid(*size)
        ids = grid_ids(rows, columns, image=SPACING * place)
        return ids.to(self.pipeline.transformer.device)

    def _pair_ids(self, shots: int) -> Int[Tensor, "tokens 4"]:
        pairs = [
            (self._ids(2 * i + 1, of_map=False), self._ids(2 * i + 2, of_map=True))
            for i in range(shots)
        ]
        return torch.cat([ids for pair in pairs for ids in pair])

    def reference_ids(self, shots: int) -> Int[Tensor, "tokens 4"]:
        """Places of the tokens of all examples and of the query's photo behind them."""
        asked = self._ids(2 * shots + 1, of_map=False)
        return torch.cat((self._pair_ids(shots), asked)) if shots else asked

    def _forward(
        self,
        tokens: Float[Tensor, "batch tokens channels"],
        t: float,
        ids: Int[Tensor, "tokens 4"],
        *,
        text: Float[Tensor, "1 length width"] | None = None,
        sight: Sight | None = None,
    ) -> Float[Tensor, "batch tokens channels"]:
        transformer = self.pipeline.transformer
        if text is None:
            text = tokens.new_zeros(1, 0, transformer.config.joint_attention_dim)
        return transformer(
            hidden_states=tokens,
            encoder_hidden_states=text.to(tokens.dtype).expand(len(tokens), -1, -1),
            timestep=tokens.new_full((len(tokens),), t),
            img_ids=ids,
            txt_ids=text_ids(text.shape[1]).to(tokens.device),
            joint_attention_kwargs=None if sight is None else {"sight": sight},
            return_dict=False,
        )[0]

    @torch.inference_mode()
    def encode_context(
        self,
        photos: UInt8[Tensor, "examples 3 size size"],
        lat_lon: Float[Tensor, "examples 2"],
    ) -> Context:
        """Encode examples once, for any number of queries, steps and samples."""
        if not len(photos):
            return Context(0, {}, self.made_by)
        drawn = maps.draw(lat_lon, self.settings.style)
        return self.encode_pairs(self.encode_images(photos / 255), self.encode_images(drawn))

    def encode_pairs(
        self,
        photos: Float[Tensor, "examples photo_tokens channels"],
        drawn: Float[Tensor, "examples map_tokens channels"],
    ) -> Context:
        """Encode the latents of examples; differentiable."""
        shots, mode, kept = len(photos), self.settings.attention, Kept()
        pairs = torch.cat((photos, drawn), dim=1)
        if mode == "full":
            return Context(shots, {"tokens": pairs}, self.made_by)
        if mode == "pairwise":
            self._forward(pairs, 0.0, self._pair_ids(1), sight=Sight(kept=kept))
        else:
            joined = rearrange(pairs, "k n c -> 1 (k n) c")
            self._forward(joined, 0.0, self._pair_ids(shots), sight=Sight(kept=kept))
        return Context(shots, kept.tensors(), self.made_by)

    def _examples(self, context: Context) -> list[Seen]:
        if not context.shots:
            return []
        rotary = self.pipeline.transformer.pos_embed(self._pair_ids(context.shots))
        return [Kept.from_tensors(context.kept).placed(rotary, groups=1)]

    @torch.inference_mode()
    def draw_maps(
        self,
        context: Context,
        photos: UInt8[Tensor, "queries 3 size size"],
        *,
        prompt: str,
        samples: int = 1,
        steps: int = 4,
        seed: int = 0,
    ) -> Float[Tensor, "queries samples 3 height width"]:
        """Draw the maps of query photos, in float, unclipped.

        Raises:
            ValueError: a context that another model, dtype, style, layout or mode has made.
        """
        context.require(self.made_by)
        ids = self._ids(0, of_map=True)
        contents = [photo.numpy().tobytes() for photo in photos.cpu()]
        channels = self.pipeline.transformer.config.in_channels
        noise = sampling.keyed_noise(contents, (len(ids), channels), samples=samples, seed=seed)
        noise = noise.to(self.pipeline.transformer.device, torch.float32)
        velocity = self.velocity(context, self.encode_images(photos / 255), prompt)
        latents = sampling.euler(velocity, noise, self.times(len(ids), steps))
        return self.decode_maps(latents)

    def times(self, tokens: int, steps: int) -> Float[Tensor, " times"]:
        """Return the time grid of the checkpoint's scheduler for maps of so many tokens."""
        scheduler = self.pipeline.scheduler
        given = (
            {}
            if scheduler.config.get("use_flow_sigmas")
            else {"sigmas": np.linspace(1, 1 / steps, steps)}
        )
        mu = compute_empirical_mu(image_seq_len=tokens, num_steps=steps)
        scheduler.set_timesteps(None if given else steps, mu=mu, **given)
        return scheduler.sigmas.cpu()

    def velocity(
        self, context: Context, photos: Float[Tensor, "queries tokens channels"], prompt: str
    ) -> sampling.Velocity:
        """Return the velocity of noisy maps [queries, samples, tokens, channels]; differentiable.

        What depends neither on noise nor on time is computed here, once.
        """
        guided = self.settings.guidance_scale
        told = self.text(prompt, shots=context.shots)
        untold = self.text("", shots=context.shots) if guided > 1 else None
        attend = self._full if self.settings.attention == "full" else self._shared
        predict = attend(context, photos)

        def velocity(x: Tensor, t: float) -> Tensor:
            found = predict(x, t, told)
            if untold is None:
                return found
            base = predict(x, t, untold)
            return base + guided * (found - base)

        return velocity

    def _shared(self, context: Context, photos: Tensor) -> Any:
        """Encode the query photos once; examples and photos are then seen by every step."""
        examples, kept = self._examples(context), Kept()
        ids = self._ids(2 * context.shots + 1, of_map=False)
        self._forward(photos, 0.0, ids, sight=Sight(examples, kept))
        of_photos = kept.placed(self.pipeline.transformer.pos_embed(ids), groups=len(photos))
        sight, map_ids = Sight((*examples, of_photos)), self._ids(0, of_map=True)

        def predict(x: Tensor, t: float, text: Tensor) -> Tensor:
            tokens = rearrange(x, "q s n c -> (q s) n c").to(photos.dtype)
            found = self._forward(tokens, t, map_ids, text=text, sight=sight)
            return rearrange(found, "(q s) n c -> q s n c", q=len(x)).float()

        return predict

    def _full(self, context: Context, photos: Tensor) -> Any:
        """Everything sees everything, at every step, as in the stock pipeline."""
        ids = torch.cat((self._ids(0, of_map=True), self.reference_ids(context.shots)))
        pairs = context.kept.get("tokens", photos[:0])
        shown = rearrange(pairs, "k n c -> 1 (k n) c")

        def predict(x: Tensor, t: float, text: Tensor) -> Tensor:
            count = x.shape[0] * x.shape[1]
            noisy = rearrange(x, "q s n c -> (q s) n c").to(photos.dtype)
            own = repeat(photos, "q n c -> (q s) n c", s=x.shape[1])
            tokens = torch.cat((noisy, shown.expand(count, -1, -1), own), dim=1)
            found = self._forward(tokens, t, ids, text=text)
            return found[:, : noisy.shape[1]].unflatten(0, x.shape[:2]).float()

        return predict
