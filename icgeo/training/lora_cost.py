"""What adapting a model will cost, from the checkpoint's configuration alone."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from icgeo.models.cost import ACTIVATIONS, Plan, empty_part, format_flops, plan
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
    targets: int
    """Targets of an episode in one pass."""
    adapter_parameters: int
    activation_bytes: int
    """Estimate of what is kept for the gradient, scores of attention included."""
    episode_flop: float
    """Operations of an episode: forward, once more with checkpointing, and backward."""

    @property
    def adapter_bytes(self) -> int:
        """Bytes of the adapter with its gradient, its average and what AdamW keeps."""
        return BYTES_LEARNED * self.adapter_parameters

    @property
    def flop(self) -> float:
        """Operations of all steps."""
        return self.options.steps * self.options.episodes * self.episode_flop

    def __str__(self) -> str:
        """Say it in a few lines."""
        base, options = self.inference, self.options
        weights = base.weight_bytes + base.encoder_bytes
        total = weights + self.adapter_bytes + self.activation_bytes
        return (
            f"{base.parameters / 1e6:,.1f} million parameters frozen, "
            f"{self.adapter_parameters / 1e6:,.2f} million learned\n"
            f"base {format_bytes(weights)}, "
            f"adapter {format_bytes(self.adapter_bytes)}, "
            f"activations about {format_bytes(self.activation_bytes)}: {format_bytes(total)}, "
            f"{base.room(total)}\n"
            f"{format_flops(self.episode_flop)} an episode of {self.targets} targets; "
            f"{options.steps} steps of {options.episodes}: "
            f"{base.pace(self.flop)}"
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

    A frozen product has one gradient, of its input; one of attention has two. The gradients of the
    adapter's own weights are small and left out. With checkpointing the entry of each block is
    kept, and all of one block. All but `options` is as `icgeo.plan` takes it.

    Raises:
        LoadError: no such model, or no such quantization.
        UsageError: targets that match nothing.
    """
    inference = plan(model, options.views - 1, dtype=dtype, device=device, batch_size=1, **choices)
    transformer = empty_part(model, "transformer")
    modules = map(transformer.get_submodule, target_modules(transformer, options.targets))
    adapter = options.rank * sum(module.in_features + module.out_features for module in modules)

    # there all pairs of an episode are targets of one pass
    is_shared = inference.attention == "pairwise" and choices.get("layout") != "sheet"
    sizes, blocks = inference.tokens, inference.blocks
    targets = options.views if is_shared else 1
    examples = targets * sizes.example if is_shared else inference.example_tokens
    step_tokens = sizes.text + sizes.drawn
    query = sizes.photo + step_tokens
    tokens = examples + targets * query

    entry = tokens * inference.width * inference.bytes_a_number
    block = ACTIVATIONS * entry
    if is_shared:  # scores are written out to hide pairs from each other, float32, twice
        block += 2 * 4 * inference.heads * targets * step_tokens * (examples + query)
    activations = blocks * entry + block if options.checkpointing else blocks * block

    pairs = targets * query * (query + examples)
    pairs += targets * sizes.example**2 if is_shared else examples**2
    passes = 2 + options.checkpointing
    flop = passes * inference.token_flop * tokens + (passes + 1) * inference.pair_flop * pairs
    return LoraPlan(inference, options, targets, adapter, activations, flop)
