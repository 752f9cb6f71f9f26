"""A batch of queries located: photos read, baselines beside, rows with their scores.

Conventions: what cannot be read or located is a row with an `error` and no crash. A truth is scored
here, and nowhere again.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from icgeo.baselines import Chance, NearestOracle, NearestPixels
from icgeo.config import UsageError
from icgeo.data.photos import READ_SIDE, PhotoError, read_photo
from icgeo.evaluation.episodes import Query, QuerySet
from icgeo.evaluation.rows import Row
from icgeo.metrics.densities import searched_area_km2
from icgeo.prediction import Locator, Prediction
from icgeo.sphere import distance_km

LONGEST_REASON = 500

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Photos:
    """A batch as read: queries with their pixels, and why the others could not be read."""

    queries: Sequence[Query]
    errors: Sequence[tuple[Query, str]] = ()


def read(queries: Sequence[Query]) -> Photos:
    """Decode photos; set apart those that cannot be, and why."""
    good: list[Query] = []
    errors: list[tuple[Query, str]] = []
    for query in queries:
        try:
            good.append(replace(query, photo=read_photo(query.photo, size_hint=READ_SIDE)))
        except PhotoError as error:
            errors.append((query, str(error)))
    return Photos(good, errors)


def locate(
    locator: Locator, episode: QuerySet, photos: Photos, *, shots: Sequence[int], baselines: bool
) -> Iterator[list[Row]]:
    """Return the rows of a batch for each number of shots.

    Raises:
        UsageError: what was asked of the locator cannot be done; no photo is to blame.
    """
    known = [query for query in photos.queries if query.lat_lon is not None]
    beside: tuple[Locator, ...] = ()
    if baselines and known:
        truth = torch.tensor([query.lat_lon for query in known], dtype=torch.float64)
        beside = (Chance(), NearestPixels(), NearestOracle(truth))
    for count in shots:
        # the locator's own rows last: where they are on disk, so are those of its baselines
        yield [
            *(row for one in beside for row in located_rows(one, episode, known, count)),
            *_robust_rows(locator, episode, photos.queries, count),
            *(new_row(locator.name, episode, q, count, error) for q, error in photos.errors),
        ]


def _robust_rows(
    locator: Locator, episode: QuerySet, queries: Sequence[Query], shots: int
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
            return [new_row(locator.name, episode, queries[0], shots, reason)]
    return [row for query in queries for row in _robust_rows(locator, episode, [query], shots)]


def located_rows(
    locator: Locator, episode: QuerySet, queries: Sequence[Query], shots: int
) -> list[Row]:
    """Locate queries and score them as far as their truth is known."""
    if not queries:
        return []
    predictions = locator.locate([query.photo for query in queries], episode.examples[:shots])
    return [
        scored(new_row(locator.name, episode, query, shots), prediction)
        for query, prediction in zip(queries, predictions, strict=True)
    ]


def new_row(
    locator: str, episode: QuerySet, query: Query, shots: int, error: str | None = None
) -> Row:
    """Return what is known before a query is located."""
    lat, lon = query.lat_lon or (None, None)
    return Row(
        *(locator, episode.id, episode.world, query.id, shots, query.source),
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
    distance = distance_km([prediction.lat, prediction.lon], truth).item() if row.located else None
    return replace(
        row,
        nll=-density.log_prob(truth).item(),
        level=density.credible_level(truth).item(),
        searched_area_km2=searched_area_km2(density, truth),
        distance_km=distance,
    )
