"""Tables of a report: frames of text, whose index names the rows, with units in the headings.

Conventions: what is not known is a dash; the second line of a cell, after a line break, is smaller.
Published results stand beside a run only where benchmark, split and protocol are the same:
`icgeo/assets/published.csv` holds each number with its source and protocol, how its authors count;
that is known only where their own evaluation code was read. GeoRanker counts as GeoCLIP does, but
strictly within the radius.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pandas import DataFrame, MultiIndex, Series, json_normalize, notna, read_csv

from icgeo.baselines import BESIDE
from icgeo.data.benchmarks import BENCHMARKS
from icgeo.evaluation.episodes import PHOTOS
from icgeo.evaluation.scores import BASELINES, GUESS_KM, METRICS, levels_by_world, methods
from icgeo.metrics import accuracy_within, distances, geoscore, mean_error, median_error
from icgeo.metrics.densities import calibration_error, coverage
from icgeo.prediction import rounded
from icgeo.report.run_folder import Run

DASH = "\N{EN DASH}"
RESULTS = [name for name in METRICS if name not in ("located", "seconds")]
"""Metrics of a table of results; located is there anyway, and time has a table of its own."""
GLANCE = ("median_km", "geoscore", "within_2500km", "nll")
KOLMOGOROV = 1.358
"""Times 1 / sqrt(n): beyond it, calibration is rejected at 5 % (Massey 1951, table 1)."""
SETS = {
    "osv5m-test": ("osv5m", 210_122),
    "im2gps3k-test": ("im2gps3k", 2_997),
    "yfcc4k-test": ("yfcc4k", 4_536),
    "gws15k-test": ("gws15k", 15_000),
    "inat21-val": ("inat21", 100_000),
}
"""Episode ids of benchmarks with published numbers: the benchmark, and how many queries it has."""
WHOLE = 0.95
"""Share of a benchmark that has to be answered: photos get lost, but a sample is not the set."""


def format_number(value: float | None, form: str = ",.0f") -> str:
    """Format a number; a dash if there is none, and infinity as its sign."""
    if value is None or math.isnan(value):
        return DASH
    text = "∞" if math.isinf(value) else f"{abs(value):{form}}"
    return f"\N{MINUS SIGN}{text}" if value < 0 else text


def format_place(lat: float, lon: float) -> str:
    """Format a location in degrees; NaN is none."""
    if math.isnan(lat):
        return "not located"
    return f"{format_number(lat, '.2f')}°, {format_number(lon, '.2f')}°"


def format_area(km2: float) -> str:
    """Format an area to three digits."""
    return f"{rounded(km2)} km²" if km2 > 0 else DASH


def _by_locator(rows: DataFrame) -> Iterator[tuple[str, str, DataFrame]]:
    """Divide rows by locator and shots; the method first, then its baselines."""
    is_baseline = rows.locator.isin(BASELINES).rename("is_baseline")
    for (_, locator, shots), group in rows.groupby([is_baseline, "locator", "shots"]):
        yield str(locator), str(shots), group


def _score(rows: DataFrame, names: Sequence[str]) -> Iterator[dict[str, str]]:
    """Score each locator and number of shots: estimates by their headings, below them intervals."""
    for locator, shots, group in _by_locator(rows):
        line = {"locator": locator, "shots": shots, "queries": f"{len(group):,}"}
        line["located, %"] = format_number(100 * METRICS["located"](group))
        for metric in (METRICS[name] for name in names):
            # intervals of many rows are narrow, and take long
            one = metric.interval(group, resamples=1000 if len(group) <= 10_000 else 200)
            scale, form = 1, f",{metric.format}"
            if form.endswith("%"):
                scale, form = 100, f".{int(metric.format[1]) + 1}f"
            numbers = [scale * number for number in (one.estimate, one.low, one.high)]
            text, low, high = (format_number(number, form) for number in numbers)
            unit = metric.unit.replace("share", "%")
            heading = metric.title if metric.title.endswith(unit) else f"{metric.title}, {unit}"
            line[heading] = text if text == DASH else f"{text}\n{low} to {high}"
        yield line


def results_table(rows: DataFrame) -> DataFrame:
    """Score each locator with each number of shots on one world, as far as the truth is known.

    Rows of one locator that are the same for several numbers of shots, as chance's, are one.
    """
    table = DataFrame(_score(rows[rows.nll.notna()], RESULTS))
    group_columns = [name for name in table if name != "shots"]
    result = table.groupby(group_columns, sort=False).shots.agg(", ".join).reset_index()
    return result[table.columns].set_index("locator")


def glance_table(runs: Sequence[Run]) -> DataFrame:
    """Score methods of runs and what else could be done, each with its best number of shots."""
    has_several_runs = len(runs) > 1
    lines = [
        ({"run": run.name} if has_several_runs else {}) | {"world or benchmark": world} | line
        for run in runs
        for world, world_rows in run.rows[run.rows.nll.notna()].groupby("world", sort=False)
        for line in _score(_with_best_shots(world_rows), GLANCE)
    ]
    index = [*(["run"] if has_several_runs else []), "world or benchmark"]
    table = DataFrame(lines or {name: [] for name in index})
    # first what fits on a phone
    tail_columns = table.columns.intersection(["queries", "located, %"])
    table = table[[*table.columns.difference(tail_columns, sort=False), *tail_columns]]
    return table.set_index(index)


def _with_best_shots(rows: DataFrame) -> DataFrame:
    """Return the rows of methods and of `BESIDE` with the shots of least median error of each."""
    rows = rows[~rows.locator.isin(BASELINES) | rows.locator.isin(BESIDE)]
    errors = rows.distance_km.fillna(GUESS_KM)
    medians = errors.groupby([rows.locator, rows.shots]).median()
    best_shots = medians.groupby("locator").idxmin()
    return rows[MultiIndex.from_frame(rows[["locator", "shots"]]).isin(best_shots)]


def calibration_table(rows: DataFrame) -> DataFrame:
    """Say how far the densities of the method with most shots are from calibrated, by world."""
    levels = Series(levels_by_world(rows), dtype=object).rename_axis("densities")
    counts, gaps = levels.map(len), levels.map(calibration_error)
    bounds = KOLMOGOROV / counts.astype(float) ** 0.5
    columns = {
        "queries": counts.map("{:,}".format),
        "truths in 50 % region, %": levels.map(lambda values: f"{100 * coverage(values, 0.5):.1f}"),
        "in 90 % region, %": levels.map(lambda values: f"{100 * coverage(values, 0.9):.1f}"),
        "distance from diagonal": gaps.map("{:.3f}".format),
        "5 % bound": bounds.map("{:.3f}".format),
        "calibration": (gaps > bounds).map({True: "rejected", False: "not rejected"}),
    }
    return DataFrame(columns)


def timing_table(rows: DataFrame) -> DataFrame:
    """Say how long queries take: each its share of its batch, without reading the photo."""
    lines, digits = [], partial(np.format_float_positional, precision=3, fractional=False, trim="-")
    for locator, shots, group in _by_locator(rows[rows.seconds.notna()]):
        mean = group.seconds.mean()
        times = [*map(digits, (mean, *group.seconds.quantile([0.5, 0.95])))]
        rate = format_number(1 / mean if mean else None, ",.1f")
        lines.append((locator, shots, f"{len(group):,}", *times, rate))
    times = ["mean, s/query", "median, s/query", "95th percentile, s/query"]
    headings = ["locator", "shots", "queries", *times, "throughput, queries/s"]
    return DataFrame(lines, columns=headings).set_index("locator")


def answer_table(rows: DataFrame) -> DataFrame:
    """List the answers of photos that could be read but whose truth is not known."""
    answers = rows[rows.true_lat.isna() & rows.error.isna()]
    columns = {
        **answers[["locator", "shots"]],
        "answer, latitude and longitude": [*map(format_place, answers.lat, answers.lon)],
        "90 % area": answers.area_90_km2.map(format_area),
        "legibility, 0 to 1": [format_number(value, ".2f") for value in answers.legibility],
    }
    return DataFrame(columns).set_index(answers.id.rename("photo"))


def failure_table(rows: DataFrame) -> DataFrame:
    """List photos that could not be read or that a method could not locate, and why."""
    failures = methods(rows[rows.error.notna()]).drop_duplicates(["episode", "id", "error"])
    table = failures[["id", "world", "error"]]
    return table.set_axis(["photo", "from", "reason"], axis="columns").set_index("photo")


def values_table(values: Mapping[str, Any], name: str, value: str) -> DataFrame:
    """List named values; those within a value stand under its name."""
    table = json_normalize(dict(values), sep=": ").astype(object).T
    table = table.where(table.notna(), DASH).astype(str)
    return table.set_axis([value], axis="columns").rename_axis(name)


def published() -> DataFrame:
    """Read the published numbers: system, benchmark, metric, value, unit, protocol and source."""
    numbers = read_csv(Path(__file__).parents[1] / "assets" / "published.csv")
    # countries are told by the labels of the data set there
    return numbers[numbers.metric != "country accuracy"]


def compare_with_published(rows: DataFrame) -> tuple[dict[str, DataFrame], list[str]]:
    """Set the method with most shots beside published numbers: tables, and what is left out."""
    tables: dict[str, DataFrame] = {}
    notes: list[str] = []
    for episode, (benchmark, size) in SETS.items():
        answers = methods(rows[rows.episode == episode])
        scored_answers = answers[(answers.shots == answers.shots.max()) & answers.nll.notna()]
        if 0 < len(scored_answers) < WHOLE * size:
            sentence = f"{benchmark}: {len(scored_answers):,} of its {size:,} queries were answered"
            notes.append(f"{sentence}; a part of a benchmark is not compared.")
        elif len(scored_answers):
            tables |= _compare(benchmark, scored_answers)
    if not tables and not notes:
        worlds = set(rows["world"])
        photos, splits = worlds & {PHOTOS}, worlds & set(BENCHMARKS)
        reasons = (
            (photos, " On photos of your own those systems were not measured."),
            (splits, " Another split of a benchmark is another test."),
            (worlds - photos - splits, " A view of a planet from orbit is another task."),
        )
        notes.append(
            "None of the published systems (PLONK, GeoCLIP, PIGEON, OSV-5M baselines, LocDiff, "
            "HierLoc, GeoRanker) is set beside this run: their numbers hold for photos taken on "
            "the ground, on OSV-5M, Im2GPS3k, YFCC4k, GWS15k and iNat21, and this run has none of "
            "these." + "".join(reason for applies, reason in reasons if applies)
        )
    return tables, notes


def _compare(benchmark: str, rows: DataFrame) -> dict[str, DataFrame]:
    """Lay out the numbers with a known protocol beside those of the rows, and the others alone."""
    numbers = published()
    numbers = numbers[numbers.benchmark == benchmark]
    cells = []
    lines: Iterable[Any] = numbers.itertuples()
    for number in lines:
        form = ",.1f" if number.unit == "%" else ",.0f"
        cells.append(format_number(number.value, form))
        if notna(number.protocol):
            cells[-1] += f"\nthis run {format_number(_score_as(number, rows), form)}"
    numbers = numbers.assign(heading=numbers.metric + ", " + numbers.unit, cell=cells)
    is_same = numbers.protocol.notna()
    first_row = rows.iloc[0]
    run = f"{first_row['locator']}, {first_row['shots']} shots, {len(rows):,} queries"
    same_title = f"published, and below it this run ({run}) counted by the same protocol"
    other_title = "published by a protocol that is not known, so not compared"
    parts = {same_title: numbers[is_same], other_title: numbers[~is_same]}
    return {f"{benchmark}: {title}": _by_system(part) for title, part in parts.items() if len(part)}


def _score_as(number: Any, rows: DataFrame) -> float:
    """Score rows as the authors of a published number do."""
    ends = (["lat", "lon"], ["true_lat", "true_lon"])
    answer, truth = (torch.tensor(rows[names].to_numpy()) for names in ends)
    km = distances(answer, truth, protocol=number.protocol).nan_to_num(posinf=GUESS_KM)
    match number.metric:
        case "GeoScore":
            return geoscore(km, protocol=number.protocol).mean().item()
        case "mean error":
            return mean_error(km)
        case "median error":
            return median_error(km)
        case within:
            radius = float(within.strip("< km"))
            return 100 * accuracy_within(km, radius, protocol=number.protocol)


def _by_system(numbers: DataFrame) -> DataFrame:
    """Lay out a line for each system, in order of appearance."""
    table = numbers.pivot(index="system", columns="heading", values="cell").fillna(DASH)
    table = table.reindex(index=numbers.system.unique(), columns=numbers.heading.unique())
    systems = numbers.groupby("system")
    sources = systems.source.agg(lambda sources: "; ".join(sources.unique()))
    return table.assign(protocol=systems.protocol.first().fillna("not known"), source=sources)
