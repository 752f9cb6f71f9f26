"""Architectures: how images and text are encoded, the forward pass, and the time shift."""

from dataclasses import dataclass
from typing import Any, ClassVar

from icgeo.models.prompts import Prompts


@dataclass(frozen=True)
class PipelineBackbone:
    """The parts of a pipeline of diffusers, and its instructions."""

    pipeline: Any
    prompts: Prompts

    layouts: ClassVar[tuple[str, ...]] = ("references", "panel", "pair", "sheet")
    """Ways to show examples that it knows."""
    takes_references: ClassVar = True
    """Whether its weights were trained on several reference images, each at a place of its own."""
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
