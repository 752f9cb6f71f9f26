"""Time the shared context against the stock pipelines of diffusers, and the reading of maps."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from icgeo import config
from icgeo.options import SHOTS


@dataclass(frozen=True)
class Options:
    """Time models of random weights; every way in turn, medians of several repetitions."""

    preset: Literal["small", "klein-4b", "kontext"] = "small"
    """Dimensions: some 10 million parameters, or those of FLUX.2 klein 4B or FLUX.1 Kontext."""
    shots: tuple[int, ...] = SHOTS
    """Numbers of examples."""
    samples: tuple[int, ...] = (1, 8)
    """Maps drawn for each query."""
    steps: int = 4
    """Steps of the flow."""
    queries: int = 32
    """Queries that share a context."""
    stock_queries: int = 2
    """Queries for which the stock pipelines are called, in each repetition."""
    repeats: int = 3
    """Repetitions, beside one for warming up."""
    device: str = "cpu"
    """Where the models run."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Of the weights."""
    name: str = "benchmark"
    """Run folder under runs/."""


def main(options: Options) -> None:
    """Time, print a table, write it with all else as JSON."""
    import pandas as pd
    import torch

    from icgeo.models import benchmark

    folder = config.save_run(Path("runs") / options.name, options)
    dtype = getattr(torch, options.dtype)
    model = benchmark.build(options.preset, device=options.device, dtype=dtype)
    with torch.device(options.device):
        rows = [
            benchmark.compare(
                model,
                shots,
                samples=samples,
                steps=options.steps,
                queries=options.queries,
                stock_queries=options.stock_queries,
                repeats=options.repeats,
            )
            for samples in options.samples
            for shots in options.shots
        ]
        rate = benchmark.matrix_rate(device=options.device, dtype=dtype)
    table = pd.DataFrame(rows)
    table["share of the product's rate"] = table.pop("FLOP/s") / rate
    reading = {
        f"{h} x {w}": benchmark.reading_rate(h, w, device=options.device)
        for h, w in ((64, 128), (128, 256))
    }
    memory = benchmark.memory_peak(options.device)
    growth = benchmark.memory_growth(model)
    result = {"rows": table.to_dict("records"), "matrix FLOP/s": rate}
    result |= {"maps read a second": reading, "memory peak, bytes": memory}
    result |= {"memory after 500 queries, over 100": growth}
    (folder / "benchmark.json").write_text(json.dumps(result, indent=2) + "\n")
    print(table.round(4).to_string(index=False))
    print(f"matrix product {rate / 1e9:.0f} GFLOP/s; memory peak {memory / 2**30:.1f} GiB")
    print(f"memory held after 500 queries: {growth:.3f} of that after 100")
    print("maps read a second:", {size: round(each) for size, each in reading.items()})


if __name__ == "__main__":
    config.run(main, Options)
