"""What a run will cost, from the checkpoint's configuration alone: no weight is loaded.

Operations follow DESIGN.md: with d the width and n the blocks, a token costs 26 d^2 n and a (query,
key) pair 4 d n floating-point operations. `naive` recomputes everything for every step and sample,
`stock` is diffusers' key-value pipeline, called for each query, and `shared` keeps the examples for
all queries and each photo for all steps and samples.
"""

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from diffusers import Flux2Transformer2DModel

from icgeo.models.base import Settings, located, pipeline_part
from icgeo.models.references import SETTINGS, ReferenceMapModel

PATCH = 16
"""Pixels a token, in each direction, behind the VAE of FLUX.2."""
ACTIVATIONS = 14
"""Numbers a token at once, in widths: residual, queries, keys, values, both halves of the MLP."""


@dataclass(frozen=True)
class Plan:
    """Parameters, bytes and operations of a run."""

    parameters: int
    """Of the transformer."""
    width: int
    blocks: int
    shots: int
    example_tokens: int
    """Of all examples."""
    photo_tokens: int
    map_tokens: int
    text_tokens: int
    queries: int
    """That share the context."""
    batch_size: int
    """Queries at a time."""
    steps: int
    samples: int
    bytes_a_number: int
    memory_bytes: int
    """What the device has."""

    @property
    def weight_bytes(self) -> int:
        """Weights of the transformer."""
        return self.parameters * self.bytes_a_number

    @property
    def context_bytes(self) -> int:
        """Keys and values of the examples, and of the photos of one batch."""
        tokens = self.example_tokens + self.batch_size * self.photo_tokens
        return 2 * self.blocks * self.width * tokens * self.bytes_a_number

    @property
    def activation_bytes(self) -> int:
        """Estimate of the largest activations: of the maps of a batch, or of the examples."""
        maps = self.batch_size * self.samples * (self.text_tokens + self.map_tokens)
        return ACTIVATIONS * self.width * max(maps, self.example_tokens) * self.bytes_a_number

    @property
    def total_bytes(self) -> int:
        """All three together."""
        return self.weight_bytes + self.context_bytes + self.activation_bytes

    @property
    def fits(self) -> bool:
        """Whether a tenth of the memory would be left."""
        return self.total_bytes < 0.9 * self.memory_bytes

    @property
    def _costs(self) -> tuple[int, int]:
        return 26 * self.width**2 * self.blocks, 4 * self.width * self.blocks

    @cached_property
    def naive_flop(self) -> float:
        """Operations a query if nothing is kept."""
        token, pair = self._costs
        n = self.text_tokens + self.example_tokens + self.photo_tokens + self.map_tokens
        return self.steps * self.samples * (token * n + pair * n**2)

    @cached_property
    def stock_flop(self) -> float:
        """Operations a query of diffusers' key-value pipeline."""
        token, pair = self._costs
        shown = self.example_tokens + self.photo_tokens
        drawn = self.text_tokens + self.map_tokens
        first = token * (shown + drawn) + pair * (shown**2 + drawn * (shown + drawn))
        later = token * drawn + pair * drawn * (shown + drawn)
        return self.samples * (first + (self.steps - 1) * later)

    @cached_property
    def shared_flop(self) -> float:
        """Operations a query when the examples are kept."""
        token, pair = self._costs
        examples, photo = self.example_tokens, self.photo_tokens
        drawn = self.text_tokens + self.map_tokens
        once = (token * examples + pair * examples**2) / self.queries
        asked = token * photo + pair * photo * (examples + photo)
        each = token * drawn + pair * drawn * (drawn + examples + photo)
        return once + asked + self.steps * self.samples * each

    def __str__(self) -> str:
        """Say it in a few lines."""
        giga = 2**30
        return "\n".join(
            (
                f"{self.parameters / 1e6:,.1f} million parameters, {self.shots} shots: "
                f"{self.example_tokens} tokens",
                f"weights {self.weight_bytes / giga:.2f} GiB, context "
                f"{self.context_bytes / giga:.2f} GiB, activations about "
                f"{self.activation_bytes / giga:.2f} GiB: "
                f"{'fits' if self.fits else 'does not fit'} {self.memory_bytes / giga:.1f} GiB",
                f"TFLOP a query: naive {self.naive_flop / 1e12:.3g}, stock key-value pipeline "
                f"{self.stock_flop / 1e12:.3g}, shared context {self.shared_flop / 1e12:.3g}",
            )
        )


def device_memory(device: str | torch.device) -> int:
    """Bytes that a device has in all."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def plan(
    model: str | Path = "tiny",
    shots: int = 16,
    *,
    queries: int = 64,
    batch_size: int = 8,
    text_tokens: int = 128,
    dtype: torch.dtype = torch.bfloat16,
    device: str | torch.device = "cpu",
) -> Plan:
    """Plan a run of a model of FLUX.2's architecture, without loading weights.

    Args:
        model: as `icgeo.load` takes it.
        shots: number of examples.
        queries: how many share them.
        batch_size: queries at a time.
        text_tokens: length of the instruction, of models that take one in words.
        dtype: of the weights.
        device: whose memory it should fit.

    Raises:
        LoadError: no such model.
    """
    with located(model) as folder:
        source = folder or str(model)
        config = json.loads(pipeline_part(source, "transformer", "config.json").read_text())
        own = folder / "icgeo.json" if folder else None
        settings = Settings.read(own) if own and own.is_file() else SETTINGS
        if settings.layout == "stacked":
            size = json.loads(pipeline_part(source, "codec", "config.json").read_text())
            map_tokens = size["rows"] * size["columns"]
            pair, photo_tokens, text_tokens = map_tokens, 0, 2
        else:
            map_tokens = settings.style.height * settings.style.width // PATCH**2
            photo_tokens = (ReferenceMapModel.photo_size // PATCH) ** 2
            pair = photo_tokens + map_tokens
    with torch.device("meta"):
        transformer = Flux2Transformer2DModel.from_config(config)
    return Plan(
        parameters=transformer.num_parameters(),
        width=transformer.inner_dim,
        blocks=config["num_layers"] + config["num_single_layers"],
        shots=shots,
        example_tokens=shots * pair,
        photo_tokens=photo_tokens,
        map_tokens=map_tokens,
        text_tokens=text_tokens,
        queries=queries,
        batch_size=batch_size,
        steps=settings.steps,
        samples=settings.samples,
        bytes_a_number=dtype.itemsize,
        memory_bytes=device_memory(device),
    )
