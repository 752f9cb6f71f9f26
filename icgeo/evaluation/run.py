"""Locators on what they are measured on: rows on disk as they come, then their scores.

Conventions: a run folder holds `predictions.jsonl`, one row for each query, number of shots and
locator, and in the end `predictions.parquet` and `summary.json`. Of several processes each writes
`predictions-<index>-of-<count>.jsonl`, which are merged in the end. What is in any of them is not
located again, however many processes go on. The final rows stand in the order of episodes, shots,
locators and queries, whoever located them in which order.
"""

import math
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from pandas import DataFrame
from tqdm import tqdm

from icgeo.baselines import NearestPixels
from icgeo.evaluation.batch import locate, read
from icgeo.evaluation.episodes import Episode, Query, QuerySet
from icgeo.evaluation.rows import Key, Row, RowFile, known_rows, read_rows, to_frame, write_rows
from icgeo.evaluation.scores import BASELINES, RETRIEVAL, score
from icgeo.evaluation.shards import ALONE, Shard
from icgeo.features import Features
from icgeo.options import SHOTS
from icgeo.prediction import Locator
from icgeo.selection import Bank, Nearest, Selecting, make_strategy

Order = dict[tuple[str, str], int]
"""The place of each query, named by episode and id, among all."""


def evaluate(
    runs: Sequence[tuple[Locator, QuerySet]],
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
    batch that was finished. Answers are the same for any number of processes.

    Args:
        runs: locators, and what they locate.
        folder: where the rows are kept.
        shots: numbers of examples.
        batch_size: queries at a time.
        baselines: whether to locate by baselines too.
        shard: `Shard.here()` where all processes of `accelerate launch` divide the work.

    Returns:
        all rows in the folder, as `to_frame` lays them out.

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
    runs: Sequence[tuple[Locator, QuerySet]],
    *,
    folder: Path,
    shard: Shard,
    shots: Sequence[int] = SHOTS,
    batch_size: int = 64,
    baselines: bool = True,
) -> Order:
    """Locate what is missing of the share of one process.

    Returns:
        the order of all queries, for `finish`.
    """
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
        named = [(locator.name, episode) for locator, episode in runs]
        work = batches(named, shots=shots, size=batch_size, known=file.rows, order=order)
        for number, batch in enumerate(work):
            if not shard.takes(number):
                continue
            bar.update(len(batch.queries) * batch.done)
            if batch.missing:
                photos = read(batch.queries)
                for rows in locate(
                    *runs[batch.run], photos, shots=batch.missing, baselines=baselines
                ):
                    file.append(rows)
                    bar.update(len(batch.queries))
    return order


@dataclass(frozen=True)
class Batch:
    """Queries to locate together."""

    run: int
    """Number of their run."""
    queries: Sequence[Query]
    missing: Sequence[int]
    """Numbers of shots for which not all of their rows are known."""
    done: int
    """How many numbers of shots are not missing."""


def batches(
    runs: Sequence[tuple[str, QuerySet]],
    *,
    shots: Sequence[int],
    size: int,
    known: Container[Key],
    order: Order,
) -> Iterator[Batch]:
    """Take queries a batch at a time, of runs named by their locators; note their order."""
    for number, (locator, episode) in enumerate(runs):
        queries = iter(episode.queries)
        counts = episode.shots(shots)
        while batch := list(islice(queries, size)):
            for query in batch:
                order.setdefault((episode.id, query.id), len(order))
            missing = [
                count
                for count in counts
                if any((locator, episode.id, query.id, count) not in known for query in batch)
            ]
            yield Batch(number, batch, missing, len(counts) - len(missing))


def finish(folder: Path, order: Order, locators: Sequence[str]) -> DataFrame:
    """Merge the rows of all processes in the order of the queries, and write their scores.

    Killed within, it finds everything again when it is called again.

    Args:
        folder: of the run.
        order: of the queries.
        locators: names, in the order of their rows.

    Returns:
        all rows in the folder; those of other episodes and locators last.
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

    Returns:
        runs of these locators, and of their baseline where the truth is known: `RETRIEVAL`, the
        place of the example most alike in the same features, if the choice has features.
    """
    banks: dict[int, Bank] = {}  # episodes of a benchmark share their examples
    choosing: list[tuple[Locator, Episode]] = []
    baselines: list[tuple[Locator, Episode]] = []
    for locator, episode in runs:
        bank = banks.setdefault(id(episode.examples), Bank(episode.examples, features))
        few = replace(episode, examples=episode.examples[:shots])
        strategy = make_strategy(choice, locator)
        choosing.append((Selecting(locator, bank, strategy, name=locator.name), few))
        known = [query for query in episode.queries if query.lat_lon is not None]
        if known and len(bank) and features:
            nearest = Selecting(NearestPixels(), bank, Nearest(), shots=1, name=RETRIEVAL)
            baselines.append((nearest, replace(few, queries=known)))
    return choosing, baselines
