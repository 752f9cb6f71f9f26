"""Scores of rows: each metric once, in tables, and locators against each other.

Conventions: rows are the frame that `read_rows` gives. A query without an answer counts as a guess,
a quarter of the way around the sphere; a photo that could not be read is in no score, but counted.
Intervals hold 95 %, by the bootstrap over episodes; of a single episode, over its queries.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from pandas import DataFrame, Series
from torch import Tensor

from icgeo.baselines import BASELINES as BASELINES
from icgeo.baselines import BESIDE
from icgeo.metrics import THRESHOLDS_KM, geoscore, intervals
from icgeo.sphere import AREA_KM2, EARTH_RADIUS_KM, as_tensor

GUESS_KM = math.pi / 2 * EARTH_RADIUS_KM
"""Median error of guesses at random."""


@dataclass(frozen=True)
class Metric:
    """A score of queries: a value of each of them, and the statistic that sums them up."""

    title: str
    """Heading of a column."""
    unit: str
    format: str
    """Format specification of a number, such as ".0f"; shares are printed in percent."""
    values: Callable[[DataFrame], Any]
    """A number for each row; NaN leaves the row out."""
    statistic: intervals.Statistic = intervals.weighted_mean

    def column(self, rows: DataFrame) -> Float[Tensor, "rows"]:
        """Return the number of each row."""
        return as_tensor(self.values(rows)).double()

    def __call__(self, rows: DataFrame) -> float:
        """Score rows; NaN where no row has a value."""
        values = self.column(rows)
        values = values[~values.isnan()]
        return self.statistic(values, torch.ones_like(values)).item() if len(values) else math.nan

    def interval(self, rows: DataFrame, *, resamples: int = 1000) -> intervals.Interval:
        """Score rows, with the 95 % interval by the bootstrap over episodes."""
        values = self.column(rows)
        mask = ~values.isnan()
        if not mask.any():
            return intervals.Interval(math.nan, math.nan, math.nan)
        options = self.bootstrap(rows[mask.numpy()], resamples)
        return intervals.bootstrap_interval(values[mask], **options)

    def bootstrap(self, rows: DataFrame, resamples: int) -> dict[str, Any]:
        """Return the options of a bootstrap over episodes, or over the queries of a single one."""
        clusters = list(rows.episode) if rows.episode.nunique() > 1 else None
        options: dict[str, Any] = {"statistic": self.statistic, "clusters": clusters}
        return options | {"resamples": resamples, "generator": torch.Generator().manual_seed(0)}


def distances(rows: DataFrame) -> "Series[float]":
    """Return errors in km of rows whose truth is known; without an answer that of a guess."""
    return rows.distance_km.fillna(GUESS_KM)


def _within(km: float) -> Metric:
    return Metric(f"< {km:.0f} km", "share", ".0%", lambda rows: distances(rows) < km)


METRICS: dict[str, Metric] = {
    "median_km": Metric("median km", "km", ".0f", distances, intervals.weighted_median),
    "mean_km": Metric("mean km", "km", ".0f", distances),
    "geoscore": Metric("GeoScore", "0 to 5000", ".0f", lambda rows: geoscore(distances(rows))),
    **{f"within_{km:.0f}km": _within(km) for km in THRESHOLDS_KM},
    "nll": Metric("NLL", "nats/sr", ".2f", lambda rows: rows.nll),
    "area_share": Metric(
        "90 % area",
        "share of the sphere",
        ".1%",
        lambda rows: rows.area_90_km2 / AREA_KM2,
        intervals.weighted_median,
    ),
    "covered": Metric(
        "covered", "share", ".0%", lambda rows: (rows.level <= 0.9).where(rows.level.notna())
    ),
    "located": Metric("located", "share", ".0%", lambda rows: rows.distance_km.notna()),
    "seconds": Metric("s/query", "s", ".3f", lambda rows: rows.seconds),
}
"""Covered are the truths inside the 90 % regions, located the queries that got an answer."""
IN_TABLES = ("median_km", "mean_km", "within_2500km", "nll", "area_share", "covered")
"""What is printed; the other scores stand in `summary.json` and in reports."""


def score(rows: DataFrame, *, intervals: Sequence[str] = ("median_km",)) -> DataFrame:
    """Score the rows of each world, locator and number of shots, as far as the truth is known.

    Return a row for each in order of appearance: `world`, `locator`, `shots`, `queries`, `failed`
    (photos that could not be read), the metrics, and of `intervals` `<metric>_low` and `_high`.
    """
    by = ["world", "locator", "shots"]
    failures = Counter(rows[rows.error.notna()][by].itertuples(index=False, name=None))
    records: list[dict[str, Any]] = []
    for key, part in rows[rows.nll.notna()].groupby(by, sort=False):
        record = dict(zip(by, key, strict=True)) | {"queries": len(part), "failed": failures[key]}
        record |= {name: metric(part) for name, metric in METRICS.items()}
        for name in intervals:
            interval = METRICS[name].interval(part)
            record |= {f"{name}_low": interval.low, f"{name}_high": interval.high}
        records.append(record)
    ends = [f"{name}_{end}" for name in intervals for end in ("low", "high")]
    return DataFrame(records, columns=[*by, "queries", "failed", *METRICS, *ends])


def compare(
    rows: DataFrame,
    base: str,
    *,
    metrics: Sequence[str] = ("median_km", "nll"),
    by: Sequence[str] = ("shots",),
    resamples: int = 1000,
) -> DataFrame:
    """Compare locators with the one named `base` on the same queries; pairs are resampled together.

    Return a row for each locator in each group of `by`, by shots and the base first: `by`,
    `locator`, and of each metric its score, `<metric>_difference`, and the bounds of its interval
    `<metric>_low` and `<metric>_high`.

    Raises:
        ValueError: rows of different queries.
    """
    scored_rows = rows[rows.nll.notna()].sort_values("shots", kind="stable")
    records: list[dict[str, Any]] = []
    for key, group in scored_rows.groupby(list(by), sort=False):
        for locator in dict.fromkeys((base, *group.locator)):
            part = group[group.locator == locator]
            reference = _same_queries(part, group[group.locator == base])
            record = dict(zip((*by, "locator"), (*key, locator), strict=True))
            for name in metrics:
                metric = METRICS[name]
                pair = metric.column(part), metric.column(reference)
                interval = intervals.paired_bootstrap(*pair, **metric.bootstrap(part, resamples))
                record |= {name: metric(part), f"{name}_difference": interval.estimate}
                record |= {f"{name}_low": interval.low, f"{name}_high": interval.high}
            records.append(record)
    return DataFrame(records)


def _same_queries(rows: DataFrame, reference: DataFrame) -> DataFrame:
    """Bring the reference into the order of rows."""
    index, reference_index = (part.set_index(["episode", "id"]).index for part in (rows, reference))
    common_count = len(index.intersection(reference_index))
    if not common_count == len(index) == len(reference_index):
        raise ValueError(
            f"expected rows of the same queries, got {len(index)} and {len(reference_index)} of "
            f"which {common_count} are the same"
        )
    return reference.iloc[reference_index.get_indexer(index)]


def methods(rows: DataFrame) -> DataFrame:
    """Return the rows, or scores, of locators that are no baselines."""
    return rows[~rows.locator.isin(BASELINES)]


def levels_by_world(rows: DataFrame) -> dict[str, Tensor]:
    """Return credible levels of the method's truths with most shots, for `plot_calibration`."""
    levels: dict[str, Tensor] = {}
    for world, part in rows.groupby("world", sort=False):
        shots = part.shots.max()
        answers = methods(part[part.nll.notna() & (part.shots == shots)])
        if len(answers):
            levels[f"{world}, {shots} shots"] = as_tensor(answers.level)
    return levels


