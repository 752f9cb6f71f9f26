"""Pictures of a report: curves of errors, radii, areas and calibration, and the map of errors.

Conventions: one figure a world; curves are SVG, which is sharp at any size, and maps are PNG.
Colours run from light to dark with the number of shots; baselines are as in `icgeo.plots`.
"""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from icgeo import plots
from icgeo.data.photos import Photo, read_photo
from icgeo.evaluation import BASELINES, Row, Score, column
from icgeo.evaluation.scores import distances
from icgeo.metrics import THRESHOLDS_KM, UNIFORM_NLL, recall_by_area
from icgeo.plots.style import BASELINE_STYLES
from icgeo.prediction import Prediction
from icgeo.sphere import AREA_KM2, Values

PHOTO_SIDE = 240
LINES_SHOWN = 400
"""Of a map of errors: more lines hide each other."""
_TYPES = {".svg": "image/svg+xml", ".png": "image/png", ".jpg": "image/jpeg"}


@dataclass(frozen=True)
class Picture:
    """An image file in memory."""

    data: bytes
    suffix: str

    @classmethod
    def read(cls, path: Path) -> "Picture":
        """Read a file as it is."""
        return cls(path.read_bytes(), path.suffix)

    @property
    def uri(self) -> str:
        """The image as an address that holds it, so that a page needs no other file."""
        kind = _TYPES.get(self.suffix, "image/png")
        return f"data:{kind};base64,{base64.b64encode(self.data).decode()}"


def _svg(figure: Figure) -> Picture:
    stream = BytesIO()
    with mpl.rc_context({"svg.hashsalt": "icgeo"}):  # the same figure, the same bytes
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return Picture(stream.getvalue(), ".svg")


def _png(figure: Figure, dpi: float) -> Picture:
    stream = BytesIO()
    figure.savefig(stream, format="png", dpi=dpi)
    return _encoded(Image.open(stream).convert("RGB"), ".png")


def _encoded(image: Image.Image, suffix: str) -> Picture:
    stream = BytesIO()
    image.save(stream, format="JPEG" if suffix == ".jpg" else "PNG", quality=85, optimize=True)
    return Picture(stream.getvalue(), suffix)


def photo_picture(photo: Photo) -> Picture:
    """Make a small copy of a photo, without its tags: a report tells no more than it shows.

    Raises:
        PhotoError: it cannot be read.
    """
    image = read_photo(photo, size_hint=PHOTO_SIDE)
    image.thumbnail((PHOTO_SIDE, PHOTO_SIDE))
    return _encoded(image, ".jpg")


def map_picture(image: Float[Tensor, "3 height width"]) -> Picture:
    """Show a map as it was drawn, clipped to what a screen shows."""
    pixels = rearrange(image.detach().cpu().float().clamp(0, 1), "c h w -> h w c")
    return _encoded(Image.fromarray((255 * pixels).round().byte().numpy()), ".png")


def density_picture(
    prediction: Prediction, truth: Values | None = None, *, on_earth: bool
) -> Picture:
    """Show a density as `icgeo.plots.plot_density` does, small and with large marks."""
    figure = Figure(figsize=(2.6, 1.35), layout="constrained")
    plots.plot_density(prediction, truth, on_earth=on_earth, ax=figure.subplots())
    return _png(figure, dpi=160)


def shots_curve(scored: Sequence[Score]) -> Picture:
    """Show the median error of one world against the number of shots."""
    figure, ax = _curve()
    plots.plot_shots(scored, ax=ax)
    ax.set_title("")
    return _finished(figure, ax)


def radius_curve(rows: Sequence[Row]) -> Picture:
    """Show which share of the queries of one world has its answer within each radius."""
    figure, ax = _curve()
    radii = torch.logspace(0, math.log10(20_100), 160, dtype=torch.float64)
    for label, part, style in _curves(rows):
        ordered = distances(part).sort().values
        ax.plot(radii, torch.searchsorted(ordered, radii) / len(part), label=label, **style)
    for km in THRESHOLDS_KM:
        ax.axvline(km, color="0.85", linewidth=0.8, zorder=0)
    _set_shares(ax, "answer within radius, km", "share of queries")
    ax.set_xticks(THRESHOLDS_KM, [f"{km:,.0f}" for km in THRESHOLDS_KM])
    return _finished(figure, ax)


