"""Time adapting against one target a pass, as diffusers' own LoRA loop trains."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from icgeo import config
from icgeo.training.options import LoraOptions


@dataclass(frozen=True)
class Options:
    """Time models of random weights; every way in turn, medians of several repetitions."""

    preset: Literal["small", "klein-4b"] = "small"
    """Dimensions: some 10 million parameters, or those of FLUX.2 klein 4B."""
    views: tuple[int, ...] = (3, 5, 9, 17)
    """Pairs of an episode: each is a target, the others its examples."""
    rank: int = 16
    """Rank of the LoRA."""
    checkpointing: bool = False
    """Compute activations again in the backward pass."""
    repeats: int = 3
    """Repetitions, beside one for warming up."""
    device: str = "cpu"
    """Where the models run."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Of the base."""
    name: str = "benchmark-lora"
    """Run folder under runs/."""


def main(options: Options) -> None:
    """Time, print a table, write it as JSON."""
    import torch

    from icgeo.models.benchmark import memory_peak
    from icgeo.training import throughput

    folder = config.save_run(Path("runs") / options.name, options)
    precision: Literal["no", "bf16"] = "bf16" if options.dtype == "bfloat16" else "no"
    rows = []
    for views in options.views:
        chosen = LoraOptions(
            views=views,
            rank=options.rank,
            checkpointing=options.checkpointing,
            mixed_precision=precision,
            tracker="none",
        )
        dtype = getattr(torch, options.dtype)
        found = throughput.compare(
            options.preset, chosen, device=options.device, dtype=dtype, repeats=options.repeats
        )
        shared, *stock = found.values()
        ratio = min(way.median for way in stock) / shared.median
        rates = {way: round(1 / timing.median, 2) for way, timing in found.items()}
        spread = {way: round(timing.spread, 3) for way, timing in found.items()}
        rows.append({"views": views, "targets a second": rates, "spread": spread, "ratio": ratio})
        print(f"{views} pairs: {rates} targets a second, {ratio:.2f} times the better stock loop")
    result = {"rows": rows, "memory peak, bytes": memory_peak(options.device)}
    (folder / "benchmark.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    config.run(main, Options)
