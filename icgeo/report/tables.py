"""Tables of a report: frames of text, whose index names the rows, with units in the headings.

Conventions: what is not known or not a number is a dash; shares are in %, with one digit more than
in Markdown. A second line of a cell, after a line break, is its 95 % interval.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from icgeo.evaluation import BASELINES, METRICS, levels_by_world
from icgeo.metrics import calibration_error, coverage
from icgeo.prediction import rounded

DASH = "\N{EN DASH}"
RESULTS = (
    "median_km", "mean_km", "geoscore", "within_1km", "within_25km", "within_200km",
    "within_750km", "within_2500km", "nll", "area_share", "covered",
)  # fmt: skip
"""Metrics of a table of results."""
GLANCE = ("median_km", "geoscore", "within_2500km", "nll")
MANY = 10_000
"""Of more rows intervals are narrow, and take a fifth of the resamples."""
KOLMOGOROV = 1.358
"""Times 1 / sqrt(n): beyond it, calibration is rejected at 5 % (Massey 1951, table 1)."""


def format_number(value: float | None, form: str = ",.0f") -> str:
    """Format a number; a dash if there is none, and infinity as its sign.

    >>> format_number(1234.5, ",.1f"), format_number(float("nan")) == format_number(None) == DASH
    ('1,234.5', True)
    """
    if value is None or math.isnan(value):
        return DASH
    text = "∞" if math.isinf(value) else f"{abs(value):{form}}"
    return f"\N{MINUS SIGN}{text}" if value < 0 else text


def format_seconds(seconds: float) -> str:
    """Format a time to three digits, however short.

    >>> format_seconds(0.0000453219), format_seconds(12.3456)
    ('0.0000453', '12.3')
    """
    if not math.isfinite(seconds):
        return format_number(seconds)
    return np.format_float_positional(seconds, precision=3, fractional=False, trim="-")


def format_place(lat: float | None, lon: float | None) -> str:
    """Format a location in degrees."""
    if lat is None or lon is None or math.isnan(lat):
        return DASH
    return f"{format_number(lat, '.2f')}°, {format_number(lon, '.2f')}°"


def format_area(km2: float | None) -> str:
    """Format an area to three digits.

    >>> format_area(86733375.0)
    '86,700,000 km²'
    """
    return f"{rounded(km2)} km²" if km2 is not None and km2 > 0 else DASH


def heading(name: str) -> str:
    """Return the title of a metric with its unit.

    >>> heading("median_km"), heading("nll"), heading("area_share")
    ('median km', 'NLL, nats/sr', '90 % area, % of the sphere')
    """
    metric = METRICS[name]
    unit = metric.unit.replace("share", "%")
    return metric.title if metric.title.endswith(unit) else f"{metric.title}, {unit}"


def score_cells(rows: pd.DataFrame, names: Sequence[str]) -> dict[str, str]:
    """Score rows by metrics: by heading, the estimate and below it its interval."""
    resamples = 1000 if len(rows) <= MANY else 200
    cells = {}
    for name in names:
        metric = METRICS[name]
        interval = metric.interval(rows, resamples=resamples)
        scale, form = 1, f",{metric.format}"
        if metric.format.endswith("%"):
            scale, form = 100, f".{int(metric.format[1]) + 1}f"
        estimate, low, high = (
            format_number(scale * value, form)
            for value in (interval.estimate, interval.low, interval.high)
        )
        cells[heading(name)] = DASH if estimate == DASH else f"{estimate}\n{low} to {high}"
    return cells


def by_locator(rows: pd.DataFrame) -> Iterator[tuple[str, int, pd.DataFrame]]:
    """Divide rows by locator and shots; the method first, then its baselines."""
    keys = [rows["locator"].isin(BASELINES).rename("is_baseline"), "locator", "shots"]
    for (_, locator, shots), group in rows.groupby(keys):
        yield locator, shots, group


def results_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Score each locator with each number of shots on one world, as far as the truth is known.

    Rows of one locator that are the same for several numbers of shots, as chance's, are one.
    """
    lines = [
        {
            "locator": locator,
            "shots": str(shots),
            "queries": f"{len(group):,}",
            "located, %": format_number(100 * METRICS["located"](group)),
            **score_cells(group, RESULTS),
        }
        for locator, shots, group in by_locator(rows[rows["nll"].notna()])
    ]
    table = pd.DataFrame(lines)
    same = [name for name in table if name != "shots"]
    folded = table.groupby(same, sort=False)["shots"].agg(", ".join).reset_index()
    return folded[table.columns].set_index("locator")


