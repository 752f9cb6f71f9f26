"""The evaluation of `run` as a Ray Data pipeline: read -> locate in a pool of actors -> Parquet.

Conventions: one item of the pipeline is one batch of queries, composed as `evaluate` composes it.
Its rows are one part, a Parquet file under `parts/` of the run folder, which driver and workers
see alike. An actor that dies is started again and its batch located anew; a run that was stopped,
of this pipeline or of `evaluate`, goes on after the batches that were finished.
"""

import logging
import os
import pickle
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow
from pandas import DataFrame
from pyarrow import parquet

from icgeo.config import UsageError
from icgeo.evaluation.batch import locate, read
from icgeo.evaluation.episodes import QuerySet, Stream
from icgeo.evaluation.rows import Key, Row, known_rows
from icgeo.evaluation.run import Order, batches, finish, missing
from icgeo.options import SHOTS
from icgeo.prediction import Locator

PARTS = "parts"
ARROW: Mapping[Any, pyarrow.DataType] = {
    str: pyarrow.string(),
    str | None: pyarrow.string(),
    int: pyarrow.int64(),
    float | None: pyarrow.float64(),
    bool | None: pyarrow.bool_(),
}
SCHEMA = pyarrow.schema([(field.name, ARROW[field.type]) for field in fields(Row)])

logger = logging.getLogger(__name__)


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
    ray = _import_ray()
    ray.init(
        num_cpus=cpus,
        object_store_memory=object_store_mb * 2**20,
        include_dashboard=False,
        log_to_driver=False,
    )
    try:
        yield
    finally:
        ray.shutdown()


def evaluate_on_ray(
    open_locators: Callable[[], Sequence[Locator]],
    episodes: Sequence[QuerySet],
    *,
    folder: Path,
    shots: Sequence[int] = SHOTS,
    batch_size: int = 64,
    pool: Actors | None = None,
) -> DataFrame:
    """Do what `evaluate` does on the Ray that is running, with the same answers.

    The driver holds queries but not their pixels, unless they are given as arrays.

    Args:
        open_locators: called in each actor; gives a locator for each of the `episodes`.
        episodes: what to locate.
        folder: where rows are kept.
        shots: numbers of examples.
        batch_size: queries of one item.
        pool: how many actors, and what each needs.

    Returns:
        all rows in the folder.

    Raises:
        UsageError: Ray is not installed, or locators have another name than the pool.
    """
    pool = pool or Actors()
    known = {**part_rows(folder), **known_rows(folder)}
    order: Order = {}
    items = list(_items(episodes, known, order, shots=shots, size=batch_size, name=pool.name))
    if items:
        ray_data = _import_ray("ray.data")
        # of episodes, actors need all but the queries
        bare = [Stream(one.id, one.world, one.examples, queries=()) for one in episodes]
        located = (
            ray_data.from_items(items, override_num_blocks=len(items))
            .map(_read)
            .map_batches(
                _Actor,
                fn_constructor_args=(open_locators, bare, pool),
                compute=ray_data.ActorPoolStrategy(
                    min_size=pool.fewest, max_size=pool.most, max_tasks_in_flight_per_actor=2
                ),
                batch_size=1,
                num_cpus=pool.cpus,
                num_gpus=pool.gpus,
            )
        )
        located.write_parquet(str((folder / PARTS).absolute()))
    rows = finish(folder, order, [pool.name], also=part_rows(folder).values())
    shutil.rmtree(folder / PARTS, ignore_errors=True)
    return rows


def _import_ray(name: str = "ray") -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise UsageError("expected Ray to be installed; pip install 'icgeo[ray]'") from error


def _items(
    episodes: Sequence[QuerySet],
    known: Mapping[Key, Row],
    order: Order,
    *,
    shots: Sequence[int],
    size: int,
    name: str,
) -> Iterator[dict[str, bytes]]:
    """Return the batches of which rows are missing; note the order of all queries on the way."""
    for number, queries in batches(episodes, size, order):
        episode = episodes[number]
        left = missing(known, name, episode, queries, episode.shots(shots))
        if left:
            yield {"work": pickle.dumps((number, left, queries))}


def _read(item: dict[str, bytes]) -> dict[str, bytes]:
    """Decode the photos of a batch, in a task of its own while actors locate others."""
    number, left, queries = pickle.loads(item["work"])
    return {"work": pickle.dumps((number, left, read(queries)))}


class _Actor:
    """A model in a process of its own."""

    def __init__(
        self,
        open_locators: Callable[[], Sequence[Locator]],
        episodes: Sequence[QuerySet],
        pool: Actors,
    ) -> None:
        self.runs = list(zip(open_locators(), episodes, strict=True))
        self.baselines = pool.baselines
        for locator, _ in self.runs:
            if locator.name != pool.name:
                raise UsageError(
                    f"expected locators named {pool.name!r} as the pool, got {locator.name!r}"
                )

    def __call__(self, batch: dict[str, Any]) -> pyarrow.Table:
        (work,) = batch["work"]
        number, left, photos = pickle.loads(work)
        locator, episode = self.runs[number]
        parts = locate(locator, episode, photos, shots=left, baselines=self.baselines)
        return pyarrow.Table.from_pylist([vars(row) for rows in parts for row in rows], SCHEMA)


def part_rows(folder: Path) -> dict[Key, Row]:
    """Read the rows of the parts that were finished; one torn by a kill is located again."""
    rows: dict[Key, Row] = {}
    for path in sorted((folder / PARTS).glob("*.parquet")):
        try:
            table = parquet.read_table(path)
        except (pyarrow.ArrowInvalid, OSError) as error:
            logger.warning("%s: left out, it was not written to its end: %s", path, error)
            continue
        for values in table.to_pylist():
            row = Row(**values)
            rows.setdefault(row.key, row)
    return rows
