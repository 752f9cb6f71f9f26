"""Locators on what they are measured on: rows on disk as they come, then their scores.

Conventions: a run folder holds `predictions.jsonl`, one row for each query, number of shots and
locator, and in the end `predictions.parquet` and `summary.json`. Of several processes, which all
see the folder, number i of n takes every n-th batch from the i-th on and writes
`predictions-<i>-of-<n>.jsonl`; they are merged in the end. What is in any of them is not located
again, however many processes go on. The final rows stand in the order of episodes, shots, locators
and queries, whoever located them in which order. What cannot be read or located is a row with an
`error` and no crash. A truth is scored here, and nowhere again.
"""

import logging
import math
import os
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from pandas import DataFrame
from tqdm import tqdm

from icgeo.baselines import Chance, NearestOracle, NearestPixels, Retrieval
from icgeo.config import UsageError
from icgeo.data.photos import READ_SIDE, PhotoError, read_photo
from icgeo.evaluation.episodes import Episode, Query, Stream
from icgeo.evaluation.rows import Key, Row, RowFile, known_rows, read_rows, to_frame, write_rows
from icgeo.evaluation.scores import BASELINES, score
from icgeo.features import Features
from icgeo.metrics.densities import searched_area_km2
from icgeo.options import SHOTS
from icgeo.prediction import Locator, Prediction, footprint
from icgeo.selection import Bank, Nearest, Selecting, make_strategy
from icgeo.sphere import distance_km

PATIENCE = timedelta(days=30)
"""How long a process that is done waits for the others."""
LONGEST_REASON = 500

Order = dict[tuple[str, str], int]
"""The place of each query, named by episode and id, among all."""
Photos = tuple[list[Query], list[tuple[Query, str]]]
"""A batch as read: queries with their pixels, and the others with why they could not be read."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shard:
    """One of `count` processes."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(
                f"expected a shard below their count, got {self.index} of {self.count}; "
                "shards are counted from 0"
            )

    @classmethod
    def here(cls) -> "Shard":
        """Return which of the processes of `accelerate launch` or torchrun this is; alone 0 of 1.

        Makes the GPU of this process the current one, so call it before a model is loaded.
        """
        state = _state()
        process_count = int(os.environ.get("WORLD_SIZE", "1"))
        if process_count != state.num_processes:
            raise UsageError(
                f"expected {process_count} processes as launched, Accelerate sees "
                f"{state.num_processes}; start them by accelerate launch or torchrun, or unset "
                "WORLD_SIZE"
            )
        return cls(state.process_index, state.num_processes)

    @property
    def is_main(self) -> bool:
        """Whether it prints, shows progress and merges."""
        return self.index == 0

    @property
    def file_name(self) -> str:
        """Where its rows go."""
        if self.count == 1:
            return "predictions.jsonl"
        return f"predictions-{self.index}-of-{self.count}.jsonl"

    def wait(self) -> None:
        """Wait for the other processes."""
        if self.count > 1:
            _state().wait_for_everyone()


def _state() -> Any:
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    # it reads that flag only from within an Accelerator
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    return PartialState(cpu=on_cpu, timeout=PATIENCE)


ALONE = Shard()


def evaluate(
    runs: Sequence[tuple[Locator, Stream]],
    *,
    folder: Path,
    shots: Sequence[int] = SHOTS,
    batch_size: int = 64,
    baselines: bool = True,
    shard: Shard = ALONE,
) -> DataFrame:
    """Locate queries with each number of shots, beside baselines if truth is known.

    A photo that cannot be read, or at which the locator fails, becomes a row with an `error`; to
    try it again, remove its line. Stopped at any time and called again, it goes on after the last
    batch that was finished. Answers are the same for any number of processes: give `Shard.here()`
    where all those of `accelerate launch` divide the work. All rows in the folder are returned.

    Raises:
        UsageError: what was asked of the locator cannot be done.
    """
    order = locate_share(
        runs, folder=folder, shard=shard, shots=shots, batch_size=batch_size, baselines=baselines
    )
    shard.wait()
    if shard.is_main:
        finish(folder, order, [locator.name for locator, _ in runs])
    shard.wait()
    return read_rows(folder)


