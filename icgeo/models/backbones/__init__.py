"""Architectures: how images and text are encoded, the forward pass, and the time shift.

Each file holds the backbones of a family and, in `SPECS`, all else that icgeo knows of them.
Loading, plans, LoRAs and public configurations follow from it (`icgeo.models.architectures`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from icgeo import maps
from icgeo.models.prompts import Embedding, Prompts
from icgeo.models.settings import Settings
from icgeo.options import EARTH, UNKNOWN

Config = Mapping[str, Any]
"""A configuration with the names of diffusers."""


def public_parts(
    pipeline: str, transformer: Config, vae: Config, **index: Any
) -> dict[str, Config]:
    """Return the configurations of a public checkpoint, by part."""
    index = {"_class_name": pipeline, **index}
    return {"model_index": index, "transformer": transformer, "vae": vae}


@dataclass(frozen=True)
class PipelineBackbone:
    """The parts of a pipeline of diffusers, and its instructions."""

    pipeline: Any
    prompts: Prompts
    guidance: float = 1.0
    """What a distilled checkpoint is told as its guidance; others take none."""

    layouts: ClassVar[tuple[str, ...]] = ("references", "panel", "pair", "sheet")
    """Ways to show examples that it knows, the default first."""
    takes_references: ClassVar = True
    """Whether its weights were trained on several reference images, each at a place of its own."""
    resizes: ClassVar = False
    """Whether its stock pipeline scales every image to one area, small ones too."""
    multiple: ClassVar[int] = 1
    """Tokens of which the sides of images are multiples."""
    digest: ClassVar = ""
    """Hash of the weights, where they have no name."""

    @property
    def patch(self) -> int:
        """Pixels a token, in each direction."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        """Where it computes, though parts may be offloaded between calls."""
        device: torch.device = self.pipeline._execution_device
        return device

    @property
    def transformer(self) -> Any:
        """What predicts velocities, and what a LoRA adapts."""
        return self.pipeline.transformer

    @property
    def codec(self) -> Any:
        """What encodes images: the VAE."""
        return self.pipeline.vae

    def statistics(self) -> Float[Tensor, "two channels 1 1 1"]:
        """Return the mean and deviation of latents that a VAE of videos states."""
        config = self.codec.config
        numbers = torch.tensor([config.latents_mean, config.latents_std])
        return numbers.to(self.device, self.codec.dtype)[..., None, None, None]


@dataclass(frozen=True, kw_only=True)
class ArchitectureSpec:
    """All that icgeo knows of an architecture beside its backbone."""

    transformer: str
    """The class of its transformer in diffusers."""
    pipelines: tuple[str, ...]
    """The pipelines that its checkpoints name; the first stores LoRAs."""
    loader: str = ""
    """The pipeline that loads them, if it is not the one that is named."""
    backbone: type[PipelineBackbone]
    embed: Callable[[Any, str], Embedding] | None = None
    """Embeds an instruction with a pipeline; None where the model reads it behind the photo."""
    keeps_encoder: bool = False
    """Whether its text encoder reads each query, and so stays in memory."""
    components: Callable[[Path], dict[str, Any]] = lambda folder: {}
    """Makes the components of a pipeline that its own loader would not make here."""
    targets: str
    """Names of the modules that a LoRA adapts: attention, and the feed-forward where it is one
    product with it."""
    patch: Callable[[Config], int]
    """Gives the pixels a token, in each direction, for the configuration of a VAE."""
    codec: Callable[[Config], float]
    """Gives the numbers a pixel that a VAE of a configuration computes at once, counted for those
    of public checkpoints as they decode a map of 256 x 512 on the meta device."""
    cost: Callable[[Config, int], tuple[int, float]]
    """Gives the blocks of a transformer of a configuration and a width, and the operations a token
    without attention."""
    public: Mapping[str, Mapping[str, Config]] = field(default_factory=dict)
    """Configurations of public checkpoints, as far as plans need them, by hub id and part: no
    network is asked. Parameter counts that follow are tested against those published."""
    check: Callable[[Config, str | Path], object] = lambda index, source: None
    """Raises LoadError for a checkpoint that cannot be shown examples."""
    attention: str = "full"
    """The mode that its weights were trained in, and the default."""
    is_distilled: bool = False
    """Whether its checkpoints draw in a few steps, where they do not say."""
    steps: int = 28
    """Steps of checkpoints that are not distilled."""
    photo_size: int = 256
    guidance_scale: float = 1.0
    embedded_guidance: float = 1.0
    references: int | None = None
    """How many reference images its documentation names."""

    def settings(self, index: Config) -> Settings:
        """Give what a checkpoint without `icgeo.json` is taken for; not calibrated."""
        is_distilled = bool(index.get("is_distilled", self.is_distilled))
        return Settings(
            style=maps.MapStyle.marker(),
            photo_shape="own",
            prompts=(EARTH, UNKNOWN),
            default_prompt=EARTH,
            layout=self.backbone.layouts[0],
            attention=self.attention,
            steps=len(index.get("sample_sigmas") or ()) or (4 if is_distilled else self.steps),
            samples=4,
            guidance_scale=1.0 if is_distilled else self.guidance_scale,
            embedded_guidance=self.embedded_guidance,
            photo_size=self.photo_size,
            trained_attention=self.attention,
            documented_references=self.references,
        )
