"""Published results, beside a run only where benchmark, split and protocol are the same.

Conventions: `icgeo/assets/published.csv` holds each number with its source and protocol, how its
authors count; that is known only where their own evaluation code was read. GeoRanker counts as
GeoCLIP does, but strictly within the radius.
"""

from collections.abc import Iterable
from importlib.resources import files
from typing import Any

import pandas as pd
import torch

from icgeo.data.benchmarks import BENCHMARKS
from icgeo.evaluation.episodes import PHOTOS
from icgeo.evaluation.scores import GUESS_KM, methods
from icgeo.metrics import accuracy_within, distances, geoscore, mean_error, median_error
from icgeo.report.tables import DASH, format_number

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


def published() -> pd.DataFrame:
    """Read the published numbers: system, benchmark, metric, value, unit, protocol and source."""
    with (files("icgeo") / "assets" / "published.csv").open(encoding="utf-8") as stream:
        numbers = pd.read_csv(stream)
    # countries are told by the labels of the data set there
    return numbers[numbers.metric != "country accuracy"]


def compare_with_published(rows: pd.DataFrame) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Set the method with most shots beside published numbers: tables, and what is left out."""
    tables: dict[str, pd.DataFrame] = {}
    notes: list[str] = []
    for episode, (benchmark, size) in SETS.items():
        answers = methods(rows[rows.episode == episode])
        known = answers[(answers.shots == answers.shots.max()) & answers.nll.notna()]
        if 0 < len(known) < WHOLE * size:
            answered = f"{benchmark}: {len(known):,} of its {size:,} queries were answered"
            notes.append(f"{answered}; a part of a benchmark is not compared.")
        elif len(known):
            tables |= _compare(benchmark, known)
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
            "these." + "".join(reason for where, reason in reasons if where)
        )
    return tables, notes


def _compare(benchmark: str, rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Lay out the numbers with a known protocol beside those of the rows, and the others alone."""
    numbers = published()
    numbers = numbers[numbers.benchmark == benchmark]
    cells = []
    lines: Iterable[Any] = numbers.itertuples()
    for number in lines:
        form = ",.1f" if number.unit == "%" else ",.0f"
        cells.append(format_number(number.value, form))
        if pd.notna(number.protocol):
            cells[-1] += f"\nthis run {format_number(_score(rows, number), form)}"
    numbers = numbers.assign(heading=numbers.metric + ", " + numbers.unit, cell=cells)
    is_same = numbers.protocol.notna()
    first = rows.iloc[0]
    run = f"{first['locator']}, {first['shots']} shots, {len(rows):,} queries"
    same = f"published, and below it this run ({run}) counted by the same protocol"
    other = "published by a protocol that is not known, so not compared"
    parts = {same: numbers[is_same], other: numbers[~is_same]}
    return {f"{benchmark}: {title}": _by_system(part) for title, part in parts.items() if len(part)}


def _by_system(numbers: pd.DataFrame) -> pd.DataFrame:
    """Lay out a line for each system, in order of appearance."""
    table = numbers.pivot(index="system", columns="heading", values="cell").fillna(DASH)
    table = table.reindex(index=numbers.system.unique(), columns=numbers.heading.unique())
    systems = numbers.groupby("system")
    protocols = systems.protocol.first().fillna("not known")
    sources = systems.source.agg(lambda sources: "; ".join(sources.unique()))
    return table.assign(protocol=protocols, source=sources)


def _score(rows: pd.DataFrame, number: Any) -> float:
    """Score rows as the authors of a published number do."""
    truth, answer = (
        torch.tensor(rows[names].to_numpy()) for names in (["true_lat", "true_lon"], ["lat", "lon"])
    )
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
