"""Published results, beside a run only where benchmark, split and protocol are the same.

Conventions: `icgeo/assets/published.csv` holds each number with its source. A protocol counts as
known only where the authors' own evaluation code was read; elsewhere the number is listed apart.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import torch

from icgeo.data.benchmarks import BENCHMARKS
from icgeo.evaluation import BASELINES, Row, column
from icgeo.evaluation.benchmarks import PHOTOS
from icgeo.evaluation.scores import GUESS_KM
from icgeo.metrics import accuracies, distances, geoscore, mean_error, median_error
from icgeo.report.tables import DASH, Cell, Table, number

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
METRICS = {"geoscore": "GeoScore", "mean_error": "mean error", "median_error": "median error"}


@dataclass(frozen=True)
class Published:
    """One published number."""

    system: str
    benchmark: str
    metric: str
    value: float
    unit: str
    source: str

    @property
    def protocol(self) -> str | None:
        """How its authors count; None where that was not found out."""
        return PROTOCOL_OF.get(self.system)


@lru_cache(maxsize=1)
def published() -> tuple[Published, ...]:
    """Read the published numbers; accuracies at several radii become one number each.

    Accuracies by country are left out: theirs follow the labels of the data set.
    """
    text = (files("icgeo") / "assets" / "published.csv").read_text(encoding="utf-8")
    lines = csv.DictReader(text.splitlines())
    return tuple(one for line in lines for one in _numbers(line))


def _numbers(line: dict[str, str]) -> list[Published]:
    kind, _, radii = line["metric"].partition("_")
    if kind != "accuracy":
        names = [METRICS[line["metric"]]] if line["metric"] in METRICS else []
    else:
        names = [f"< {int(km):,} km" for km in radii.split("_")]
    same = (line["unit"], line["source"])
    return [
        Published(line["system"], line["benchmark"], name, float(value), *same)
        for name, value in zip(names, line["value"].split("/"), strict=bool(names))
    ]


def comparison_tables(rows: Sequence[Row]) -> tuple[list[Table], list[str]]:
    """Set the method with most shots beside published numbers; say what is left out, and why."""
    tables: list[Table] = []
    notes: list[str] = []
    for episode, (benchmark, size) in SETS.items():
        own = [r for r in rows if r.episode == episode and r.locator not in BASELINES]
        most = max((r.shots for r in own), default=0)
        known = [r for r in own if r.nll is not None and r.shots == most]
        if known and len(known) < WHOLE * size:
            notes.append(
                f"{benchmark}: {len(known):,} of its {size:,} queries were answered; a part of a "
                "benchmark is not compared."
            )
        elif known:
            tables += _tables(benchmark, known)
    if not tables and not notes:
        notes.append(
            "None of the published systems (PLONK, GeoCLIP, PIGEON, OSV-5M baselines, LocDiff, "
            "HierLoc, GeoRanker) is set beside this run: their numbers hold for photos taken on "
            "the ground, on OSV-5M, Im2GPS3k, YFCC4k, GWS15k and iNat21, and this run has none of "
            f"these.{_why_apart({row.world for row in rows})}"
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
    return "".join(f" {reason}" for found, reason in reasons if found)


def _tables(benchmark: str, rows: Sequence[Row]) -> list[Table]:
    here = [one for one in published() if one.benchmark == benchmark]
    same = [one for one in here if one.protocol is not None]
    apart = [one for one in here if one.protocol is None]
    own = f"{rows[0].locator}, {rows[0].shots} shots, {len(rows):,} queries"
    titles = (
        f"{benchmark}: published, and below it this run ({own}) counted by the same protocol",
        f"{benchmark}: published by a protocol that is not known, so not compared",
    )
    return [
        _table(title, part, own=rows if part is same else None)
        for title, part in zip(titles, (same, apart), strict=True)
        if part
    ]


def _table(title: str, part: Sequence[Published], *, own: Sequence[Row] | None) -> Table:
    """Lay out a line for each system, with its own number below if it is to be compared."""
    metrics = list(dict.fromkeys(f"{one.metric}, {one.unit}" for one in part))
    lines = []
    for system in dict.fromkeys(one.system for one in part):
        found = {f"{one.metric}, {one.unit}": one for one in part if one.system == system}
        cells = [_cell(found.get(metric), own) for metric in metrics]
        sources = "; ".join(dict.fromkeys(one.source for one in found.values()))
        protocol = PROTOCOL_OF.get(system) or "not known"
        lines.append([Cell(system), *cells, Cell(protocol), Cell(sources)])
    return Table(title, ("system", *metrics, "protocol", "source"), lines)


def _cell(one: Published | None, own: Sequence[Row] | None) -> Cell:
    if one is None:
        return Cell(DASH)
    below = "" if own is None else f"this run {number(_own(own, one), _form(one))}"
    return Cell(number(one.value, _form(one)), below)


def _form(one: Published) -> str:
    return ",.1f" if one.unit == "%" else ",.0f"


def _own(rows: Sequence[Row], one: Published) -> float:
    """Score rows as the authors of a published number do."""
    protocol = one.protocol or "osv5m"
    truth, answer = (
        torch.stack([column(rows, lat), column(rows, lon)], dim=-1)
        for lat, lon in (("true_lat", "true_lon"), ("lat", "lon"))
    )
    km = distances(answer, truth, protocol=protocol).nan_to_num(posinf=GUESS_KM)
    if one.metric == METRICS["geoscore"]:
        return geoscore(km, protocol=protocol).mean().item()
    if one.metric == METRICS["mean_error"]:
        return mean_error(km)
    if one.metric == METRICS["median_error"]:
        return median_error(km)
    radius = float(one.metric.strip("< km").replace(",", ""))
    return 100 * accuracies(km, (radius,), protocol=protocol)[radius]
