"""One HTML page of run folders, which needs no network, no script and no other file.

Conventions: text from files is escaped, and a content security policy allows nothing from outside.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from pandas import DataFrame, Series

from icgeo import plots
from icgeo.evaluation import Episode, levels_by_world, score
from icgeo.evaluation.scores import GUESS_KM, methods
from icgeo.plots.theme import add_legend
from icgeo.report import tables
from icgeo.report.latents import open_template
from icgeo.report.run_folder import EACH, EmbeddedImage, Run, read_run

Chart = tuple[EmbeddedImage, str, str]
"""An image, its caption, and what it shows for those who do not see it."""
WORLDS_SHOWN = 6
"""Worlds with figures and cases, over all runs, so that the page stays below 5 MB."""


def write_report(folders: Sequence[Path], path: Path, *, title: str = "Geolocation report") -> Path:
    """Write one page of run folders, as `scripts/zero_shot.py` makes them, and return its path.

    Raises:
        UsageError: no run folder, or one that cannot be read.
    """
    runs = [read_run(folder) for folder in folders]
    worlds_per_run = max(1, WORLDS_SHOWN // max(1, len(runs)))
    worlds = [worlds_per_run if number < WORLDS_SHOWN else 0 for number in range(len(runs))]
    context = {"title": title, "runs": runs, "sections": [*map(_section, runs, worlds)]}
    template = open_template("report.html.jinja")
    page = template.render(tables=tables, GUESS_KM=GUESS_KM, **context)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path


def _section(run: Run, worlds: int) -> dict[str, Any]:
    """Make the tables of a run, and the charts and cases of its first `worlds`."""
    names = list(run.rows.world.unique())
    scored_rows = run.rows[run.rows.nll.notna()]
    by_world = {str(world): rows for world, rows in scored_rows.groupby("world", sort=False)}
    chart_worlds = {world: rows for world, rows in by_world.items() if world in names[:worlds]}
    chart_rows = scored_rows[scored_rows.world.isin(chart_worlds)]
    calibration = tables.calibration_table(chart_rows)
    comparisons, notes = tables.compare_with_published(run.rows)
    return {
        "run": run,
        "worlds": names,
        "left_out": len(names[worlds:]),
        "results": {world: tables.results_table(rows) for world, rows in by_world.items()},
        "compared": comparisons,
        "notes": notes,
        "curves": [chart for item in chart_worlds.items() for chart in _draw_curves(*item)],
        "calibration": calibration,
        "reliability": _draw_calibration(chart_rows, calibration["distance from diagonal"]),
        "maps": [_draw_errors(*item) for item in chart_worlds.items()],
        "cases": run.cases[run.cases.world.isin(names[:worlds])][: 2 * EACH * worlds],
    }


def _draw_curves(world: str, rows: DataFrame) -> list[Chart]:
    """Draw the error of one world against shots, and its recall by radius and by area."""
    charts: list[Chart] = []
    scores = score(rows.dropna(subset=["area_90_km2", "seconds"]))
    if len(scores):
        final_scores = methods(scores[scores.shots == scores.shots.max()])
        ends = [
            f"{s.locator}, {s.shots} shots: {s.median_km:,.0f} km."
            for s in final_scores.itertuples()
        ]
        caption = f"{world}: median error against shots, with 95 % intervals of the method"
        charts.append(_curve(plots.plot_shots, scores, caption, *ends))
    caption = f"{world}: share of queries answered within each radius; numbers are in the tables"
    charts.append(_curve(plots.plot_recall_by_radius, rows, caption))
    if rows.searched_area_km2.notna().any():
        caption = f"{world}: truths found by a search of each area, most probable cells first"
        note = "; flat densities, which tell nothing, are searched blindly"
        charts.append(_curve(plots.plot_recall_by_area, rows, caption + note))
    return charts


def _curve(plot: Callable[..., Figure], values: DataFrame, caption: str, *words: str) -> Chart:
    ax = Figure(figsize=(4.6, 3.9), layout="constrained").subplots()
    figure = plot(values, ax=ax)
    ax.set_title("")
    add_legend(figure, ax.get_legend_handles_labels()[0], 3)
    alt = " ".join((f"Line chart, {caption}.", *words))
    return EmbeddedImage.from_figure(figure), caption, alt


def _draw_calibration(rows: DataFrame, distances: Series) -> Chart | None:
    """Draw how often truths lie in their regions; `distances` from the diagonal are in its text."""
    if distances.empty:
        return None
    caption = (
        "How often the truth lies in the credible region of each probability; above the diagonal "
        "densities are too wide, below it too narrow; within the shaded band that may be chance"
    )
    words = "; ".join(f"{name}: {distance}" for name, distance in distances.items())
    alt = f"Reliability curves; largest distance from the diagonal: {words}."
    image = EmbeddedImage.from_figure(plots.plot_calibration(levels_by_world(rows)))
    return image, caption, alt


def _draw_errors(world: str, rows: DataFrame) -> Chart:
    """Draw great circles from truths to answers, evenly spread, of the first method, most shots."""
    answers = methods(rows)
    answers = answers[answers.locator == answers.locator.iloc[0]]
    answers = answers[answers.shots == answers.shots.max()]
    line_count = min(len(answers), 400)  # more lines hide each other
    sample = answers.iloc[np.linspace(0, len(answers) - 1, line_count).round().astype(int)]
    columns = (["lat", "lon"], ["true_lat", "true_lon"])
    ends = (sample[names].to_numpy(copy=True) for names in columns)
    ax = Figure(figsize=(6, 3.7), layout="constrained").subplots()
    figure = plots.plot_errors(*ends, on_earth=Episode("", world, (), ()).is_earth, ax=ax)
    first_row, miss_count = answers.iloc[0], answers.lat.isna().sum()
    count = (
        f"{len(sample):,} of {len(answers):,}" if len(sample) < len(answers) else f"{len(answers)}"
    )
    caption = (
        f"{world}, {first_row.locator}, {first_row.shots} shots: {count} truths and answers, "
        f"joined by great circles; {miss_count:,} of {len(answers):,} were not located"
    )
    if miss_count:
        guess = f"{GUESS_KM:,.0f} km"
        caption += f"; the tables count them as {guess}, the median on the map leaves them out"
    return EmbeddedImage.from_figure(figure, dpi=130), caption, f"World map, {caption}."
