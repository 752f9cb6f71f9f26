"""Charts of a report: figures of `icgeo.plots`, each with a caption and a text in its place.

Conventions: a chart shows one world; curves are SVG, which is sharp at any size, maps are PNG.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from icgeo import plots
from icgeo.evaluation import BASELINES, Episode, levels_by_world, score
from icgeo.evaluation.scores import GUESS_KM
from icgeo.report.embedding import EmbeddedImage

LINES_SHOWN = 400
"""Of a map of errors: more lines hide each other."""


@dataclass(frozen=True)
class Chart:
    """An image with its caption, and what it shows for those who do not see it."""

    image: EmbeddedImage
    caption: str
    alt: str


def draw_curves(world: str, rows: pd.DataFrame) -> list[Chart]:
    """Draw the error of one world against shots, and its recall by radius and by area."""
    charts: list[Chart] = []
    scores = score(rows.dropna(subset=["area_90_km2", "seconds"]))
    if len(scores):
        most = scores["shots"].max()
        last = scores[(scores["shots"] == most) & ~scores["locator"].isin(BASELINES)]
        ends = (f"{one.locator}, {most} shots: {one.median_km:,.0f} km." for one in last.itertuples())
        caption = f"{world}: median error against shots, with 95 % intervals of the method"
        image = _draw_curve(plots.plot_shots, scores)
        charts.append(Chart(image, caption, f"Line chart, {caption}. {' '.join(ends)}"))
    caption = f"{world}: share of queries answered within each radius"
    image = _draw_curve(plots.plot_recall_by_radius, rows)
    charts.append(Chart(image, caption, f"Line chart, {caption}; numbers are in the tables."))
    if rows["searched_area_km2"].notna().any():
        caption = (
            f"{world}: truths found by a search of each area, most probable cells first; flat "
            "densities, which tell nothing, are searched blindly"
        )
        image = _draw_curve(plots.plot_recall_by_area, rows)
        charts.append(Chart(image, caption, f"Line chart, {caption}."))
    return charts


def _draw_curve(plot: Callable[..., Figure], values: Any) -> EmbeddedImage:
    figure = Figure(figsize=(4.6, 3.9), layout="constrained")
    ax = figure.subplots()
    plot(values, ax=ax)
    ax.set_title("")
    figure.legend(
        *ax.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=3,
        fontsize=8,
        frameon=False,
    )
    return EmbeddedImage.from_figure(figure)


def draw_calibration(rows: pd.DataFrame, gaps: pd.Series) -> Chart:
    """Draw how often truths lie in credible regions; `gaps` name the distance of each curve."""
    figure = plots.plot_calibration(levels_by_world(rows))
    alt = "; ".join(f"{name}: {gap}" for name, gap in gaps.items())
    return Chart(
        EmbeddedImage.from_figure(figure),
        "How often the truth lies in the credible region of each probability; above the "
        "diagonal densities are too wide, below it too narrow; within the shaded band that may "
        "be chance",
        f"Reliability curves; largest distance from the diagonal: {alt}.",
    )


def draw_errors(world: str, rows: pd.DataFrame) -> Chart:
    """Draw a great circle from each truth to its answer, of the first method with most shots.

    Of more than `LINES_SHOWN` rows so many are drawn, evenly spread.
    """
    known = rows[~rows["locator"].isin(BASELINES) & rows["nll"].notna()]
    locator = known["locator"].iloc[0]
    known = known[known["locator"] == locator]
    most = known["shots"].max()
    known = known[known["shots"] == most]
    numbers = np.linspace(0, len(known) - 1, min(len(known), LINES_SHOWN)).round().astype(int)
    drawn = known.iloc[numbers]
    figure = Figure(figsize=(6, 3.7), layout="constrained")
    plots.plot_errors(
        drawn[["lat", "lon"]].to_numpy(dtype=float),
        drawn[["true_lat", "true_lon"]].to_numpy(dtype=float),
        on_earth=Episode("", world, (), ()).is_earth,
        ax=figure.subplots(),
    )
    silent = known["lat"].isna().sum()
    count = f"{len(drawn):,} of {len(known):,}" if len(drawn) < len(known) else f"{len(known)}"
    caption = (
        f"{world}, {locator}, {most} shots: {count} truths and answers, joined by great circles; "
        f"{silent:,} of {len(known):,} were not located"
    )
    if silent:
        caption += (
            f"; the tables count them as {GUESS_KM:,.0f} km, the median on the map leaves them out"
        )
    return Chart(EmbeddedImage.from_figure(figure, dpi=130), caption, f"World map, {caption}.")
