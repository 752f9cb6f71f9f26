"""A locator on benchmarks: rows on disk as they come, then their scores.

Conventions: a run folder holds `predictions.jsonl`, one row for each query, number of shots and
locator, and in the end `predictions.parquet` and `summary.json`. Of several processes each writes
`predictions-<index>-of-<count>.jsonl`, which are merged in the end. What is in any of them is not
located again, however many processes go on. The final rows stand in the order of benchmarks,
shots, locators and queries, whoever located them in which order.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from tqdm import tqdm

from icgeo.evaluation.benchmarks import Query
from icgeo.evaluation.locating import locate, read
from icgeo.evaluation.rows import Key, Row, RowFile, known_rows, write_rows
from icgeo.evaluation.legacy import BASELINES, scores, to_json
from icgeo.evaluation.shards import ALONE, Shard
from icgeo.evaluation.streams import Benchmark
from icgeo.options import SHOTS
from icgeo.prediction import Locator

Order = dict[tuple[str, str], int]
"""The place of each query, named by benchmark and id, among all."""


def evaluate(
    runs: Sequence[tuple[Locator, Benchmark]],
    *,
    folder: Path,
    shots: Sequence[int] = SHOTS,
    batch_size: int = 64,
    baselines: bool = True,
    shard: Shard = ALONE,
) -> list[Row]:
    """Locate the queries of benchmarks with each number of shots, beside baselines if truth is known.

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
        all rows in the folder.

    Raises:
        UsageError: what was asked of the locator cannot be done.
    """
    order = locate_share(
        runs, folder=folder, shard=shard, shots=shots, batch_size=batch_size, baselines=baselines
    )
    shard.wait()
    if shard.is_main:
        rows = finish(folder, order, [locator.name for locator, _ in runs])
        shard.wait()
        return rows
    shard.wait()
    return list(known_rows(folder).values())


def locate_share(
    runs: Sequence[tuple[Locator, Benchmark]],
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
    total = _total(runs, shots)
    with tqdm(
        total=total and math.ceil(total / shard.count),
        desc="locating" if shard.count == 1 else f"locating, share 1 of {shard.count}",
        unit="query",
        disable=not shard.is_main,
    ) as bar:
        work = batches([episode for _, episode in runs], batch_size, order)
        for number, (run, queries) in enumerate(work):
            if not shard.takes(number):
                continue
            locator, episode = runs[run]
            counts = episode.shots(shots)
            left = missing(file.rows, locator.name, episode, queries, counts)
            bar.update(len(queries) * (len(counts) - len(left)))
            if not left:
                continue
            for new in locate(locator, episode, read(queries), shots=left, baselines=baselines):
                file.append(new)
                bar.update(len(queries))
    return order


def _total(runs: Sequence[tuple[Locator, Benchmark]], shots: Sequence[int]) -> int | None:
    """Count queries with each number of shots, unless a stream does not tell how many."""
    total = 0
    for _, episode in runs:
        if not isinstance(episode.queries, Sequence):
            return None
        total += len(episode.queries) * len(episode.shots(shots))
    return total


def batches(
    benchmarks: Sequence[Benchmark], size: int, order: Order
) -> Iterator[tuple[int, Sequence[Query]]]:
    """Take queries a batch at a time, with the number of their benchmark; note their order."""
    for number, benchmark in enumerate(benchmarks):
        queries = iter(benchmark.queries)
        while batch := list(islice(queries, size)):
            for query in batch:
                order.setdefault((benchmark.id, query.id), len(order))
            yield number, batch


def missing(
    known: Mapping[Key, Row],
    locator: str,
    episode: Benchmark,
    queries: Sequence[Query],
    shots: Sequence[int],
) -> list[int]:
    """Say for which numbers of shots not all rows of a batch are known."""
    return [
        count
        for count in shots
        if not all((locator, episode.id, query.id, count) in known for query in queries)
    ]


def finish(
    folder: Path, order: Order, locators: Sequence[str], *, also: Iterable[Row] = ()
) -> list[Row]:
    """Merge the rows of all processes in the order of the queries, and write their scores.

    Killed within, it finds everything again when it is called again.

    Args:
        folder: of the run.
        order: of the queries.
        locators: names, in the order in which they are told.
        also: rows kept elsewhere.

    Returns:
        all rows in the folder; those of other benchmarks and locators last.
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

    known = {row.key: row for row in also} | known_rows(folder)
    rows = sorted(known.values(), key=place)
    write_rows(folder, rows)
    write_results(folder, rows)
    return rows


def write_results(folder: Path, rows: Sequence[Row]) -> None:
    """Write all rows as Parquet and their scores as JSON."""
    import pandas

    pandas.DataFrame([vars(row) for row in rows]).to_parquet(
        folder / "predictions.parquet", index=False
    )
    summary = {"scores": [score.to_dict() for score in scores(rows)]}
    (folder / "summary.json").write_text(to_json(summary), encoding="utf-8")
