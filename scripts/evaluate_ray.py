"""Locate photos or views from orbit on Ray: one machine here, or a cluster."""

from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import icgeo
from icgeo import config
from icgeo.options import SHOTS, LoadOptions, fields_of


@dataclass(frozen=True, kw_only=True)
class Options(LoadOptions):
    """Locate fresh views of a world, or your own photos, by a pool of models."""

    queries: Path | None = None
    """Your photos (CSV, Parquet or a folder), instead of views of a world."""
    examples: Path | None = None
    """Photos whose locations are known, in the same forms."""
    world: str = "blue-marble"
    """A family of procedural worlds, or a picture of a whole planet."""
    count: int = 64
    """Number of views to locate."""
    shots: tuple[int, ...] = SHOTS
    """Numbers of examples."""
    batch_size: int = 64
    """Queries at a time."""
    seed: int = 0
    """Seed of worlds, views and noise."""
    fewest: int = 1
    """Actors at least, each with a model of its own."""
    most: int = 2
    """Actors at most."""
    cpus_per_actor: float = 0.5
    """What Ray reserves; the rest reads photos and writes rows."""
    gpus_per_actor: float = 0.0
    """What Ray reserves."""
    cluster: bool = False
    """Use the cluster that RAY_ADDRESS names, instead of this machine alone."""
    cpus: int = 2
    """Processors of this machine, as Ray counts them."""
    object_store_mb: int = 256
    """Shared memory of this machine for what goes from step to step."""
    name: str = "ray"
    """Run folder under runs/, which all machines see; a run that was stopped goes on."""


ACTORS = ("device", "fewest", "most", "cpus_per_actor", "gpus_per_actor")
MACHINES = (*ACTORS, "cluster", "cpus", "object_store_mb")
"""What may change before a run goes on."""


def main(options: Options) -> None:
    """Locate, print the table, write the run folder."""
    from icgeo import evaluation
    from icgeo.evaluation.ray_pipeline import Actors, evaluate_on_ray, local_ray

    shots, seed = max(options.shots), options.seed
    if options.queries:
        source, read = options.examples, partial(evaluation.read_examples, shots=shots, seed=seed)
        episode = evaluation.photo_episode(options.queries, read(source) if source else [])
    else:
        sizes: dict[str, Any] = {"queries": options.count, "shots": shots}
        episode = evaluation.world_episode(options.world, **sizes, seed=seed)
    folder = config.save_run(Path("runs") / options.name, options, may_differ=MACHINES)
    load_options, size = fields_of(LoadOptions, options), options.batch_size
    locate_options: dict[str, Any] = {"prompt": episode.prompt, "seed": seed, "batch_size": size}
    cpus, gpus = options.cpus_per_actor, options.gpus_per_actor
    pool = Actors(fewest=options.fewest, most=options.most, cpus=cpus, gpus=gpus)
    local_cluster = local_ray(cpus=options.cpus, object_store_mb=options.object_store_mb)
    with nullcontext() if options.cluster else local_cluster:
        rows = evaluate_on_ray(
            lambda: [icgeo.Geolocator(icgeo.load(**load_options), **locate_options)],
            [episode],
            folder=folder,
            shots=options.shots,
            batch_size=size,
            pool=pool,
        )
    print(evaluation.format_results(rows), f"\nwritten to {folder}", sep="\n")


if __name__ == "__main__":
    config.run(main, Options)
