"""Scores of rows: by world, locator and number of shots, as a table, and against each other.

Conventions: a query without an answer counts as a guess, a quarter of the way around the sphere; a
photo that could not be read is in no score, but counted. Intervals hold 95 %, by the bootstrap over
episodes.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from icgeo.baselines import Chance, NearestOracle, NearestPixels
from icgeo.evaluation.rows import Row
from icgeo.metrics import (
    Interval,
    Summary,
    bootstrap_interval,
    coverage,
    paired_bootstrap,
    summarise,
    weighted_median,
)
from icgeo.sphere import AREA_KM2, EARTH_RADIUS_KM

GUESS_KM = math.pi / 2 * EARTH_RADIUS_KM
"""Median error of guesses at random."""
RETRIEVAL = "retrieval"
"""The place of the example most alike, of all that a locator may choose from."""
BASELINES = (Chance.name, NearestPixels.name, RETRIEVAL, NearestOracle.name)
"""Names that tables and figures set apart; retrieval is there where locators choose."""


@dataclass(frozen=True)
class Score:
    """How a locator did on a world with a number of shots."""

    world: str
    locator: str
    shots: int
    summary: Summary
    median_km: Interval
    """Median error with its bootstrap interval, by episodes if there are several."""
    located: float
    """Fraction of the queries that got an answer."""
    coverage_90: float
    """Fraction of the truths inside the 90 % regions."""
    failed: int
    """Photos that could not be read."""

    def to_dict(self) -> dict[str, Any]:
        """Give one flat dictionary."""
        values = asdict(self)
        summary, interval = values.pop("summary"), values.pop("median_km")
        ends = {"median_km_low": interval["low"], "median_km_high": interval["high"]}
        return values | summary | ends


def to_json(values: Any) -> str:
    """Write values as JSON, with null for numbers that are not finite, which JSON has not."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(part) for key, part in value.items()}
        if isinstance(value, list):
            return [plain(part) for part in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(plain(values), indent=2, allow_nan=False) + "\n"


def scores(rows: Sequence[Row]) -> list[Score]:
    """Score every world, locator and number of shots, as far as the truth is known."""
    groups: dict[tuple[str, str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.world, row.locator, row.shots), []).append(row)
    return [
        _score(world, locator, shots, group)
        for (world, locator, shots), group in groups.items()
        if any(row.nll is not None for row in group)
    ]


def _score(world: str, locator: str, shots: int, rows: Sequence[Row]) -> Score:
    known = [row for row in rows if row.nll is not None]
    episodes = [row.episode for row in known]
    distance = distances(known)
    return Score(
        world=world,
        locator=locator,
        shots=shots,
        summary=summarise(
            distance,
            column(known, "nll"),
            area_km2=column(known, "area_90_km2"),
            seconds=column(known, "seconds"),
        ),
        median_km=bootstrap_interval(
            distance,
            statistic=weighted_median,
            # of one episode nothing is known but how its queries differ
            clusters=episodes if len(set(episodes)) > 1 else None,
            generator=torch.Generator().manual_seed(0),
        ),
        located=column(known, "distance_km").isfinite().double().mean().item(),
        coverage_90=coverage(column(known, "level"), 0.9),
        failed=sum(row.error is not None for row in rows),
    )


def column(rows: Sequence[Row], name: str) -> Float[Tensor, " rows"]:
    """Numbers of one field of the rows; NaN for what is not known."""
    values = [getattr(row, name) for row in rows]
    known = [math.nan if value is None else value for value in values]
    return torch.tensor(known, dtype=torch.float64)


def distances(rows: Sequence[Row]) -> Float[Tensor, " rows"]:
    """Errors in km of rows whose truth is known.

    Without an answer a row counts as a guess: a quarter of the way around, half of the sphere is
    nearer.
    """
    return column(rows, "distance_km").nan_to_num(GUESS_KM)


def select(
    rows: Sequence[Row], *, shots: int, locator: str | None = None, world: str | None = None
) -> list[Row]:
    """Pick rows with a known truth: of the method if no `locator` is named, of all worlds."""
    return [
        row
        for row in rows
        if row.nll is not None
        and row.shots == shots
        and (row.locator == locator if locator else row.locator not in BASELINES)
        and world in (None, row.world)
    ]


def levels_by_world(rows: Sequence[Row]) -> dict[str, Tensor]:
    """Credible levels of the method's truths with most shots, by world: for `plot_calibration`."""
    levels: dict[str, Tensor] = {}
    for world in dict.fromkeys(row.world for row in rows):
        shots = max(row.shots for row in rows if row.world == world)
        if known := select(rows, shots=shots, world=world):
            levels[f"{world}, {shots} shots"] = column(known, "level")
    return levels


def compare_medians(a: Sequence[Row], b: Sequence[Row], *, ratio: bool = False) -> Interval:
    """Difference a - b, or ratio a / b, of the median errors in km over the same queries.

    Episodes are resampled whole; of a single one, its queries.

    Raises:
        ValueError: rows of different queries.
    """
    return _compare(a, b, distances, statistic=weighted_median, ratio=ratio)


def compare_nll(a: Sequence[Row], b: Sequence[Row]) -> Interval:
    """Difference a - b of the mean NLL in nats per steradian, as `compare_medians`."""
    return _compare(a, b, lambda rows: column(rows, "nll"))


def _compare(
    a: Sequence[Row], b: Sequence[Row], values: Callable[[Sequence[Row]], Tensor], **options: Any
) -> Interval:
    first, second = ({(row.episode, row.id): row for row in rows} for rows in (a, b))
    if first.keys() != second.keys():
        raise ValueError(
            f"expected rows of the same queries, got {len(first)} and {len(second)} of which "
            f"{len(first.keys() & second.keys())} are the same"
        )
    systems = [values([rows[key] for key in first]) for rows in (first, second)]
    episodes = [episode for episode, _ in first]
    return paired_bootstrap(
        *systems,
        clusters=episodes if len(set(episodes)) > 1 else None,
        generator=torch.Generator().manual_seed(0),
        **options,
    )


HEADER = (
    "world", "shots", "median km", "GeoScore", "< 200 km", "< 750 km", "< 2500 km", "NLL",
    "90 % area", "covered", "s/query",
)  # fmt: skip


def table(scores: Sequence[Score]) -> str:
    """Lay out the scores of the method as Markdown, beside the median errors of its baselines in km.

    The 90 % area is the median one, as a share of the sphere; covered are the truths inside.
    """
    medians = {(s.world, s.shots, s.locator): s.summary.median_km for s in scores}
    baselines = [name for name in BASELINES if any(score.locator == name for score in scores)]
    lines: list[tuple[str, ...]] = [(*HEADER, *(f"{name}, km" for name in baselines))]
    for score in scores:
        if score.locator not in BASELINES:
            beside = [medians.get((score.world, score.shots, name)) for name in baselines]
            lines.append((*_cells(score), *("" if km is None else f"{km:.0f}" for km in beside)))
    return markdown(lines)


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """Lay out lines of cells, the header first, as a Markdown table; names to the left."""
    widths = [max(len(cell) for cell in cells) for cells in zip(*lines, strict=True)]
    rule = ["-" * (width - 1) + ":" for width in widths]
    rule[0] = "-" * widths[0]
    padded = [
        [cells[0].ljust(widths[0]), *map(str.rjust, cells[1:], widths[1:])] for cells in lines
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [padded[0], rule, *padded[1:]])


def _cells(score: Score) -> tuple[str, ...]:
    row = score.summary
    within = (row.within_200, row.within_750, row.within_2500)
    return (
        score.world,
        str(score.shots),
        f"{row.median_km:.0f}",
        f"{row.mean_geoscore:.0f}",
        *(f"{share:.0%}" for share in within),
        f"{row.mean_nll:.2f}",
        f"{(row.median_area_km2 or 0) / AREA_KM2:.1%}",
        f"{score.coverage_90:.0%}",
        f"{row.mean_seconds:.3f}",
    )


def report(rows: Sequence[Row], *, most: int = 20) -> str:
    """Tell what came of a run: the table, answers of unknown truth, photos that failed.

    `most` answers are listed; the rows on disk hold them all.
    """
    scored = scores(rows)
    answers = [row for row in rows if row.true_lat is None and row.error is None]
    failed = {row.id: row.error for row in rows if row.error is not None}
    lines = [table(scored)] if scored else []
    lines += [_answer(row) for row in answers[:most]]
    if len(answers) > most:
        lines.append(f"and {len(answers) - most} more in predictions.parquet")
    lines += [f"skipped {name}: {error}" for name, error in failed.items()]
    return "\n".join(lines)


def _answer(row: Row) -> str:
    if row.lat is None or row.lon is None:
        return f"{row.id}: not located"
    return f"{row.id}: {row.lat:.2f}, {row.lon:.2f}, 90 % within {row.area_90_km2:,.0f} km2"
