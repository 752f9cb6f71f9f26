"""Charts of a report: figures of `icgeo.plots`, embedded, with a caption and a text in their place.

Conventions: a chart shows one world; curves are SVG, which is sharp at any size, maps are PNG.
"""

import base64
import mimetypes
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from pandas import DataFrame, Series
from PIL import Image

from icgeo import plots
from icgeo.evaluation import Episode, levels_by_world, score
from icgeo.evaluation.scores import GUESS_KM, methods

LINES_SHOWN = 400
"""Of a map of errors: more lines hide each other."""


@dataclass(frozen=True)
class EmbeddedImage:
    """An image file in memory, so that a page needs no other file."""

    data: bytes
    suffix: str

    @classmethod
    def read(cls, path: Path) -> "EmbeddedImage":
        """Read a file as it is."""
        return cls(path.read_bytes(), path.suffix)

    @classmethod
    def from_image(cls, image: Image.Image, suffix: str = ".png") -> "EmbeddedImage":
        """Encode an image as PNG, or as JPEG if the suffix is `.jpg`."""
        stream = BytesIO()
        kind = "JPEG" if suffix == ".jpg" else "PNG"
        image.save(stream, format=kind, quality=85, optimize=True)
        return cls(stream.getvalue(), suffix)

    @classmethod
    def from_figure(cls, figure: Figure, *, dpi: float | None = None) -> "EmbeddedImage":
        """Render a figure as SVG, which is sharp at any size, or with `dpi` as PNG."""
        stream = BytesIO()
        if dpi is not None:
            figure.savefig(stream, format="png", dpi=dpi)
            return cls.from_image(Image.open(stream).convert("RGB"))
        with mpl.rc_context({"svg.hashsalt": "icgeo"}):  # the same figure, the same bytes
            figure.savefig(stream, format="svg", metadata={"Date": None})
        return cls(stream.getvalue(), ".svg")

    @property
    def uri(self) -> str:
        """The image as an address that holds it."""
        kind = mimetypes.types_map.get(self.suffix, "image/png")
        return f"data:{kind};base64,{base64.b64encode(self.data).decode()}"


@dataclass(frozen=True)
class Chart:
    """An image with its caption, and what it shows for those who do not see it."""

    image: EmbeddedImage
    caption: str
    alt: str


def draw_curves(world: str, rows: DataFrame) -> list[Chart]:
    """Draw the error of one world against shots, and its recall by radius and by area."""
    charts: list[Chart] = []
    scores = score(rows.dropna(subset=["area_90_km2", "seconds"]))
    if len(scores):
        most = methods(scores[scores.shots == scores.shots.max()])
        ends = [f"{s.locator}, {s.shots} shots: {s.median_km:,.0f} km." for s in most.itertuples()]
        caption = f"{world}: median error against shots, with 95 % intervals of the method"
        charts.append(_curve(plots.plot_shots, scores, caption, *ends))
    caption = f"{world}: share of queries answered within each radius; numbers are in the tables"
    charts.append(_curve(plots.plot_recall_by_radius, rows, caption))
    if rows.searched_area_km2.notna().any():
        caption = (
            f"{world}: truths found by a search of each area, most probable cells first; flat "
            "densities, which tell nothing, are searched blindly"
        )
        charts.append(_curve(plots.plot_recall_by_area, rows, caption))
    return charts


def _curve(plot: Callable[..., Figure], values: DataFrame, caption: str, *words: str) -> Chart:
    figure = Figure(figsize=(4.6, 3.9), layout="constrained")
    ax = figure.subplots()
    plot(values, ax=ax)
    ax.set_title("")
    entries = ax.get_legend_handles_labels()
    figure.legend(*entries, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    image = EmbeddedImage.from_figure(figure)
    return Chart(image, caption, " ".join((f"Line chart, {caption}.", *words)))


def draw_calibration(rows: DataFrame, distances: Series) -> Chart:
    """Draw how often truths lie in their regions; `distances` from the diagonal are in its text."""
    caption = (
        "How often the truth lies in the credible region of each probability; above the diagonal "
        "densities are too wide, below it too narrow; within the shaded band that may be chance"
    )
    words = "; ".join(f"{name}: {distance}" for name, distance in distances.items())
    alt = f"Reliability curves; largest distance from the diagonal: {words}."
    figure = plots.plot_calibration(levels_by_world(rows))
    return Chart(EmbeddedImage.from_figure(figure), caption, alt)


def draw_errors(world: str, rows: DataFrame) -> Chart:
    """Draw a great circle from each truth to its answer, of the first method with most shots.

    Of more than `LINES_SHOWN` rows so many are drawn, evenly spread.
    """
    known = methods(rows[rows.nll.notna()])
    known = known[known.locator == known.locator.iloc[0]]
    known = known[known.shots == known.shots.max()]
    numbers = np.linspace(0, len(known) - 1, min(len(known), LINES_SHOWN)).round().astype(int)
    drawn = known.iloc[numbers]
    figure = Figure(figsize=(6, 3.7), layout="constrained")
    plots.plot_errors(
        drawn[["lat", "lon"]].to_numpy(copy=True),
        drawn[["true_lat", "true_lon"]].to_numpy(copy=True),
        on_earth=Episode("", world, (), ()).is_earth,
        ax=figure.subplots(),
    )
    first, silent = known.iloc[0], known.lat.isna().sum()
    count = f"{len(drawn):,} of {len(known):,}" if len(drawn) < len(known) else f"{len(known)}"
    caption = (
        f"{world}, {first.locator}, {first.shots} shots: {count} truths and answers, joined by "
        f"great circles; {silent:,} of {len(known):,} were not located"
    )
    if silent:
        guess = f"{GUESS_KM:,.0f} km"
        caption += f"; the tables count them as {guess}, the median on the map leaves them out"
    return Chart(EmbeddedImage.from_figure(figure, dpi=130), caption, f"World map, {caption}.")
