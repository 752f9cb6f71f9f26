"""Locate photos or views from orbit on Ray: one machine here, or a cluster."""

from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from icgeo import config
from icgeo.options import SHOTS

if TYPE_CHECKING:
    from icgeo.evaluation import Episode
    from icgeo.geolocator import Geolocator


@dataclass(frozen=True)
class Options:
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
    model: str = "tiny"
    """A name, a checkpoint folder, or a hub id."""
    device: str = "cpu"
    """Where each model runs."""
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


def gather(options: Options) -> "Episode":
    """Gather examples and queries."""
    from icgeo import evaluation

    shots, seed = max(options.shots), options.seed
    if options.queries:
        read = partial(evaluation.read_examples, shots=shots, seed=seed)
        examples = read(options.examples) if options.examples else []
        return evaluation.photo_episode(options.queries, examples)
    return evaluation.world_episode(options.world, queries=options.count, shots=shots, seed=seed)


def open_locators(options: Options, prompt: str) -> "list[Geolocator]":
    """Load the model of one actor."""
    from icgeo.geolocator import Geolocator
    from icgeo.models import load

    model = load(options.model, device=options.device)
    return [Geolocator(model, seed=options.seed, prompt=prompt, batch_size=options.batch_size)]


def main(options: Options) -> None:
    """Locate, print the table, write the run folder."""
    from icgeo import evaluation
    from icgeo.evaluation.ray_pipeline import Actors, evaluate_on_ray, local_ray

    episode = gather(options)
    folder = config.save_run(Path("runs") / options.name, options, may_differ=MACHINES)
    cpus, gpus = options.cpus_per_actor, options.gpus_per_actor
    pool = Actors(fewest=options.fewest, most=options.most, cpus=cpus, gpus=gpus)
    here = local_ray(cpus=options.cpus, object_store_mb=options.object_store_mb)
    with nullcontext() if options.cluster else here:
        rows = evaluate_on_ray(
            partial(open_locators, options, episode.prompt),
            [episode],
            folder=folder,
            shots=options.shots,
            batch_size=options.batch_size,
            pool=pool,
        )
    print(evaluation.format_results(rows), f"\nwritten to {folder}", sep="\n")


if __name__ == "__main__":
    config.run(main, Options)
