"""A locator on episodes: rows on disk as they come, then their scores.

Conventions: a run folder holds `predictions.jsonl`, one row for each query, number of shots and
locator, and in the end `predictions.parquet` and `summary.json`. What is there is not
located again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from icgeo.baselines import Chance, NearestOracle, NearestPixels
from icgeo.data.photos import PhotoError, read_photo
from icgeo.evaluation.benchmarks import Episode, Query
from icgeo.evaluation.rows import Row, RowFile
from icgeo.evaluation.scores import scores, to_json
from icgeo.metrics import searched_area_km2
from icgeo.prediction import Locator, Prediction
from icgeo.sphere import distance_km

SHOTS = (0, 1, 2, 4, 8, 16)
READ_SIDE = 1024
"""Photos are decoded once for all locators, JPEGs at a fraction of their size if still so large."""


def evaluate(
    runs: Sequence[tuple[Locator, Episode]],
    *,
    folder: Path,
    shots: Sequence[int] = SHOTS,
    batch_size: int = 64,
    rivals: bool = True,
) -> list[Row]:
    """Locate the queries of episodes with each number of shots, beside rivals where truth is known.

    A photo that cannot be read becomes a row with an `error`. Stopped at any time and called
    again, it goes on after the last batch that was finished.

    Returns:
        all rows in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = RowFile(folder / "predictions.jsonl")
    total = sum(len(episode.queries) * len(episode.shots(shots)) for _, episode in runs)
    with tqdm(total=total, desc="locating", unit="query") as bar:
        for locator, episode, queries in _batches(runs, batch_size):
            counts = episode.shots(shots)
            left = [k for k in counts if not _is_done(file, locator.name, episode, queries, k)]
            bar.update(len(queries) * (len(counts) - len(left)))
            for new in _locate(locator, episode, queries, shots=left, rivals=rivals):
                file.append(new)
                bar.update(len(queries))
    rows = list(file.rows.values())
    write_results(folder, rows)
    return rows


def _batches(
    runs: Sequence[tuple[Locator, Episode]], batch_size: int
) -> Iterator[tuple[Locator, Episode, Sequence[Query]]]:
    for locator, episode in runs:
        for start in range(0, len(episode.queries), batch_size):
            yield locator, episode, episode.queries[start : start + batch_size]


def _is_done(
    file: RowFile, locator: str, episode: Episode, queries: Sequence[Query], shots: int
) -> bool:
    return all((locator, episode.id, query.id, shots) in file.rows for query in queries)


def _locate(
    locator: Locator,
    episode: Episode,
    queries: Sequence[Query],
    *,
    shots: Sequence[int],
    rivals: bool,
) -> Iterator[list[Row]]:
    """Give the rows of a batch for each number of shots."""
    photos, errors = _read(queries) if shots else ([], [])
    known = [query for query in photos if query.lat_lon is not None]
    for count in shots:
        rows: list[Row] = []
        for rival in _rivals(known) if rivals else ():
            rows += rows_of(rival, episode, known, count)
        # the locator's own rows last: where they are on disk, so are those of its rivals
        rows += rows_of(locator, episode, photos, count)
        rows += [new_row(locator.name, episode, query, count, error) for query, error in errors]
        yield rows


def _rivals(known: Sequence[Query]) -> tuple[Locator, ...]:
    if not known:
        return ()
    truth = torch.tensor([query.lat_lon for query in known], dtype=torch.float64)
    return Chance(), NearestPixels(), NearestOracle(truth)


def _read(queries: Sequence[Query]) -> tuple[list[Query], list[tuple[Query, str]]]:
    """Decode photos; give apart those that cannot be, and why."""
    photos: list[Query] = []
    errors: list[tuple[Query, str]] = []
    for query in queries:
        try:
            photos.append(replace(query, photo=read_photo(query.photo, size_hint=READ_SIDE)))
        except PhotoError as error:
            errors.append((query, str(error)))
    return photos, errors


def rows_of(locator: Locator, episode: Episode, queries: Sequence[Query], shots: int) -> list[Row]:
    """Locate queries and score them as far as their truth is known."""
    if not queries:
        return []
    predictions = locator.locate([query.photo for query in queries], episode.examples[:shots])
    return [
        scored(new_row(locator.name, episode, query, shots), prediction)
        for query, prediction in zip(queries, predictions, strict=True)
    ]


def new_row(
    locator: str, episode: Episode, query: Query, shots: int, error: str | None = None
) -> Row:
    """Say what is known before a query is located."""
    lat, lon = query.lat_lon or (None, None)
    return Row(
        locator=locator,
        episode=episode.id,
        world=episode.world,
        id=query.id,
        shots=shots,
        source=query.source,
        true_lat=lat,
        true_lon=lon,
        error=error,
    )


def scored(row: Row, prediction: Prediction) -> Row:
    """Add what a prediction says, and how far it is from the truth of the row."""
    density = prediction.density
    row = replace(
        row,
        area_90_km2=density.credible_area_km2(0.9),
        legibility=prediction.legibility,
        located=prediction.located,
        seconds=prediction.seconds,
    )
    if prediction.located:
        row = replace(row, lat=prediction.lat, lon=prediction.lon)
    if row.true_lat is None or row.true_lon is None:
        return row
    truth = [row.true_lat, row.true_lon]
    row = replace(
        row,
        nll=-density.log_prob(truth).item(),
        level=density.credible_level(truth).item(),
        searched_area_km2=searched_area_km2(density, truth),
    )
    if row.lat is None or row.lon is None:
        return row
    return replace(row, distance_km=distance_km([row.lat, row.lon], truth).item())


def write_results(folder: Path, rows: Sequence[Row]) -> None:
    """Write all rows as Parquet and their scores as JSON."""
    import pandas

    pandas.DataFrame([vars(row) for row in rows]).to_parquet(
        folder / "predictions.parquet", index=False
    )
    summary = {"scores": [score.to_dict() for score in scores(rows)]}
    (folder / "summary.json").write_text(to_json(summary), encoding="utf-8")
