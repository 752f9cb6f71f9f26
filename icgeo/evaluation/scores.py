"""Scores of rows: each metric once, by any columns, in tables, and locators against each other.

Conventions: rows are the frame that `read_rows` gives. A query without an answer counts as a guess,
a quarter of the way around the sphere; a photo that could not be read is in no score, but counted.
Intervals hold 95 %, by the bootstrap over episodes; of a single episode, over its queries.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from pandas import DataFrame
from torch import Tensor

from icgeo.baselines import Chance, NearestOracle, NearestPixels
from icgeo.evaluation.rows import to_frame
from icgeo.metrics import (
    THRESHOLDS_KM,
    Interval,
    Statistic,
    bootstrap_interval,
    geoscore,
    paired_bootstrap,
    weighted_mean,
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
class Metric:
    """A score of queries: a value of each of them, and the statistic that sums them up."""

    title: str
    """Heading of a column."""
    unit: str
    format: str
    """Format specification of a number, such as ".0f"; shares are printed in percent."""
    higher_is_better: bool | None
    """Direction; None where the best value is in between."""
    values: Callable[[DataFrame], Float[Tensor, "rows"]]
    """One value for each row; NaN leaves the row out."""
    statistic: Statistic = weighted_mean

    def __call__(self, rows: DataFrame) -> float:
        """Score rows; NaN where no row has a value."""
        values = self.values(rows)
        values = values[~values.isnan()]
        return self.statistic(values, torch.ones_like(values)).item() if len(values) else math.nan

    def interval(self, rows: DataFrame, *, resamples: int = 1000) -> Interval:
        """Score rows, with the 95 % interval by the bootstrap over episodes."""
        values = self.values(rows)
        known = ~values.isnan()
        if not known.any():
            return Interval(math.nan, math.nan, math.nan)
        return bootstrap_interval(
            values[known],
            statistic=self.statistic,
            clusters=_clusters(rows[known.numpy()]),
            resamples=resamples,
            generator=torch.Generator().manual_seed(0),
        )


def column(rows: Any, name: str) -> Float[Tensor, "rows"]:
    """Return the numbers of a column; NaN for what is not known."""
    rows = rows if isinstance(rows, DataFrame) else to_frame(rows)  # until all rows are frames
    return torch.tensor(rows[name].to_numpy(dtype=float), dtype=torch.float64)


def distances(rows: Any) -> Float[Tensor, "rows"]:
    """Return errors in km of rows whose truth is known; without an answer that of a guess.

    A guess is a quarter of the way around: half of the sphere is nearer.
    """
    return column(rows, "distance_km").nan_to_num(GUESS_KM)


def _clusters(rows: DataFrame) -> Sequence[str] | None:
    """Return the episodes; of one episode nothing is known but how its queries differ."""
    return list(rows.episode) if rows.episode.nunique() > 1 else None


def _within(km: float) -> Metric:
    def values(rows: DataFrame) -> Float[Tensor, "rows"]:
        return (distances(rows) < km).double()

    return Metric(f"< {km:.0f} km", "share", ".0%", True, values)


def _is_covered(rows: DataFrame) -> Float[Tensor, "rows"]:
    level = column(rows, "level")
    return torch.where(level.isnan(), math.nan, (level <= 0.9).double())


METRICS: dict[str, Metric] = {
    "median_km": Metric("median km", "km", ".0f", False, distances, weighted_median),
    "mean_km": Metric("mean km", "km", ".0f", False, distances),
    "geoscore": Metric(
        "GeoScore", "0 to 5000", ".0f", True, lambda rows: geoscore(distances(rows))
    ),
    **{f"within_{km:.0f}km": _within(km) for km in THRESHOLDS_KM},
    "nll": Metric("NLL", "nats/sr", ".2f", False, lambda rows: column(rows, "nll")),
    "area_share": Metric(
        "90 % area",
        "share of the sphere",
        ".1%",
        False,
        lambda rows: column(rows, "area_90_km2") / AREA_KM2,
        weighted_median,
    ),
    "covered": Metric("covered", "share", ".0%", None, _is_covered),
    "located": Metric(
        "located",
        "share",
        ".0%",
        True,
        lambda rows: column(rows, "distance_km").isfinite().double(),
    ),
    "seconds": Metric("s/query", "s", ".3f", False, lambda rows: column(rows, "seconds")),
}
"""Covered are the truths inside the 90 % regions, located the queries that got an answer."""


def score(
    rows: DataFrame,
    by: Sequence[str] = ("world", "locator", "shots"),
    metrics: Sequence[str] = tuple(METRICS),
    *,
    intervals: Sequence[str] = ("median_km",),
) -> DataFrame:
    """Score every group of rows, as far as the truth is known.

    Args:
        rows: of any locators and worlds.
        by: columns that tell groups apart.
        metrics: names in `METRICS`.
        intervals: those of `metrics` whose interval is wanted.

    Returns:
        a row for each group in order of appearance: `by`, `queries`, `failed` (photos that could
        not be read), the metrics, and of `intervals` `<metric>_low` and `<metric>_high`.
    """
    failed = rows[rows.error.notna()].groupby(list(by)).size()
    records: list[dict[str, object]] = []
    for key, part in rows[rows.nll.notna()].groupby(list(by), sort=False):
        record = dict(zip(by, key, strict=True))
        record |= {"queries": len(part), "failed": int(failed.get(_key(key), 0))}
        record |= {name: METRICS[name](part) for name in metrics}
        for name in intervals:
            interval = METRICS[name].interval(part)
            record |= {f"{name}_low": interval.low, f"{name}_high": interval.high}
        records.append(record)
    ends = [f"{name}_{end}" for name in intervals for end in ("low", "high")]
    return DataFrame(records, columns=[*by, "queries", "failed", *metrics, *ends])


def _key(key: tuple[object, ...]) -> object:
    return key if len(key) > 1 else key[0]


def compare(
    rows: DataFrame,
    base: object,
    *,
    metric: str = "median_km",
    by: Sequence[str] = ("shots",),
    across: str = "locator",
    ratio: bool = False,
    resamples: int = 1000,
) -> DataFrame:
    """Compare locators with the one named `base` on the same queries; pairs are resampled together.

    Args:
        rows: of all of them.
        base: a value of the column `across`.
        metric: a name in `METRICS`.
        by: columns that tell comparisons apart.
        across: what is compared: locators, or numbers of shots.
        ratio: whether to divide by the metric of the base instead of taking it away.
        resamples: of the bootstrap over episodes.

    Returns:
        a row for each value of `across` in each group, by shots and the base first: `by`,
        `across`, the metric, `<metric>_difference` or `<metric>_ratio`, and the bounds of its
        interval `<metric>_low` and `<metric>_high`.

    Raises:
        ValueError: rows of different queries.
    """
    one = METRICS[metric]
    effect = f"{metric}_{'ratio' if ratio else 'difference'}"
    columns = [*by, across, metric, effect, f"{metric}_low", f"{metric}_high"]
    known = rows[rows.nll.notna()].sort_values("shots", kind="stable")
    records: list[tuple[object, ...]] = []
    for key, group in known.groupby(list(by), sort=False):
        parts = {value: part for value, part in group.groupby(across, sort=False)}  # noqa: C416
        for value in dict.fromkeys((base, *parts)):
            part = parts.get(value, group[:0])
            other = _same_queries(part, parts.get(base, group[:0]))
            interval = paired_bootstrap(
                one.values(part),
                one.values(other),
                statistic=one.statistic,
                ratio=ratio,
                clusters=_clusters(part),
                resamples=resamples,
                generator=torch.Generator().manual_seed(0),
            )
            bounds = (interval.estimate, interval.low, interval.high)
            records.append((*key, value, one(part), *bounds))
    return DataFrame(records, columns=columns)


def _same_queries(rows: DataFrame, others: DataFrame) -> DataFrame:
    """Bring others into the order of rows."""
    first, second = (part.set_index(["episode", "id"]).index for part in (rows, others))
    common = len(first.intersection(second))
    if not common == len(first) == len(second):
        raise ValueError(
            f"expected rows of the same queries, got {len(first)} and {len(second)} of which "
            f"{common} are the same"
        )
    return others.iloc[second.get_indexer(first)]


def methods(rows: DataFrame) -> DataFrame:
    """Return the rows, or scores, of locators that are no baselines."""
    return rows[~rows.locator.isin(BASELINES)]


def levels_by_world(rows: DataFrame) -> dict[str, Tensor]:
    """Return credible levels of the method's truths with most shots, for `plot_calibration`."""
    levels: dict[str, Tensor] = {}
    for world, part in rows.groupby("world", sort=False):
        shots = part.shots.max()
        known = methods(part[part.nll.notna() & (part.shots == shots)])
        if len(known):
            levels[f"{world}, {shots} shots"] = column(known, "level")
    return levels