def locate_share(
    runs: Sequence[tuple[Locator, Stream]],
    *,
    folder: Path,
    shard: Shard,
    shots: Sequence[int],
    batch_size: int,
    baselines: bool,
) -> Order:
    """Locate what is missing of the share of one process; return the order of all queries."""
    folder.mkdir(parents=True, exist_ok=True)
    file = RowFile(folder / shard.file_name)
    file.rows.update(known_rows(folder))
    order: Order = {}
    sizes = [
        len(episode.queries) * len(episode.shots(shots))
        for _, episode in runs
        if isinstance(episode.queries, Sequence)
    ]
    with tqdm(  # a stream does not tell how many queries it has
        total=math.ceil(sum(sizes) / shard.count) if len(sizes) == len(runs) else None,
        desc="locating" if shard.count == 1 else f"locating, share 1 of {shard.count}",
        unit="query",
        disable=not shard.is_main,
    ) as bar:
        named_runs = [(locator.name, episode) for locator, episode in runs]
        work = batches(named_runs, shots=shots, size=batch_size, known=file.rows, order=order)
        for run, queries, missing_shots in islice(work, shard.index, None, shard.count):
            locator, episode = runs[run]
            bar.update(len(queries) * (len(episode.shots(shots)) - len(missing_shots)))
            photos = read(queries) if missing_shots else ([], [])
            earlier_rows = file.rows if baselines else None
            for rows in locate(locator, episode, photos, shots=missing_shots, known=earlier_rows):
                file.append(rows)
                bar.update(len(queries))
    return order


def batches(
    runs: Sequence[tuple[str, Stream]],
    *,
    shots: Sequence[int],
    size: int,
    known: Container[Key],
    order: Order,
) -> Iterator[tuple[int, list[Query], list[int]]]:
    """Take queries a batch at a time, of runs named by their locators; note their order.

    Yield the number of the run, the queries, and the shots for which not all rows are known.
    """
    for number, (locator, episode) in enumerate(runs):
        queries = iter(episode.queries)
        while batch := list(islice(queries, size)):
            for query in batch:
                order.setdefault((episode.id, query.id), len(order))
            missing_shots = [
                count
                for count in episode.shots(shots)
                if any((locator, episode.id, query.id, count) not in known for query in batch)
            ]
            yield number, batch, missing_shots


def read(queries: Sequence[Query]) -> Photos:
    """Decode photos; set apart those that cannot be, and why."""
    readable_queries: list[Query] = []
    errors: list[tuple[Query, str]] = []
    for query in queries:
        try:
            readable_queries.append(
                replace(query, photo=read_photo(query.photo, size_hint=READ_SIDE))
            )
        except PhotoError as error:
            errors.append((query, str(error)))
    return readable_queries, errors


def locate(
    locator: Locator,
    episode: Stream,
    photos: Photos,
    *,
    shots: Sequence[int],
    known: Container[Key] | None = None,
) -> Iterator[list[Row]]:
    """Return the rows of a batch for each number of shots.

    Baselines are beside it, less the rows that are `known` of another locator; None leaves them
    out.
    """
    queries, errors = photos
    scored_queries = [one for one in queries if one.lat_lon is not None]
    baselines: tuple[Locator, ...] = ()
    if scored_queries and known is not None:
        truth = torch.tensor([query.lat_lon for query in scored_queries], dtype=torch.float64)
        baselines = (Chance(), NearestPixels(), NearestOracle(truth))
    for count in shots:
        # the locator's own rows last: where they are on disk, so are those of its baselines
        yield [
            *(
                row
                for one in baselines
                if any(
                    (one.name, episode.id, q.id, count) not in (known or ()) for q in scored_queries
                )
                for row in located_rows(one, episode, scored_queries, count)
            ),
            *_robust_rows(locator, episode, queries, count),
            *(to_row(locator.name, episode, q, count, error=error) for q, error in errors),
        ]


def _robust_rows(
    locator: Locator, episode: Stream, queries: Sequence[Query], shots: int
) -> list[Row]:
    """Locate queries; if that fails, one by one, so that only the one to blame has an `error`."""
    try:
        return located_rows(locator, episode, queries, shots)
    except UsageError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST_REASON]
        logger.warning("%s: %d photos with %d shots: %s", episode.id, len(queries), shots, reason)
        if len(queries) == 1:
            return [to_row(locator.name, episode, queries[0], shots, error=reason)]
    return [row for query in queries for row in _robust_rows(locator, episode, [query], shots)]


def located_rows(
    locator: Locator, episode: Stream, queries: Sequence[Query], shots: int
) -> list[Row]:
    """Locate queries and score them as far as their truth is known."""
    if not queries:
        return []
    predictions = locator.locate([query.photo for query in queries], episode.examples[:shots])
    pairs = zip(queries, predictions, strict=True)
    return [to_row(locator.name, episode, query, shots, one) for query, one in pairs]


