"""Tables of a report: cells of text, formatted with their units in the header.

Conventions: what is not known or not a number is a dash; shares are in %; intervals hold 95 %, by
the bootstrap over episodes, over queries where there is one episode. A query without an answer
counts as a guess (10,008 km).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor

from icgeo.evaluation import BASELINES, Row, column
from icgeo.evaluation.scores import distances
from icgeo.metrics import (
    Statistic,
    bootstrap_interval,
    calibration_error,
    coverage,
    geoscore,
    weighted_mean,
    weighted_median,
)
from icgeo.sphere import AREA_KM2

DASH = "\N{EN DASH}"
MOST_LISTED = 100
MANY = 10_000
"""Of more rows intervals are narrow, and take a fifth of the resamples."""
KOLMOGOROV = 1.358
"""Times 1 / sqrt(n): beyond it, calibration is rejected at 5 % (Massey 1951, table 1)."""


@dataclass(frozen=True)
class Cell:
    """A cell, and a smaller second line."""

    text: str
    small: str = ""


@dataclass(frozen=True)
class Table:
    """A table with a caption; the first `heads` cells of a row name it."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    heads: int = 1
    note: str = ""


@dataclass(frozen=True)
class Column:
    """A score of a table of results."""

    title: str
    values: Callable[[Sequence[Row]], Float[Tensor, " rows"]]
    statistic: Statistic
    form: str


def number(value: float | None, form: str = ",.0f") -> str:
    """Format a number; a dash if there is none, and infinity as its sign.

    >>> number(1234.5, ",.1f"), number(float("nan")) == number(None) == DASH
    ('1,234.5', True)
    """
    if value is None or math.isnan(value):
        return DASH
    if math.isinf(value):
        return "∞" if value > 0 else "\N{MINUS SIGN}∞"
    return f"{value:{form}}".replace("-", "\N{MINUS SIGN}")


def seconds_of(value: float | None) -> str:
    """Format a time to three digits, however short.

    >>> seconds_of(0.0000453219), seconds_of(12.3456)
    ('0.0000453', '12.3')
    """
    if value is None or not math.isfinite(value):
        return number(value)
    return np.format_float_positional(value, precision=3, fractional=False, trim="-")


def place(lat: float | None, lon: float | None) -> str:
    """Format a location in degrees."""
    if lat is None or lon is None:
        return DASH
    return f"{number(lat, '.2f')}°, {number(lon, '.2f')}°"


def area(km2: float | None) -> str:
    """Format an area to three digits.

    >>> area(86733375.0)
    '86,700,000 km²'
    """
    if km2 is None or not km2 > 0:
        return DASH
    return f"{round(km2, 2 - math.floor(math.log10(km2))):,.0f} km²"


def _within(km: float) -> Column:
    return Column(
        f"< {km:,.0f} km, %", lambda rows: 100 * (distances(rows) < km).double(), weighted_mean,
        ".1f",
    )  # fmt: skip


COLUMNS = (
    Column("median error, km", distances, weighted_median, ",.0f"),
    Column("mean error, km", distances, weighted_mean, ",.0f"),
    Column("GeoScore, 0 to 5000", lambda rows: geoscore(distances(rows)), weighted_mean, ",.0f"),
    *(_within(km) for km in (1, 25, 200, 750, 2500)),
    Column("NLL, nats/sr", lambda rows: column(rows, "nll"), weighted_mean, ".2f"),
    Column(
        "90 % area, % of sphere",
        lambda rows: 100 * column(rows, "area_90_km2") / AREA_KM2,
        weighted_median,
        ".2f",
    ),
    Column(
        "truth in it, %",
        lambda rows: 100 * (column(rows, "level") <= 0.9).double(),
        weighted_mean,
        ".1f",
    ),
)


def groups_of(rows: Sequence[Row]) -> dict[tuple[str, int], list[Row]]:
    """Divide the rows of known truth by locator and shots; the method first, then its baselines."""
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        if row.nll is not None:
            groups.setdefault((row.locator, row.shots), []).append(row)
    return dict(sorted(groups.items(), key=lambda item: (item[0][0] in BASELINES, item[0])))


def scored(rows: Sequence[Row], one: Column) -> Cell:
    """Score rows with an interval; rows that lack the value are left out."""
    values = one.values(rows)
    kept = [row.episode for row, value in zip(rows, values, strict=True) if not value.isnan()]
    if not kept:
        return Cell(DASH)
    found = bootstrap_interval(
        values[~values.isnan()],
        statistic=one.statistic,
        resamples=1000 if len(kept) <= MANY else 200,
        clusters=kept if len(set(kept)) > 1 else None,
        generator=Generator().manual_seed(0),
    )
    ends = f"{number(found.low, one.form)} to {number(found.high, one.form)}"
    return Cell(number(found.estimate, one.form), ends)


