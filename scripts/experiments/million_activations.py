"""Stream a million activations to disk and through an autoencoder; kill the run, and go on.

Each stage is a process of its own, so that its largest memory is its own: a tenth of the rows, all
of them, all of them killed on the way and called again, and one pass of an autoencoder over them.
"""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icgeo import config

PHOTOS = 256
"""In a shard."""


@dataclass(frozen=True)
class Options:
    """Tokens of a block of the model in the box, on views of the Earth, at time 1."""

    rows: int = 1_000_000
    """Activations, of which each view gives one for each token of its map."""
    block: int = 5
    """Of the model."""
    features: int = 512
    """Of the autoencoder; 8 of them explain a row."""
    stage: str = ""
    """The folder that one process fills, or "train"; all stages in turn by default."""
    name: str = "million"
    """Run folder under runs/."""


def views(count: int) -> Iterator[Any]:
    """Give views of the Earth, a shard of them at a time."""
    from icgeo.evaluation import world_episode

    for number in range(-(-count // PHOTOS)):
        size = min(PHOTOS, count - number * PHOTOS)
        yield from world_episode("blue-marble", number, queries=size, shots=0).queries


def fill(options: Options, folder: Path) -> None:
    """Keep the activations of as many views as have all rows."""
    import icgeo
    from icgeo.latents.activations import activations

    model = icgeo.load("tiny")
    tokens = model.layout.latent_shape(0)[0]
    photos = views(-(-options.rows // tokens))
    settings: Any = {"pool": "none", "blocks": (options.block,), "shard_size": PHOTOS}
    activations(model, photos, folder=folder, prompt="earth", **settings)


def train(options: Options, folder: Path) -> dict[str, float]:
    """Train an autoencoder in one pass over single tokens, and judge it on all of them."""
    from icgeo.latents import ActivationStore, sparse

    store = ActivationStore.open(folder)

    def stream() -> Iterator[Any]:
        return (part.flatten(0, 1) for part in store.batches(options.block, size=8))

    network = sparse.train(stream, features=options.features, top_k=8, passes=1)
    quality = sparse.judge(network, stream)
    return {"rows": quality.rows, "fvu": quality.fvu, "dead": quality.dead}


def run_stage(options: Options, stage: str, *, rows: int, kill_after: int = 0) -> dict[str, Any]:
    """Run a stage in a process; kill it when so many shards are there."""
    flags = ["--stage", stage, "--rows", str(rows), "--block", str(options.block)]
    flags += ["--features", str(options.features), "--name", options.name]
    process = subprocess.Popen(
        [sys.executable, __file__, *flags], stdout=subprocess.PIPE, text=True
    )
    shards = Path("runs", options.name, stage)
    while kill_after and process.poll() is None:
        if len(list(shards.glob("*.safetensors"))) >= kill_after:
            process.send_signal(signal.SIGKILL)
        time.sleep(0.05)
    output = process.communicate()[0]
    if kill_after and process.returncode == -signal.SIGKILL:
        return {"killed": True}
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args, output)
    return json.loads(output.splitlines()[-1])


def equal_tensors(one: Path, other: Path) -> bool:
    """Return whether two shards hold the same; their headers may list it in another order."""
    import torch
    from safetensors.torch import load_file

    first, second = load_file(one), load_file(other)
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


def main(options: Options) -> None:
    """Run all stages and print what each took, or one of them."""
    folder = Path("runs", options.name)
    if options.stage:
        start = time.perf_counter()
        is_training = options.stage == "train"
        figures: dict[str, Any] = train(options, folder / "whole") if is_training else {}
        if not is_training:
            fill(options, folder / options.stage)
        figures |= {"seconds": time.perf_counter() - start, "processor": time.process_time()}
        # the process's own: getrusage's goes on from that of whoever started it
        status = Path("/proc/self/status").read_text()
        peak_kib = int(status.partition("VmHWM:")[2].split()[0])
        print(json.dumps({**figures, "most_memory_gb": peak_kib / 2**20}))
        return
    config.save_run(folder, options)
    rows = options.rows
    results: dict[str, Any] = {}

    def keep(name: str, values: dict[str, Any]) -> None:
        results[name] = values
        print(f"{name}: {values}", flush=True)
        (folder / "found.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")

    keep("whole", run_stage(options, "whole", rows=rows))
    shards = sorted((folder / "whole").glob("*.safetensors"))
    keep("killed", run_stage(options, "killed", rows=rows, kill_after=len(shards) // 2))
    result = run_stage(options, "killed", rows=rows)
    copies = [folder / "killed" / path.name for path in shards]
    same_count = sum(equal_tensors(*pair) for pair in zip(shards, copies, strict=True))
    keep("resumed", {**result, "shards of the same numbers": f"{same_count} of {len(shards)}"})
    keep("a tenth", run_stage(options, "tenth", rows=rows // 10))
    keep("one pass of training", run_stage(options, "train", rows=rows))


if __name__ == "__main__":
    config.run(main, Options)
