"""Models that draw maps, made of a pipeline of diffusers and a layout of examples.

The pipeline loads, encodes and schedules. The denoising is here, for theirs can neither keep a
context nor batch different queries.
"""

import json
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from icgeo import maps, sampling
from icgeo.models.backbones.backbone import Backbone
from icgeo.models.backbones.wan import WanBackbone
from icgeo.models.context import Context
from icgeo.models.hub import LoadError
from icgeo.models.instructions import instruction
from icgeo.models.layouts.frames import Frames
from icgeo.models.layouts.layout import Layout
from icgeo.models.layouts.panel import Panel
from icgeo.models.layouts.references import References
from icgeo.models.settings import Origin, Settings

LAYOUTS: dict[str, Any] = {"references": References, "panel": Panel, "frames": Frames}


@dataclass(frozen=True)
class PipelineMapModel:
    """A pretrained transformer that draws maps."""

    backbone: Backbone | WanBackbone
    settings: Settings
    name: str = ""
    """Which weights: source, revision, adapter, quantization."""
    backend: str = "native"
    """Of attention."""
    origin: Origin | None = None
    """Where it was loaded from."""

    def __post_init__(self) -> None:
        settings = self.settings
        known = ("frames",) if isinstance(self.backbone, WanBackbone) else ("references", "panel")
        if settings.layout not in known:
            raise LoadError(f"expected a layout of {known}, got {settings.layout!r}")
        modes = LAYOUTS[settings.layout].modes
        if settings.attention not in modes:
            raise LoadError(
                f"expected attention of {modes} in the layout {settings.layout!r}, "
                f"got {settings.attention!r}"
            )
        if settings.example_guidance != 1 and settings.layout != "references":
            raise LoadError(
                "expected example_guidance of 1 where examples and query are one picture, "
                f"got {settings.example_guidance}"
            )
        settings.require_multiples(self.backbone.patch)

    def choosing(self, **choices: Any) -> "PipelineMapModel":
        """Return the same model with other settings; None leaves one as it is.

        Raises:
            LoadError: an unknown mode or layout, or maps that are no whole number of tokens.
        """
        return replace(self, settings=self.settings.choosing(**choices))

    @cached_property
    def layout(self) -> Layout:
        """How examples are shown to it."""
        settings = self.settings
        return LAYOUTS[settings.layout](
            self.backbone,
            settings.style,
            settings.attention,
            settings.photo_size,
            self.backend,
        )

    @property
    def photo_size(self) -> int:
        """Height and width of the photos that it takes, in pixels."""
        return self.settings.photo_size

    @cached_property
    def fingerprint(self) -> dict[str, str]:
        """What a context depends on beside its examples."""
        return {
            "model": self.name,
            "dtype": str(self.backbone.pipeline.transformer.dtype),
            "style": json.dumps(self.settings.style.to_dict()),
            "layout": self.settings.layout,
            "attention": self.settings.attention,
        }

    @torch.no_grad()
    def encode_context(
        self,
        photos: UInt8[Tensor, "examples 3 size size"],
        lat_lon: Float[Tensor, "examples 2"],
    ) -> Context:
        """Encode examples once, for any number of queries, steps and samples."""
        if not len(photos):
            return Context(0, {}, self.fingerprint)
        drawn = maps.draw(lat_lon, self.settings.style)
        return Context(len(photos), self.layout.encode_pairs(photos / 255, drawn), self.fingerprint)

    @torch.no_grad()
    def draw_maps(
        self,
        context: Context,
        photos: UInt8[Tensor, "queries 3 size size"],
        *,
        prompt: str,
        samples: int = 1,
        steps: int = 4,
        seed: int = 0,
        callback_on_step_end: sampling.StepCallback | None = None,
    ) -> Float[Tensor, "queries samples 3 height width"]:
        """Draw the maps of query photos, in float, unclipped.

        `callback_on_step_end` is told at each step the maps as they look from there, and the time, from 1 down.

        Raises:
            ValueError: a context that another model, dtype, style, layout or mode has made.
        """
        context.require(self.fingerprint)
        if context.chosen is not None:
            options: dict[str, Any] = {
                "prompt": prompt,
                "samples": samples,
                "steps": steps,
                "seed": seed,
            }
            alone = zip(context.by_query(), photos.split(1), strict=True)
            return torch.cat([self.draw_maps(own, photo, **options) for own, photo in alone])
        contents = [photo.numpy().tobytes() for photo in photos.cpu()]
        shape = self.layout.latent_shape(context.shots)
        noise = sampling.keyed_noise(contents, shape, samples=samples, seed=seed)
        asked = self.layout.encode_queries(context.kept, photos / 255)
        velocity = self.velocity(context, asked, prompt)
        noise = noise.to(asked.device, torch.float32)
        times, decode = self.layout.times(context.shots, steps), self.layout.decode
        seen = sampling.decoded(callback_on_step_end, decode)
        return decode(sampling.euler(velocity, noise, times, callback_on_step_end=seen))

    def velocity(self, context: Context, asked: Tensor, prompt: str) -> sampling.Velocity:
        """Return the velocity of latents [queries, samples, ...]; differentiable.

        Args:
            context: the examples.
            asked: the queries, as the layout encodes them.
            prompt: what the world is.
        """
        given = self._velocity(context, asked, prompt)
        scale = self.settings.example_guidance
        if scale == 1 or not context.shots:
            return given
        alone = Context(0, {}, self.fingerprint)
        return sampling.guided(given, self._velocity(alone, asked, prompt), scale)

    def _velocity(self, context: Context, asked: Tensor, prompt: str) -> sampling.Velocity:
        prompts, shots = self.backbone.prompts, context.shots
        words = instruction(prompt, shots=shots, layout=self.settings.layout)
        told = prompts(words)
        predict = self.layout.predictor(context.kept, shots, asked)
        return sampling.guided(
            lambda x, t: predict(x, t, told),
            lambda x, t: predict(x, t, prompts("")),
            self.settings.guidance_scale,
        )
