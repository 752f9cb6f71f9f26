"""Architectures: how images and text are encoded, the forward pass, and the time shift."""

from dataclasses import dataclass
from typing import Any, ClassVar

from icgeo.models.prompts import Prompts


@dataclass(frozen=True)
class PipelineBackbone:
    """The parts of a pipeline of diffusers, and its instructions."""

    pipeline: Any
    prompts: Prompts

    layouts: ClassVar[tuple[str, ...]] = ("references", "panel")
    """Ways to show examples that it knows."""
    digest: ClassVar = ""
    """Hash of the weights, where they have no name."""

    @property
    def transformer(self) -> Any:
        """What predicts velocities, and what a LoRA adapts."""
        return self.pipeline.transformer

    @property
    def codec(self) -> Any:
        """What encodes images: the VAE."""
        return self.pipeline.vae
