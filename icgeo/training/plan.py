"""What adapting a model will cost, from the checkpoint's configuration alone."""

import math
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import nn

from icgeo.models.hub import format_bytes
from icgeo.models.plan import ACTIVATIONS, Plan, config_of, format_flops, plan, transformer_of
from icgeo.training.options import LoraOptions
from icgeo.training.targets import target_modules

BYTES_LEARNED = 20
"""A number of the adapter in float32: itself, its gradient, two moments of AdamW, its average."""


@dataclass(frozen=True)
class LoraPlan:
    """Parameters, bytes and operations of adapting a model."""

    inference: Plan
    """Of one query with as many examples as an episode has beside it."""
    options: LoraOptions
    adapter_parameters: int

    @property
    def targets(self) -> int:
        """Pairs of an episode that are asked for in one pass: all, where each is kept alone."""
        return self.options.views if self._is_shared else 1

    @property
    def _is_shared(self) -> bool:
        return self.inference.keeps and self.inference.attention == "pairwise"

    @property
    def adapter_bytes(self) -> int:
        """Of the adapter with its gradient, its average and what AdamW keeps."""
        return BYTES_LEARNED * self.adapter_parameters

    @property
    def tokens(self) -> int:
        """That go through the transformer for an episode."""
        found, sizes = self.inference, self.inference.tokens
        examples = self.targets * sizes.example if self._is_shared else found.example_tokens
        return examples + self.targets * (sizes.photo + sizes.text + sizes.drawn)

    @property
    def activation_bytes(self) -> int:
        """Estimate of what is kept for the gradient, scores of attention included.

        With checkpointing the entry of each block, and all of one block.
        """
        found = self.inference
        width, blocks = found.dimensions.width, found.dimensions.blocks
        each = ACTIVATIONS * self.tokens * width * found.bytes_a_number
        block = each + self._score_bytes
        if not self.options.checkpointing:
            return blocks * block
        return blocks * self.tokens * width * found.bytes_a_number + block

    @property
    def _score_bytes(self) -> int:
        """Of one block: written out where pairs are hidden from each other, in float32 twice."""
        if not self._is_shared:
            return 0
        sizes = self.inference.tokens
        asked = sizes.text + sizes.drawn
        seen = self.targets * sizes.example + sizes.photo + asked
        return 2 * 4 * self.inference.dimensions.heads * self.targets * asked * seen

    @property
    def total_bytes(self) -> int:
        """Of the base, the adapter and the activations."""
        return self.inference.weight_bytes + self.adapter_bytes + self.activation_bytes

    @property
    def fits(self) -> bool:
        """Whether a tenth of the memory would be left."""
        return self.total_bytes < 0.9 * self.inference.memory_bytes

    @property
    def episode_flop(self) -> float:
        """Operations of an episode: forward, once more with checkpointing, and backward.

        A frozen product has one gradient, of its input; one of attention has two. The gradients of
        the adapter's own weights are small and left out.
        """
        found, sizes = self.inference, self.inference.tokens
        asked = sizes.photo + sizes.text + sizes.drawn
        shown = self.targets * sizes.example if self._is_shared else found.example_tokens
        pairs = self.targets * asked * (asked + shown)
        pairs += self.targets * sizes.example**2 if self._is_shared else shown**2
        forwards = 2 if self.options.checkpointing else 1
        of_pair = 4 * found.dimensions.width * found.dimensions.blocks
        return (forwards + 1) * found.dimensions.token_flop * self.tokens + (
            forwards + 2
        ) * of_pair * pairs

    def seconds(self, rate: float) -> float:
        """Time of all steps at a rate in operations a second, on one device."""
        return self.options.steps * self.options.episodes * self.episode_flop / rate

    def __str__(self) -> str:
        """Say it in a few lines."""
        found = self.inference
        return "\n".join(
            (
                f"{found.parameters / 1e6:,.1f} million parameters frozen, "
                f"{self.adapter_parameters / 1e6:,.2f} million learned",
                f"base {format_bytes(found.weight_bytes)}, adapter {format_bytes(self.adapter_bytes)}, "
                f"activations about {format_bytes(self.activation_bytes)}: "
                f"{format_bytes(self.total_bytes)}, "
                f"{'fits' if self.fits else 'does not fit'} {format_bytes(found.memory_bytes)}",
                f"{format_flops(self.episode_flop)} an episode of {self.targets} targets; "
                f"{self.options.steps} steps of {self.options.episodes}: "
                f"{timedelta(seconds=math.ceil(self.seconds(1e14)))} at 100 TFLOP/s",
            )
        )


def plan_lora(
    model: str | Path,
    options: LoraOptions,
    *,
    dtype: torch.dtype = torch.bfloat16,
    device: str | torch.device = "cpu",
    **choices: Any,
) -> LoraPlan:
    """Plan adapting a model, without loading weights.

    Args:
        model: as `icgeo.load` takes it.
        options: of the run.
        dtype: of the base.
        device: whose memory it should fit.
        **choices: as `icgeo.plan` takes them.

    Raises:
        LoadError: no such model, or no such quantization.
        UsageError: targets that match nothing.
    """
    found = plan(model, options.views - 1, dtype=dtype, device=device, batch_size=1, **choices)
    transformer = transformer_of(config_of(model, "transformer"))
    modules = dict(transformer.named_modules())
    sizes = 0
    for name in target_modules(transformer, options.targets):
        linear = modules[name]
        if isinstance(linear, nn.Linear):
            sizes += linear.in_features + linear.out_features
    return LoraPlan(found, options, options.rank * sizes)