def to_markdown(frame: DataFrame) -> str:
    """Lay out a frame as a Markdown table; all but the first column stand to the right."""
    cells = [list(frame.columns), *frame.itertuples(index=False, name=None)]
    lines = [[str(cell) for cell in line] for line in cells]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join(
        f"| {' | '.join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])} |"
        for line in (lines[0], rule, *lines[1:])
    )


def score_table(scores: DataFrame) -> str:
    """Lay out scores of the method as Markdown, and below what its baselines reach, if they do."""
    method = methods(scores)
    name_columns = ["locator"] if method.locator.nunique() > 1 else []
    table = method[["world", *name_columns, "shots"]].copy()
    for name in IN_TABLES:
        table[METRICS[name].title] = [f"{value:{METRICS[name].format}}" for value in method[name]]
    tables = [to_markdown(table)]
    baselines = [name for name in BESIDE if (scores.locator == name).any()]
    if baselines and not name_columns:
        table = method[["world", "shots"]].copy()
        for name in (*method.locator.unique(), *baselines):
            part = scores[scores.locator == name]
            part = table[["world", "shots"]].merge(part, how="left", on=["world", "shots"])
            values = zip(part.median_km, part.nll, strict=True)
            table[name] = ["" if km != km else f"{km:.0f}, {nll:.2f}" for km, nll in values]
        tables += ["Median km, NLL, beside what else could be done:", to_markdown(table)]
    return "\n\n".join(tables)


def comparison_table(comparison: DataFrame) -> str:
    """Lay out what `compare` returns as Markdown; a difference below 0 is better than the base."""
    cells: list[Any] = [comparison.locator, comparison.shots]
    for name, form in (("median_km", ".0f"), ("nll", ".2f")):
        cells.append([f"{value:{form}}" for value in comparison[name]])
        cells.append(format_differences(comparison, name, f"+z{form}"))
    header = ["locator", "shots", "median km", "difference (95 %)", "NLL", "difference (95 %)"]
    return to_markdown(DataFrame(zip(*cells, strict=True), columns=header))


def format_differences(comparison: DataFrame, metric: str, form: str) -> list[str]:
    """Format the differences in a metric with their intervals, such as "-1.0 (-2.5, +0.2)"."""
    ends = comparison[[f"{metric}_{end}" for end in ("difference", "low", "high")]]
    return [
        f"{estimate:{form}} ({low:{form}}, {high:{form}})"
        for estimate, low, high in ends.itertuples(index=False, name=None)
    ]


def format_results(rows: DataFrame, *, most: int = 20) -> str:
    """Return the table of a run, at most so many answers of unknown truth, and what failed."""
    scores = score(rows)
    answers = rows[rows.true_lat.isna() & rows.error.isna()]
    failures = rows[rows.error.notna()].drop_duplicates("id", keep="last")
    lines = [score_table(scores)] if len(scores) else []
    for name, lat, lon, km2 in answers.head(most)[["id", "lat", "lon", "area_90_km2"]].to_numpy():
        place = f"{lat:.2f}, {lon:.2f}, 90 % within {km2:,.0f} km2"
        lines.append(f"{name}: {'not located' if math.isnan(lat) else place}")
    if len(answers) > most:
        lines.append(f"and {len(answers) - most} more in predictions.parquet")
    lines += [f"skipped {row.id}: {row.error}" for row in failures.itertuples()]
    return "\n".join(lines)
