"""What adapting a model will cost, from the checkpoint's configuration alone."""

import math
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from icgeo.models.cost import ACTIVATIONS, Plan, empty_transformer, fits, format_flops, plan
from icgeo.models.hub import format_bytes
from icgeo.training.adapters import target_modules
from icgeo.training.options import LoraOptions

BYTES_LEARNED = 20
"""A number of the adapter in float32: itself, its gradient, two moments of AdamW, its average."""


@dataclass(frozen=True)
class LoraPlan:
    """Parameters, bytes and operations of adapting a model."""

    inference: Plan
    """Plan of one query with as many examples as an episode has beside it."""
    options: LoraOptions
    adapter_parameters: int

    @property
    def _is_shared(self) -> bool:
        """Whether all pairs of an episode are targets of one pass: where each is kept alone."""
        return self.inference.attention == "pairwise"

    @property
    def targets(self) -> int:
        """Targets of an episode in one pass."""
        return self.options.views if self._is_shared else 1

    @property
    def _example_tokens(self) -> int:
        if self._is_shared:
            return self.targets * self.inference.tokens.example
        return self.inference.example_tokens

    @property
    def adapter_bytes(self) -> int:
        """Bytes of the adapter with its gradient, its average and what AdamW keeps."""
        return BYTES_LEARNED * self.adapter_parameters

    @property
    def tokens(self) -> int:
        """Number of tokens that go through the transformer for an episode."""
        sizes = self.inference.tokens
        return self._example_tokens + self.targets * (sizes.photo + sizes.text + sizes.drawn)

    @property
    def activation_bytes(self) -> int:
        """Estimate of what is kept for the gradient, scores of attention included.

        With checkpointing the entry of each block, and all of one block.
        """
        dimensions = self.inference.dimensions
        entry = self.tokens * dimensions.width * self.inference.bytes_a_number
        block = ACTIVATIONS * entry
        if self._is_shared:  # scores are written out to hide pairs from each other, float32, twice
            sizes = self.inference.tokens
            drawn = sizes.text + sizes.drawn
            keys = self._example_tokens + sizes.photo + drawn
            block += 2 * 4 * dimensions.heads * self.targets * drawn * keys
        if not self.options.checkpointing:
            return dimensions.blocks * block
        return dimensions.blocks * entry + block

    @property
    def total_bytes(self) -> int:
        """Base, adapter and activations together."""
        return self.inference.weight_bytes + self.adapter_bytes + self.activation_bytes

    @property
    def fits(self) -> bool:
        """Whether a tenth of the memory would be left."""
        return fits(self.total_bytes, self.inference.memory_bytes)

    @property
    def episode_flop(self) -> float:
        """Operations of an episode: forward, once more with checkpointing, and backward.

        A frozen product has one gradient, of its input; one of attention has two. The gradients of
        the adapter's own weights are small and left out.
        """
        dimensions, sizes = self.inference.dimensions, self.inference.tokens
        query, examples = sizes.photo + sizes.text + sizes.drawn, self._example_tokens
        pairs = self.targets * query * (query + examples)
        pairs += self.targets * sizes.example**2 if self._is_shared else examples**2
        forwards = 2 if self.options.checkpointing else 1
        in_tokens = (forwards + 1) * dimensions.token_flop * self.tokens
        return in_tokens + (forwards + 2) * dimensions.pair_flop * pairs

    def seconds(self, rate: float) -> float:
        """Return the time of all steps at a rate in operations a second, on one device."""
        return self.options.steps * self.options.episodes * self.episode_flop / rate

    def __str__(self) -> str:
        """Say it in a few lines."""
        base, options = self.inference, self.options
        return "\n".join(
            (
                f"{base.parameters / 1e6:,.1f} million parameters frozen, "
                f"{self.adapter_parameters / 1e6:,.2f} million learned",
                f"base {format_bytes(base.weight_bytes)}, "
                f"adapter {format_bytes(self.adapter_bytes)}, "
                f"activations about {format_bytes(self.activation_bytes)}: "
                f"{format_bytes(self.total_bytes)}, "
                f"{'fits' if self.fits else 'does not fit'} {format_bytes(base.memory_bytes)}",
                f"{format_flops(self.episode_flop)} an episode of {self.targets} targets; "
                f"{options.steps} steps of {options.episodes}: "
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
        options: options of the run.
        dtype: dtype of the base.
        device: device whose memory the run should fit.
        **choices: as `icgeo.plan` takes them.

    Raises:
        LoadError: no such model, or no such quantization.
        UsageError: targets that match nothing.
    """
    inference = plan(model, options.views - 1, dtype=dtype, device=device, batch_size=1, **choices)
    transformer = empty_transformer(model)
    modules = [
        transformer.get_submodule(name) for name in target_modules(transformer, options.targets)
    ]
    sizes = sum(linear.in_features + linear.out_features for linear in modules)
    return LoraPlan(inference, options, options.rank * sizes)
