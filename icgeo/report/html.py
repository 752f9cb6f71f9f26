"""One HTML page of run folders, which needs no network, no script and no other file.

Conventions: all that is shown stands in the page, images as `data:` addresses; text from files is
escaped; a content security policy forbids everything else.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from pandas import isna

from icgeo.evaluation.scores import GUESS_KM
from icgeo.report import tables
from icgeo.report.cases import EACH
from icgeo.report.charts import draw_calibration, draw_curves, draw_errors
from icgeo.report.published_numbers import compare_with_published
from icgeo.report.run_folder import Run, read_run
from icgeo.report.tables import format_area, format_number, format_place

MOST_LISTED = 100
"""Photos in a list of failures, or of answers without a known truth."""
WORLDS_SHOWN = 6
"""Worlds with figures and cases of their own, over all runs, so that the page stays below 5 MB; the
tables hold all."""


def write_report(folders: Sequence[Path], path: Path, *, title: str = "Geolocation report") -> Path:
    """Write one page of run folders, as `scripts/zero_shot.py` makes them, and return its path.

    Raises:
        UsageError: no run folder, or one that cannot be read.
    """
    each = max(1, WORLDS_SHOWN // max(1, len(folders)))
    runs = [read_run(folder) for folder in folders]
    environment = Environment(
        loader=PackageLoader("icgeo", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.jinja").render(
        title=title,
        glance=tables.glance_table((run.name, run.rows) for run in runs),
        sections=[
            _section(run, worlds=each if number < WORLDS_SHOWN else 0)
            for number, run in enumerate(runs)
        ],
        most_listed=MOST_LISTED,
        describe=_describe,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path


def _section(run: Run, *, worlds: int) -> dict[str, Any]:
    """Make the tables of a run, and the charts and cases of its first `worlds`."""
    names = list(run.rows.world.unique())
    known = run.rows[run.rows.nll.notna()]
    drawn = known[known.world.isin(names[:worlds])]
    by_world = [(str(world), rows) for world, rows in known.groupby("world", sort=False)]
    charted = [(world, rows) for world, rows in by_world if world in names[:worlds]]
    calibration = tables.calibration_table(drawn)
    distances = calibration["distance from diagonal"]
    compared, notes = compare_with_published(run.rows)
    return {
        "run": run,
        "worlds": names,
        "left_out": len(names[worlds:]),
        "results": {world: tables.results_table(rows) for world, rows in by_world},
        "answers": tables.answer_table(run.rows),
        "compared": compared,
        "notes": notes,
        "curves": [chart for world, rows in charted for chart in draw_curves(world, rows)],
        "calibration": calibration,
        "reliability": draw_calibration(drawn, distances) if len(distances) else None,
        "maps": [draw_errors(world, rows) for world, rows in charted],
        "cases": run.cases[run.cases.world.isin(names[:worlds])][: 2 * EACH * worlds],
        "failures": tables.failure_table(run.rows),
        "timing": tables.timing_table(run.rows),
        "settings": {
            "Options": tables.values_table(run.options, "option", "value"),
            "Versions": tables.values_table(run.versions, "what", "version"),
        },
    }


def _describe(case: Any) -> str:
    """Say in words how a case went."""
    answer = format_place(case.lat, case.lon)
    answer = answer if isna(case.lat) else f"answer {answer}"
    area = f"90\N{NO-BREAK SPACE}% area {format_area(case.area_90_km2)}"
    if isna(case.nll):
        return f"{answer}; {area}"
    error = f"{format_number(case.distance_km)} km off"
    if isna(case.distance_km):
        error = f"counts as {GUESS_KM:,.0f} km off"
    truth = format_place(case.true_lat, case.true_lon)
    return f"{error}; {answer}, truth {truth}; {area}; NLL {format_number(case.nll, '.2f')} nats/sr"