def to_markdown(frame: DataFrame) -> str:
    """Lay out a frame as a Markdown table; the first column to the left, the others to the right."""
    cells = [frame.columns, *frame.itertuples(index=False, name=None)]
    lines = [[str(cell) for cell in line] for line in cells]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * (width - 1) + ":" for width in widths])
    lines[1][0] = "-" * widths[0]
    return "\n".join(
        f"| {' | '.join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])} |"
        for line in lines
    )


SHOWN = (
    "median_km", "geoscore", "within_200km", "within_750km", "within_2500km", "nll", "area_share",
    "covered", "seconds",
)  # fmt: skip
"""Metrics of `score_table`."""


def score_table(scores: DataFrame) -> str:
    """Lay out the scores of the method as Markdown, beside the median errors of its baselines in km.

    The 90 % area is the median one, as a share of the sphere; covered are the truths inside.
    """
    own = methods(scores)
    table = own[["world", "shots"]].copy()
    for name in SHOWN:
        table[METRICS[name].title] = own[name].map(f"{{:{METRICS[name].format}}}".format)
    medians = scores.set_index(["world", "shots", "locator"]).median_km
    for name in BASELINES:
        if (scores.locator == name).any():
            keys = zip(own.world, own.shots, strict=True)
            beside = [medians.get((*key, name), math.nan) for key in keys]
            table[f"{name}, km"] = ["" if math.isnan(km) else f"{km:.0f}" for km in beside]
    return to_markdown(table)


