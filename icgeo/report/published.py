"""Published results, beside a run only where benchmark, split and protocol are the same.

Conventions: `icgeo/assets/published.csv` holds each number with its source. A protocol counts as
known only where the authors' own evaluation code was read; elsewhere the number is listed apart.
"""

from importlib.resources import files
from typing import Any

import pandas as pd
import torch

from icgeo.data.benchmarks import BENCHMARKS
from icgeo.evaluation import BASELINES
from icgeo.evaluation.benchmarks import PHOTOS
from icgeo.evaluation.scores import GUESS_KM
from icgeo.metrics import accuracies, distances, geoscore, mean_error, median_error
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
PROTOCOL_OF = {
    "osv5m baseline": "osv5m",
    "regression": "osv5m",
    "ISNs": "osv5m",
    "SC retrieval": "osv5m",
    "StreetCLIP zero-shot": "osv5m",
    "Plonk": "osv5m",
    "Plonk RFM-S2": "osv5m",
    "GeoCLIP": "geoclip",
    "GeoRanker": "geoclip",
    "PIGEOTTO": "pigeon",
}
"""GeoRanker counts on the geodesic of WGS84 as GeoCLIP does, but strictly within the radius: the
same unless an error is a threshold to the last bit."""
TITLES = {"geoscore": "GeoScore", "mean_error": "mean error", "median_error": "median error"}


def published() -> pd.DataFrame:
    """Read the published numbers; accuracies at several radii become one number each.

    Returns:
        system, benchmark, metric (its title), value, unit, source, and protocol: how its authors
        count, or NaN where that was not found out. Accuracies by country are left out: theirs
        follow the labels of the data set.
    """
    with (files("icgeo") / "assets" / "published.csv").open(encoding="utf-8") as stream:
        numbers = pd.read_csv(stream, dtype={"value": str})
    numbers["metric"] = numbers["metric"].map(_titles)
    numbers["value"] = numbers["value"].str.split("/")
    numbers = numbers[numbers["metric"].map(len) > 0].explode(["metric", "value"])
    protocols = numbers["system"].map(PROTOCOL_OF)
    return numbers.astype({"value": float}).assign(protocol=protocols).reset_index(drop=True)


def _titles(metric: str) -> list[str]:
    kind, _, radii = metric.partition("_")
    if kind == "accuracy":
        return [f"< {int(km):,} km" for km in radii.split("_")]
    return [TITLES[metric]] if metric in TITLES else []


def compare_with_published(rows: pd.DataFrame) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Set the method with most shots beside published numbers; say what is left out, and why.

    Returns:
        tables by their captions, and sentences.
    """
    tables: dict[str, pd.DataFrame] = {}
    notes: list[str] = []
    for episode, (benchmark, size) in SETS.items():
        answers = rows[(rows["episode"] == episode) & ~rows["locator"].isin(BASELINES)]
        known = answers[(answers["shots"] == answers["shots"].max()) & answers["nll"].notna()]
        if 0 < len(known) < WHOLE * size:
            notes.append(
                f"{benchmark}: {len(known):,} of its {size:,} queries were answered; a part of a "
                "benchmark is not compared."
            )
        elif len(known):
            tables |= _tables(benchmark, known)
    if not tables and not notes:
        notes.append(
            "None of the published systems (PLONK, GeoCLIP, PIGEON, OSV-5M baselines, LocDiff, "
            "HierLoc, GeoRanker) is set beside this run: their numbers hold for photos taken on "
            "the ground, on OSV-5M, Im2GPS3k, YFCC4k, GWS15k and iNat21, and this run has none of "
            f"these.{_why_apart(set(rows['world']))}"
        )
    return tables, notes


def _why_apart(worlds: set[str]) -> str:
    """Say in sentences why what a run was measured on is none of the published sets."""
    photos, splits = worlds & {PHOTOS}, worlds & set(BENCHMARKS)
    reasons = (
        (photos, "On photos of your own those systems were not measured."),
        (splits, "Another split of a benchmark is another test."),
        (worlds - photos - splits, "A view of a planet from orbit is another task."),
    )
    return "".join(f" {reason}" for which, reason in reasons if which)


def _tables(benchmark: str, rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Make a table of the numbers with a known protocol, and one of the others."""
    numbers = published()
    numbers = numbers[numbers["benchmark"] == benchmark]
    is_same = numbers["protocol"].notna()
    first = rows.iloc[0]
    run = f"{first['locator']}, {first['shots']} shots, {len(rows):,} queries"
    tables = {
        f"published, and below it this run ({run}) counted by the same protocol": _by_system(
            numbers[is_same], rows
        ),
        "published by a protocol that is not known, so not compared": _by_system(numbers[~is_same]),
    }
    return {f"{benchmark}: {title}": table for title, table in tables.items() if len(table)}


def _by_system(numbers: pd.DataFrame, rows: pd.DataFrame | None = None) -> pd.DataFrame:
    """Lay out a line for each system, with this run's number below if there are rows."""
    columns = numbers["metric"] + ", " + numbers["unit"]
    cells = [_cell(number, rows) for number in numbers.itertuples()]
    systems = numbers["system"].unique()
    table = (
        numbers.assign(column=columns, cell=cells)
        .pivot(index="system", columns="column", values="cell")
        .reindex(index=systems, columns=columns.unique())
        .fillna(DASH)
    )
    by_system = numbers.groupby("system")
    table["protocol"] = by_system["protocol"].first().fillna("not known")
    table["source"] = by_system["source"].agg(lambda sources: "; ".join(sources.unique()))
    return table


def _cell(number: Any, rows: pd.DataFrame | None) -> str:
    form = ",.1f" if number.unit == "%" else ",.0f"
    value = format_number(number.value, form)
    if rows is None:
        return value
    return f"{value}\nthis run {format_number(_score(rows, number), form)}"


def _score(rows: pd.DataFrame, number: Any) -> float:
    """Score rows as the authors of a published number do."""
    truth, answer = (
        torch.from_numpy(rows[names].to_numpy(dtype=float))
        for names in (["true_lat", "true_lon"], ["lat", "lon"])
    )
    protocol = number.protocol
    km = distances(answer, truth, protocol=protocol).nan_to_num(posinf=GUESS_KM)
    if number.metric == TITLES["geoscore"]:
        return geoscore(km, protocol=protocol).mean().item()
    if number.metric == TITLES["mean_error"]:
        return mean_error(km)
    if number.metric == TITLES["median_error"]:
        return median_error(km)
    radius = float(number.metric.strip("< km").replace(",", ""))
    return 100 * accuracies(km, (radius,), protocol=protocol)[radius]