def glance_table(runs: Sequence[tuple[str, pd.DataFrame]]) -> pd.DataFrame:
    """Score the methods of runs, each a name and rows, with most shots."""
    columns = ["run", "world or benchmark", "locator", "shots", "queries", *map(heading, GLANCE)]
    lines = []
    for name, rows in runs:
        for world, known in rows[rows["nll"].notna()].groupby("world", sort=False):
            for locator, shots, group in by_locator(known[known["shots"] == known["shots"].max()]):
                if locator not in BASELINES:
                    line = (name, world, locator, str(shots), f"{len(group):,}")
                    lines.append([*line, *score_cells(group, GLANCE).values()])
    return pd.DataFrame(lines, columns=columns).set_index(columns[:2])


def calibration_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Say how far the densities of the method with most shots are from calibrated, by world."""
    lines = []
    for name, levels in levels_by_world(rows).items():
        gap, bound = calibration_error(levels), KOLMOGOROV / math.sqrt(len(levels))
        lines.append(
            {
                "densities": name,
                "queries": f"{len(levels):,}",
                "truths in 50 % region, %": format_number(100 * coverage(levels, 0.5), ".1f"),
                "in 90 % region, %": format_number(100 * coverage(levels, 0.9), ".1f"),
                "distance from diagonal": format_number(gap, ".3f"),
                "5 % bound": format_number(bound, ".3f"),
                "calibration": "rejected" if gap > bound else "not rejected",
            }
        )
    return pd.DataFrame(lines).set_index("densities") if lines else pd.DataFrame()


def timing_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Say how long queries take: each its share of its batch, without reading the photo."""
    columns = [
        "locator", "shots", "queries", "mean, s/query", "median, s/query",
        "95th percentile, s/query", "throughput, queries/s",
    ]  # fmt: skip
    lines = []
    for locator, shots, group in by_locator(rows[rows["seconds"].notna()]):
        seconds = group["seconds"]
        mean = seconds.mean()
        times = map(format_seconds, (mean, seconds.median(), seconds.quantile(0.95)))
        rate = format_number(1 / mean if mean else None, ",.1f")
        lines.append([locator, str(shots), f"{len(group):,}", *times, rate])
    return pd.DataFrame(lines, columns=columns).set_index("locator")


def failure_table(rows: pd.DataFrame) -> pd.DataFrame:
    """List photos that could not be read or located, and why."""
    columns = {"id": "photo", "world": "from", "error": "reason"}
    return rows[[*columns]].rename(columns=columns).set_index("photo")


def answer_table(rows: pd.DataFrame) -> pd.DataFrame:
    """List answers whose truth is not known."""
    places = [
        "not located" if math.isnan(lat) else format_place(lat, lon)
        for lat, lon in zip(rows["lat"], rows["lon"], strict=True)
    ]
    return pd.DataFrame(
        {
            "photo": rows["id"],
            "locator": rows["locator"],
            "shots": rows["shots"],
            "answer, latitude and longitude": places,
            "90 % area": rows["area_90_km2"].map(format_area),
            "legibility, 0 to 1": [format_number(value, ".2f") for value in rows["legibility"]],
        }
    ).set_index("photo")


def values_table(values: Mapping[str, Any], header: tuple[str, str]) -> pd.DataFrame:
    """List named values; those within a value stand under its name."""
    return pd.DataFrame([*_flatten(values)], columns=[*header]).set_index(header[0])


def _flatten(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{above}{name}: ")
        else:
            yield f"{above}{name}", DASH if value is None else str(value)