def area_curve(rows: Sequence[Row]) -> Picture | None:
    """Show which share of the truths of one world a search of each area finds.

    A flat density is searched blindly; where all are flat the curve is left out, as the dotted line
    is the same. None if the rows do not hold the area searched, as those of earlier versions.
    """
    rows = [row for row in rows if row.searched_area_km2 is not None]
    if not rows:
        return None
    figure, ax = _curve()
    shares = torch.logspace(-5, 0, 160, dtype=torch.float64)
    for label, part, style in _curves(rows):
        if not all(map(_is_flat, part)):
            ax.plot(100 * shares, found_within(shares, part), label=label, **style)
    ax.plot(100 * shares, shares, color="0.6", linewidth=1, linestyle=":", label="searched blindly")
    _set_shares(ax, "area searched, % of the sphere", "share of truths found")
    ax.xaxis.set_major_formatter("{x:g}")
    return _finished(figure, ax)


def found_within(shares: Float[Tensor, " areas"], rows: Sequence[Row]) -> Float[Tensor, " areas"]:
    """Give the share of truths that a search of each share of the sphere finds.

    In a flat density all cells are tied: searched in any order, as many are found as are searched.
    """
    told = [row for row in rows if not _is_flat(row)]
    found = shares * (len(rows) - len(told))
    if told:
        areas = column(told, "searched_area_km2")
        found += len(told) * recall_by_area(areas, shares * AREA_KM2)
    return found / len(rows)


def _is_flat(row: Row) -> bool:
    return row.nll is not None and math.isclose(row.nll, UNIFORM_NLL, abs_tol=1e-9)


def calibration_curve(levels: Mapping[str, Tensor]) -> Picture:
    """Show how often the truth lies in the credible region of each probability."""
    return _svg(plots.plot_calibration(levels))


def _curve() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.6, 3.9), layout="constrained")
    return figure, figure.subplots()


def _finished(figure: Figure, ax: Axes) -> Picture:
    figure.legend(
        *ax.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8,
        frameon=False,
    )  # fmt: skip
    return _svg(figure)


def _set_shares(ax: Axes, x: str, y: str) -> None:
    ax.set_xscale("log")
    ax.minorticks_off()
    ax.set(xlabel=x, ylabel=y, ylim=(0, 1))
    ax.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    ax.grid(axis="y", color="0.9")
    ax.spines[["top", "right"]].set_visible(False)


def _curves(rows: Sequence[Row]) -> list[tuple[str, list[Row], dict[str, Any]]]:
    """Divide the rows of one world: methods with each number of shots, baselines with the most."""
    known = [row for row in rows if row.nll is not None]
    most = max((row.shots for row in known), default=0)
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in known:
        if row.locator not in BASELINES or row.shots == most:
            groups.setdefault((row.locator, row.shots), []).append(row)
    own = [key for key in groups if key[0] not in BASELINES]
    colours = dict(
        zip(own, mpl.colormaps["viridis_r"](np.linspace(0.15, 1, len(own))), strict=True)
    )
    curves = []
    for key in sorted(groups, key=lambda key: (key[0] in BASELINES, key)):
        if key in colours:
            curves.append((f"{key[0]}, {key[1]} shots", groups[key], {"color": colours[key]}))
        else:
            style = {**BASELINE_STYLES[key[0]], "marker": None}
            curves.append((key[0], groups[key], {**style, "linewidth": 1.2}))
    return curves


def error_map(rows: Sequence[Row], *, on_earth: bool) -> Picture:
    """Draw a great circle from each answer to its truth, of at most `LINES_SHOWN` rows."""
    known = [row for row in rows if row.true_lat is not None]
    chosen = np.linspace(0, len(known) - 1, min(len(known), LINES_SHOWN)).round().astype(int)
    shown = [known[number] for number in chosen]
    places = [
        torch.stack((column(shown, lat), column(shown, lon)), dim=-1).numpy()
        for lat, lon in (("lat", "lon"), ("true_lat", "true_lon"))
    ]
    figure = Figure(figsize=(6, 3.7), layout="constrained")
    plots.plot_errors(*places, on_earth=on_earth, ax=figure.subplots())
    return _png(figure, dpi=130)
