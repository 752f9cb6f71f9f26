"""One HTML page of run folders, which needs no network, no script and no other file.

Conventions: all that is shown stands in the page, images as `data:` addresses; text from files is
escaped; a content security policy forbids everything else.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from icgeo.evaluation.scores import GUESS_KM
from icgeo.report import tables
from icgeo.report.cases import EACH
from icgeo.report.charts import draw_calibration, draw_curves, draw_errors
from icgeo.report.published import compare_with_published
from icgeo.report.run_folder import Run, read_run

WORLDS_SHOWN = 6
"""Worlds with figures and cases of their own, over all runs, so that the page stays below 5 MB; the
tables hold all."""


def write_report(folders: Sequence[Path], path: Path, *, title: str = "Geolocation report") -> Path:
    """Write one page that shows run folders.

    Args:
        folders: of runs, as `scripts/zero_shot.py` makes them.
        path: of the page.
        title: of the page.

    Returns:
        the path.

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
        glance=tables.glance_table([(run.name, run.rows) for run in runs]),
        sections=[
            _section(run, worlds=each if number < WORLDS_SHOWN else 0)
            for number, run in enumerate(runs)
        ],
        describe=describe_case,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path


def _section(run: Run, *, worlds: int) -> dict[str, Any]:
    """Make the tables of a run, and the charts of its first `worlds`."""
    rows, names = run.rows, list(run.rows["world"].unique())
    known = rows[rows["nll"].notna()]
    charted = known[known["world"].isin(names[:worlds])]
    by_world = [*charted.groupby("world", sort=False)]
    calibration = tables.calibration_table(charted)
    gaps = calibration.get("distance from diagonal")
    compared, notes = compare_with_published(rows)
    return {
        "run": run,
        "worlds": names,
        "left_out": len(names[worlds:]),
        "results": {
            world: tables.results_table(part) for world, part in known.groupby("world", sort=False)
        },
        "answers": tables.answer_table(rows[rows["true_lat"].isna() & rows["error"].isna()]),
        "compared": compared,
        "notes": notes,
        "curves": [chart for world, part in by_world for chart in draw_curves(world, part)],
        "calibration": calibration,
        "reliability": None if gaps is None else draw_calibration(charted, gaps),
        "maps": [draw_errors(world, part) for world, part in by_world],
        "cases": run.cases[run.cases["world"].isin(names[:worlds])][: 2 * EACH * worlds],
        "failures": tables.failure_table(run.failures),
        "timing": tables.timing_table(rows),
        "settings": {
            "Options": tables.values_table(run.options, ("option", "value")),
            "Versions": tables.values_table(run.versions, ("what", "version")),
        },
    }


def describe_case(row: Any) -> str:
    """Say in words how a case went."""
    answer = "not located" if pd.isna(row.lat) else f"answer {tables.format_place(row.lat, row.lon)}"
    area = f"90\N{NO-BREAK SPACE}% area {tables.format_area(row.area_90_km2)}"
    if pd.isna(row.nll):
        return f"{answer}; {area}"
    error = f"counts as {GUESS_KM:,.0f} km off"
    if pd.notna(row.distance_km):
        error = f"{tables.format_number(row.distance_km)} km off"
    truth = tables.format_place(row.true_lat, row.true_lon)
    nll = tables.format_number(row.nll, ".2f")
    return f"{error}; {answer}, truth {truth}; {area}; NLL {nll} nats/sr"
