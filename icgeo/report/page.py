"""One HTML page of run folders, which needs no network, no script and no other file.

Conventions: all that is shown stands in the page, pictures as `data:` addresses; text from files is
escaped; a content security policy forbids everything else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from icgeo.evaluation import BASELINES, Episode, Row, levels_by_world, scores
from icgeo.evaluation.scores import GUESS_KM
from icgeo.report.cases import EACH, Case
from icgeo.report.figures import (
    LINES_SHOWN,
    Picture,
    area_curve,
    calibration_curve,
    error_map,
    radius_curve,
    shots_curve,
)
from icgeo.report.published import comparison_tables
from icgeo.report.runs import Run, read_run
from icgeo.report.tables import (
    COLUMNS,
    Cell,
    Table,
    answer_table,
    area,
    calibration_table,
    failure_table,
    groups_of,
    number,
    place,
    results_table,
    scored,
    timing_table,
    values_table,
)

CASES_EACH = 2 * EACH
WORLDS_SHOWN = 6
"""Worlds with figures and cases of their own, over all runs, so that the page stays below 5 MB; the
tables hold all."""


@dataclass(frozen=True)
class Shown:
    """A picture with what stands below it, and what it shows for those who do not see it."""

    picture: Picture
    caption: str
    alt: str


@dataclass(frozen=True)
class Section:
    """All that the page shows of a run."""

    run: Run
    results: list[Table]
    compared: list[Table]
    notes: list[str]
    left_out: int
    """Worlds without figures and cases."""
    curves: list[Shown]
    calibration: list[Shown | Table]
    maps: list[Shown]
    cases: list[Case]
    failures: Table | None
    answers: Table | None
    timing: Table
    settings: list[Table]


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
    sections = [
        section(read_run(folder), worlds=each if number < WORLDS_SHOWN else 0)
        for number, folder in enumerate(folders)
    ]
    page = render(sections, title=title)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path


def render(sections: Sequence[Section], *, title: str) -> str:
    """Lay out the page."""
    environment = Environment(
        loader=PackageLoader("icgeo", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("report.html.jinja")
    return template.render(
        title=title,
        sections=sections,
        glance=glance([one.run for one in sections]),
        verdict=verdict,
    )


def section(run: Run, *, worlds: int = WORLDS_SHOWN) -> Section:
    """Make the tables of a run, and the pictures of its first `worlds`."""
    compared, notes = comparison_tables(run.rows)
    results = [results_table(world, run.of_world(world)) for world in run.worlds]
    unknown = [row for row in run.rows if row.true_lat is None and row.error is None]
    shown = {world: run.of_world(world) for world in run.worlds[:worlds]}
    known = {
        world: rows for world, rows in shown.items() if any(row.nll is not None for row in rows)
    }
    left_out = len(run.worlds) - len(shown)
    return Section(
        run=run,
        results=[table for table in results if table.rows],
        compared=compared,
        notes=notes,
        left_out=left_out,
        curves=[one for world, rows in known.items() for one in _curves(world, rows)],
        calibration=_calibration([row for rows in known.values() for row in rows]),
        maps=[_map(world, rows) for world, rows in known.items()],
        cases=[case for case in run.cases if case.row.world in shown][: CASES_EACH * worlds],
        failures=failure_table(run.failures) if run.failures else None,
        answers=answer_table(unknown) if unknown else None,
        timing=timing_table(run.rows),
        settings=[
            values_table("Options", run.options, ("option", "value")),
            values_table("Versions", run.versions, ("what", "version")),
        ],
    )


def _curves(world: str, rows: Sequence[Row]) -> list[Shown]:
    shown: list[Shown] = []
    if scored_rows := scores([row for row in rows if None not in (row.area_90_km2, row.seconds)]):
        most = max(score.shots for score in scored_rows)
        own = [s for s in scored_rows if s.shots == most and s.locator not in BASELINES]
        ends = " ".join(f"{s.locator}, {most} shots: {s.summary.median_km:,.0f} km." for s in own)
        text = f"{world}: median error against shots, with 95 % intervals of the method"
        shown.append(Shown(shots_curve(scored_rows), text, f"Line chart, {text}. {ends}"))
    text = f"{world}: share of queries answered within each radius"
    shown.append(Shown(radius_curve(rows), text, f"Line chart, {text}; numbers are in the tables."))
    if found := area_curve(rows):
        text = (
            f"{world}: truths found by a search of each area, most probable cells first; flat "
            "densities, which tell nothing, are searched blindly"
        )
        shown.append(Shown(found, text, f"Line chart, {text}."))
    return shown


def _calibration(rows: Sequence[Row]) -> list[Shown | Table]:
    levels = levels_by_world(rows)
    if not levels:
        return []
    table = calibration_table(levels)
    alt = "; ".join(f"{cells[0].text}: {cells[4].text}" for cells in table.rows)
    return [
        Shown(
            calibration_curve(levels),
            "How often the truth lies in the credible region of each probability; above the "
            "diagonal densities are too wide, below it too narrow; within the shaded band that may "
            "be chance",
            f"Reliability curves; largest distance from the diagonal: {alt}.",
        ),
        table,
    ]


def _map(world: str, rows: Sequence[Row]) -> Shown:
    own = [row for row in rows if row.locator not in BASELINES and row.nll is not None]
    first = [row for row in own if row.locator == own[0].locator]
    most = max(row.shots for row in first)
    last = [row for row in first if row.shots == most]
    silent = sum(row.lat is None for row in last)
    count = f"{LINES_SHOWN:,} of {len(last):,}" if len(last) > LINES_SHOWN else f"{len(last)}"
    text = f"{world}, {last[0].locator}, {most} shots: {count} truths and answers, "
    text += f"joined by great circles; {silent:,} of {len(last):,} were not located"
    if silent:
        text += (
            f"; the tables count them as {GUESS_KM:,.0f} km, the median on the map leaves them out"
        )
    is_earth = Episode("", world, (), ()).is_earth
    return Shown(error_map(last, on_earth=is_earth), text, f"World map, {text}.")


def glance(runs: Sequence[Run]) -> Table:
    """Score the methods of all runs with most shots."""
    rows = []
    for run in runs:
        for world in run.worlds:
            groups = groups_of(run.of_world(world))
            most = max((shots for _, shots in groups), default=0)
            for (locator, shots), part in groups.items():
                if locator not in BASELINES and shots == most:
                    head = (run.name, world, locator, str(shots), f"{len(part):,}")
                    rows.append(
                        [*map(Cell, head), *(scored(part, COLUMNS[i]) for i in (0, 2, 7, 8))]
                    )
    header = ("run", "world or benchmark", "locator", "shots", "queries")
    titles = tuple(COLUMNS[i].title for i in (0, 2, 7, 8))
    return Table("At a glance: most shots, with 95 % intervals", (*header, *titles), rows, heads=2)


def verdict(row: Row) -> str:
    """Say in words how a case went."""
    answer = "not located" if row.lat is None else f"answer {place(row.lat, row.lon)}"
    if row.nll is None:
        return f"{answer}; 90\N{NO-BREAK SPACE}% area {area(row.area_90_km2)}"
    error = f"{number(row.distance_km)} km off" if row.distance_km is not None else (
        f"counts as {GUESS_KM:,.0f} km off"
    )  # fmt: skip
    return (
        f"{error}; {answer}, truth {place(row.true_lat, row.true_lon)}; "
        f"90\N{NO-BREAK SPACE}% area {area(row.area_90_km2)}; NLL {number(row.nll, '.2f')} nats/sr"
    )
