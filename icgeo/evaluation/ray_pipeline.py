"""The evaluation of `run` as a Ray Data pipeline: read -> locate in a pool of actors -> rows.

Conventions: one item of the pipeline is one batch of queries, composed as `evaluate` composes it.
Each actor writes its rows to a file of its own in the run folder, which driver and workers see
alike. An actor that dies is started again and its batch located anew; a run that was stopped, of
this pipeline or of `evaluate`, goes on after the batches that were finished.
"""

import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from pandas import DataFrame

from icgeo.config import UsageError, require
from icgeo.evaluation.episodes import Stream
from icgeo.evaluation.rows import RowFile, known_rows
from icgeo.evaluation.run import Order, batches, finish, locate, read
from icgeo.options import SHOTS
from icgeo.prediction import Locator


@dataclass(frozen=True)
class Actors:
    """The actors that locate, each with a model of its own."""

    name: str = "icgeo"
    """Name of their locators."""
    fewest: int = 1
    """Fewest actors at a time."""
    most: int = 2
    """Most actors at a time; Ray starts and stops them as work and machines come and go."""
    cpus: float = 0.5
    """Processors that one actor counts for; what is left over reads and writes."""
    gpus: float = 0.0
    """GPUs that one actor counts for."""
    baselines: bool = True
    """Whether to locate by baselines too where the truth is known."""


@contextmanager
def local_ray(*, cpus: int = 2, object_store_mb: int = 256) -> Iterator[None]:
    """Run Ray on this machine alone: offline, without dashboard and reports of usage.

    Raises:
        UsageError: Ray is not installed.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray = require("ray", "an evaluation on Ray", "ray")
    options = {"include_dashboard": False, "log_to_driver": False}
    ray.init(num_cpus=cpus, object_store_memory=object_store_mb * 2**20, **options)
    try:
        yield
    finally:
        ray.shutdown()


def evaluate_on_ray(
    open_locators: Callable[[], Sequence[Locator]],
    episodes: Sequence[Stream],
    *,
    folder: Path,
    shots: Sequence[int] = SHOTS,
    batch_size: int = 64,
    pool: Actors | None = None,
) -> DataFrame:
    """Do what `evaluate` does on the Ray that is running, with the same answers.

    The driver holds queries but not their pixels, unless they are given as arrays. `open_locators`
    is called in each actor, and returns a locator for each of the `episodes`.

    Raises:
        UsageError: Ray is not installed, or locators have another name than the pool.
    """
    pool = pool or Actors()
    folder.mkdir(parents=True, exist_ok=True)
    order: Order = {}
    runs, earlier_rows = [(pool.name, episode) for episode in episodes], known_rows(folder)
    work = batches(runs, shots=shots, size=batch_size, known=earlier_rows, order=order)
    items = [{"work": pickle.dumps(batch)} for batch in work if batch[-1]]  # shots are missing
    if items:
        data = require("ray.data", "an evaluation on Ray", "ray")
        # of episodes, actors need all but the queries
        example_episodes = [replace(episode, queries=()) for episode in episodes]
        read_items = data.from_items(items, override_num_blocks=len(items)).map(_read)
        size = {"min_size": pool.fewest, "max_size": pool.most, "max_tasks_in_flight_per_actor": 2}
        options = {"compute": data.ActorPoolStrategy(**size), "batch_size": 1}
        options |= {"num_cpus": pool.cpus, "num_gpus": pool.gpus}
        arguments = (open_locators, example_episodes, folder.absolute(), pool)
        read_items.map_batches(_Actor, fn_constructor_args=arguments, **options).materialize()
    return finish(folder, order, [pool.name])


def _read(item: dict[str, bytes]) -> dict[str, bytes]:
    """Decode the photos of a batch, in a task of its own while actors locate others."""
    run, queries, missing_shots = pickle.loads(item["work"])
    return {"work": pickle.dumps((run, read(queries), missing_shots))}


class _Actor:
    """A model in a process of its own."""

    def __init__(
        self,
        open_locators: Callable[[], Sequence[Locator]],
        episodes: Sequence[Stream],
        folder: Path,
        pool: Actors,
    ) -> None:
        self.runs = list(zip(open_locators(), episodes, strict=True))
        self.file = RowFile(folder / f"predictions-{uuid4().hex}.jsonl")
        self.earlier_rows = self.file.rows if pool.baselines else None
        for locator, _ in self.runs:
            if locator.name != pool.name:
                raise UsageError(
                    f"expected locators named {pool.name!r} as the pool, got {locator.name!r}"
                )

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[int]]:
        run, photos, missing_shots = pickle.loads(batch["work"][0])
        locator, episode = self.runs[run]
        for rows in locate(locator, episode, photos, shots=missing_shots, known=self.earlier_rows):
            self.file.append(rows)
        return {"run": [run]}