def to_row(
    locator: str,
    episode: Stream,
    query: Query,
    shots: int,
    prediction: Prediction | None = None,
    *,
    error: str | None = None,
) -> Row:
    """Return what a prediction says of a query and how far it is from the truth, or the error."""
    truth, values = query.lat_lon, dict[str, Any](error=error)
    if truth:
        values |= {"true_lat": truth[0], "true_lon": truth[1]}
    if prediction:
        names = ["located", "legibility", "in_domain", "seconds"]
        names += ["lat", "lon"] * prediction.located
        values |= {name: getattr(prediction, name) for name in names}
        density = prediction.density
        values["area_90_km2"] = density.credible_area_km2(0.9)
        if prediction.levels:
            values |= _of_zoom(prediction, truth)
        if truth:
            values["nll"] = -density.log_prob(truth).item()
            values["level"] = density.credible_level(truth).item()
            values["searched_area_km2"] = searched_area_km2(density, truth)
        if truth and prediction.located:
            values["distance_km"] = distance_km((prediction.lat, prediction.lon), truth).item()
    return Row(locator, episode.id, episode.world, query.id, shots, query.source, **values)


def _of_zoom(prediction: Prediction, truth: tuple[float, float] | None) -> dict[str, Any]:
    """Return what a row says of a zoom."""
    levels = [level.to_dict() for level in prediction.levels]
    if truth:
        for record, level in zip(levels, prediction.levels, strict=True):
            record["nll"] = -level.density.log_prob(truth).item()
    if not prediction.located:
        return {"levels": levels}
    names = ("heading_deg", "field_of_view_deg")
    angles = {name: getattr(prediction, name) for name in names}
    shape = footprint(prediction.levels[-1].poses[:1])
    return {"levels": levels, "footprint": shape.wkt, **angles}


def finish(folder: Path, order: Order, locators: Sequence[str]) -> DataFrame:
    """Merge the rows of all processes in the order of queries and locators; write their scores.

    Killed within, it finds everything again when it is called again. Rows of other episodes and
    locators stand last.
    """
    episodes = {name: i for i, name in enumerate(dict.fromkeys(name for name, _ in order))}
    names = {name: i for i, name in enumerate(dict.fromkeys((*BASELINES, *locators)))}

    def place(row: Row) -> tuple[float, ...]:
        return (
            episodes.get(row.episode, math.inf),
            row.shots,
            names.get(row.locator, math.inf),
            order.get((row.episode, row.id), math.inf),
        )

    rows = sorted(known_rows(folder).values(), key=place)
    write_rows(folder, rows)
    return write_results(folder, rows)


def write_results(folder: Path, rows: Iterable[Row]) -> DataFrame:
    """Write all rows as Parquet and their scores as JSON, with null for what is not finite."""
    frame = to_frame(rows)
    frame.to_parquet(folder / "predictions.parquet", index=False)
    scores = score(frame).to_json(orient="records", double_precision=15, indent=2)
    (folder / "summary.json").write_text(f'{{"scores": {scores}}}\n', encoding="utf-8")
    return frame


def choose_examples(
    runs: Iterable[tuple[Locator, Episode]], choice: str, features: Features | None, *, shots: int
) -> tuple[list[tuple[Locator, Episode]], list[tuple[Locator, Episode]]]:
    """Let locators choose from all examples of their episodes, of which `shots` are left to count.

    Return runs of these locators, and of their baseline where the truth is known: retrieval of the
    example most alike in the same features, if the choice has features.
    """
    banks: dict[int, Bank] = {}  # episodes of a benchmark share their examples
    choosing_runs: list[tuple[Locator, Episode]] = []
    baselines: list[tuple[Locator, Episode]] = []
    for locator, episode in runs:
        bank = banks.setdefault(id(episode.examples), Bank(episode.examples, features))
        short_episode = replace(episode, examples=episode.examples[:shots])
        strategy = make_strategy(choice, locator)
        choosing_runs.append((Selecting(locator, bank, strategy, name=locator.name), short_episode))
        scored_queries = [query for query in episode.queries if query.lat_lon is not None]
        if scored_queries and len(bank) and features:
            retrieval = Retrieval(features)
            baseline = Selecting(retrieval, bank, Nearest(), shots=1, name=retrieval.name)
            baselines.append((baseline, replace(short_episode, queries=scored_queries)))
    return choosing_runs, baselines