def comparison_table(rows: DataFrame, base: str) -> str:
    """Lay out median errors and NLL as Markdown; a difference below 0 is better than the base."""
    km, nll = (compare(rows, base, metric=metric) for metric in ("median_km", "nll"))
    lines = [
        (locator, shots, f"{median:.0f}", format_interval(*beyond, "+z.0f"))
        for shots, locator, median, *beyond in km.itertuples(index=False, name=None)
    ]
    ends = [
        (f"{mean:.2f}", format_interval(*beyond, "+z.2f"))
        for _, _, mean, *beyond in nll.itertuples(index=False, name=None)
    ]
    header = ["locator", "shots", "median km", "difference (95 %)", "NLL", "difference (95 %)"]
    cells = [(*line, *end) for line, end in zip(lines, ends, strict=True)]
    return to_markdown(DataFrame(cells, columns=header))


def format_interval(estimate: float, low: float, high: float, form: str) -> str:
    """Format an estimate and its interval.

    >>> format_interval(-1.0, -2.5, 0.25, "+.1f")
    '-1.0 (-2.5 to +0.2)'
    """
    return f"{estimate:{form}} ({low:{form}} to {high:{form}})"


def format_results(rows: DataFrame, *, most: int = 20) -> str:
    """Return the table of a run, answers of unknown truth, and photos that failed, as text.

    `most` answers are listed; the rows on disk hold them all.
    """
    scores = score(rows)
    answers = rows[rows.true_lat.isna() & rows.error.isna()]
    failed = rows[rows.error.notna()].drop_duplicates("id", keep="last")
    lines = [score_table(scores)] if len(scores) else []
    lines += [
        f"{row.id}: not located"
        if math.isnan(row.lat)
        else f"{row.id}: {row.lat:.2f}, {row.lon:.2f}, 90 % within {row.area_90_km2:,.0f} km2"
        for row in answers.head(most).itertuples()
    ]
    if len(answers) > most:
        lines.append(f"and {len(answers) - most} more in predictions.parquet")
    lines += [f"skipped {row.id}: {row.error}" for row in failed.itertuples()]
    return "\n".join(lines)