def results_table(world: str, rows: Sequence[Row]) -> Table:
    """Score each locator with each number of shots on one world.

    Rows of one locator that are the same for several numbers of shots, as chance's, are one.
    """
    folded: dict[tuple[str, tuple[Cell, ...]], list[int]] = {}
    for (locator, shots), part in groups_of(rows).items():
        located = 100 * column(part, "lat").isfinite().double().mean().item()
        counts = (Cell(f"{len(part):,}"), Cell(number(located, ".0f")))
        cells = (*counts, *(scored(part, one) for one in COLUMNS))
        folded.setdefault((locator, cells), []).append(shots)
    return Table(
        f"{world}: scores, and their 95 % intervals below",
        ("locator", "shots", "queries", "located, %", *(one.title for one in COLUMNS)),
        [
            [Cell(locator), Cell(", ".join(map(str, shots))), *cells]
            for (locator, cells), shots in folded.items()
        ],
    )


def calibration_table(levels: Mapping[str, Tensor]) -> Table:
    """Say how far densities are from calibrated."""
    rows = []
    for name, values in levels.items():
        gap, bound = calibration_error(values), KOLMOGOROV / math.sqrt(len(values))
        shares = [number(100 * coverage(values, p), ".1f") for p in (0.5, 0.9)]
        verdict = "rejected" if gap > bound else "not rejected"
        cells = (f"{len(values):,}", *shares, number(gap, ".3f"), number(bound, ".3f"), verdict)
        rows.append([Cell(name), *map(Cell, cells)])
    header = (
        "densities", "queries", "truths in 50 % region, %", "in 90 % region, %",
        "distance from diagonal", "5 % bound", "calibration",
    )  # fmt: skip
    note = (
        "Distance: the largest between the curve and the diagonal (Kolmogorov and Smirnov). The "
        "bound holds for independent queries; those of one episode share examples and are not."
    )
    return Table("Distance from calibration", header, rows, note=note)


def timing_table(rows: Sequence[Row]) -> Table:
    """Say how long queries take: each its share of its batch, without reading the photo."""
    timed: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        if row.seconds is not None:
            timed.setdefault((row.locator, row.shots), []).append(row)
    lines = []
    for (locator, shots), part in sorted(
        timed.items(), key=lambda one: (one[0][0] in BASELINES, one)
    ):
        seconds = column(part, "seconds")
        at = seconds.quantile(torch.tensor([0.5, 0.95], dtype=torch.float64)).tolist()
        mean = seconds.mean().item()
        cells = (str(shots), f"{len(part):,}", *map(seconds_of, (mean, *at)))
        rate = number(1 / mean if mean else None, ",.1f")
        lines.append([Cell(locator), *map(Cell, (*cells, rate))])
    header = (
        "locator", "shots", "queries", "mean, s/query", "median, s/query",
        "95th percentile, s/query", "throughput, queries/s",
    )  # fmt: skip
    note = "A query's share of the time of its batch; the photo was read before."
    return Table("Time a query takes, over all worlds", header, lines, note=note)


def failure_table(rows: Sequence[Row]) -> Table:
    """List photos that could not be read or located, and why."""
    shown = rows[:MOST_LISTED]
    more = len(rows) - len(shown)
    note = f"And {more:,} more in predictions.jsonl." if more else ""
    cells = [[Cell(row.id), Cell(row.world), Cell(row.error or DASH)] for row in shown]
    return Table(f"{len(rows):,} photos that failed", ("photo", "from", "reason"), cells, note=note)


def answer_table(rows: Sequence[Row]) -> Table:
    """List answers whose truth is not known."""
    shown = rows[:MOST_LISTED]
    more = len(rows) - len(shown)
    header = ("photo", "locator", "shots", "answer, latitude and longitude", "90 % area",
              "legibility, 0 to 1")  # fmt: skip
    cells = [
        [Cell(text) for text in (
            row.id, row.locator, str(row.shots),
            "not located" if row.lat is None else place(row.lat, row.lon),
            area(row.area_90_km2), number(row.legibility, ".2f"),
        )]
        for row in shown
    ]  # fmt: skip
    note = f"And {more:,} more in predictions.parquet." if more else ""
    return Table("Answers without a known truth", header, cells, note=note)


def values_table(caption: str, values: Mapping[str, Any], header: tuple[str, str]) -> Table:
    """List named values; those within a value stand under its name."""
    return Table(caption, header, [[Cell(name), Cell(text)] for name, text in _flat(values)])


def _flat(values: Mapping[str, Any], above: str = "") -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            lines += _flat(value, f"{above}{name}: ")
        else:
            lines.append((f"{above}{name}", DASH if value is None else str(value)))
    return lines
