"""Predictions: the photo, the map drawn, and the density on the world."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from torch import Tensor

from icgeo.data.photos import Photo
from icgeo.plots import theme
from icgeo.plots.theme import BLACK, DEEP_BLUES, GREEN, ORANGE, SMALL, TEXT, TITLE, show_image
from icgeo.plots.world import View, draw_globe, edge, shapes, whole_world, window
from icgeo.prediction import CREDIBLE_LEVELS, Prediction, rounded
from icgeo.sphere import EARTH_RADIUS_KM, Values, angle, as_lat_lon, distance_km, to_xyz
from icgeo.sphere.density import Density
from icgeo.sphere.healpix import cell_xyz

Base = Float[Tensor, "3 _ _"] | None
"""The world's own picture, equirectangular, in [0, 1]."""
Truth = Values | None
"""A location in degrees, where it is known."""
_WIDEST_KM, _LEAST_CELLS = 3000.0, 5
"""Half of the side of a window on a mode: at most, and at least in cells."""
_DRAWN, _SEEN = "map drawn", "map, seen from there"
_LEVEL_STYLES: dict[float, Any] = {0.5: "dashed", 0.9: "solid"}


def plot_density(
    prediction: Prediction,
    truth: Truth = None,
    *,
    on_earth: bool = True,
    base: Base = None,
    ax: Axes | None = None,
) -> Figure:
    """Show a density on the world: bluer is denser, grey beyond the 90 % region; truth, point.

    `on_earth` draws coastlines, `base` the world's own picture (equirectangular, in [0, 1]);
    without it there is only the graticule. A given `ax` gets neither title nor legend.
    """
    panel = ax or Figure(figsize=(6, 3.55), layout="constrained").subplots()
    draw_world(panel, prediction, truth, on_earth=on_earth, base=base, levels=(0.9,))
    figure = theme.figure_of(panel)
    if ax is None:
        panel.set_title(summary(prediction, truth), fontsize=TEXT)
        _add_legend(figure, [prediction], [truth], is_shaded=base is None)
    return figure


def draw_world(
    ax: Axes,
    prediction: Prediction,
    truth: Truth,
    *,
    on_earth: bool,
    levels: Sequence[float] = CREDIBLE_LEVELS,
    base: Base = None,
) -> AxesImage:
    """Draw a density on the whole world, its point and the truth; return what colours stand for."""
    image = _draw_density(ax, whole_world(), prediction.density, levels, base)
    _mark_points(ax, draw_globe(ax, on_earth=on_earth), prediction, truth)
    return image


def _draw_density(
    ax: Axes, view: View, density: Density, levels: Sequence[float], base: Base
) -> AxesImage:
    """Colour a density, outline its levels, and shade beyond the last, but over a picture."""
    values = np.where(view.inside, density.log_prob(view.lat_lon).exp().numpy(), np.nan)
    place: dict[str, Any] = {"extent": view.extent, "origin": "upper"}
    # alike in every view, and pale where nothing is known: darkest is four times uniform at least;
    # of a density with levels it is that of its even cells: beside a place of 1 km all is pale
    max_density = max(density.mass.max().item() / density.cell_area, 1 / math.pi)
    colours: dict[str, Any] = {"cmap": "Blues", "vmin": 0, "vmax": max_density}
    levels_at = density.credible_level(view.lat_lon, smooth=True)
    credible_levels = np.where(view.inside, levels_at.numpy(), np.nan)
    if base is not None:
        ax.imshow(view.paint(base), **place)
        alpha = 0.3 + 0.7 * np.sqrt(np.minimum(values / max_density, 1))
        colours |= {"cmap": DEEP_BLUES, "alpha": np.where(credible_levels <= levels[-1], alpha, 0)}
    image = ax.imshow(values, interpolation="nearest", **colours, **place)
    if not _is_flat(density):
        if base is None:
            ax.contourf(credible_levels, [levels[-1], 2], colors="0.5", alpha=0.2, **place)
        for level in levels:
            if np.nanmin(credible_levels) < level < np.nanmax(credible_levels):
                style = {"linewidths": 0.9, "linestyles": _LEVEL_STYLES[level]}
                ax.contour(credible_levels, [level], colors=BLACK, **style, **place)
    return image


def _is_flat(density: Density) -> bool:
    return bool(density.mass.max() == density.mass.min())


def _mark_points(ax: Axes, view: View, prediction: Prediction, truth: Truth) -> None:
    if prediction.located:
        x, y = view.project(np.array([prediction.lat, prediction.lon]))
        style: dict[str, Any] = {"markeredgewidth": 1.8, "path_effects": theme.HALO}
        ax.plot(x, y, "x", color=ORANGE, markersize=7, **style)
    if truth is not None:
        mark_truth(ax, *view.project(as_lat_lon(truth).double().numpy()))


def mark_truth(ax: Axes, x: float, y: float) -> None:
    """Mark where a photo was taken."""
    ax.plot(x, y, "*", color=GREEN, markersize=10, markeredgecolor="white")


def legend_handles(
    predictions: Sequence[Prediction],
    truth: Sequence[Truth],
    levels: Sequence[float] = CREDIBLE_LEVELS,
    *,
    is_shaded: bool = True,
) -> list[Artist]:
    """Name what is drawn of any of these predictions, but for its colours.

    Without a picture of the world what lies outside the last region `is_shaded`.
    """
    handles: list[Artist] = []
    if any(place is not None for place in truth):
        handles.append(Line2D([], [], ls="none", marker="*", color=GREEN, ms=10, label="truth"))
    if any(one.located for one in predictions):
        cross: dict[str, Any] = {"ls": "none", "marker": "x", "markeredgewidth": 1.8}
        handles.append(Line2D([], [], color=ORANGE, label="answer", **cross))
    if not all(_is_flat(one.density) for one in predictions):
        for level in levels:
            note = " (grey: outside)" if is_shaded and level == levels[-1] else ""
            line: dict[str, Any] = {"color": BLACK, "lw": 0.9, "ls": _LEVEL_STYLES[level]}
            handles.append(Line2D([], [], label=f"{100 * level:.0f} % region{note}", **line))
    return handles


def density_handle() -> Artist:
    """Name the colours of a density."""
    return Patch(color=colormaps["Blues"](0.75), label="bluer: denser")


def _add_legend(
    figure: Figure, predictions: Sequence[Prediction], truth: Sequence[Truth], *, is_shaded: bool
) -> None:
    handles = legend_handles(predictions, truth, (0.9,), is_shaded=is_shaded)
    theme.add_legend(figure, [*handles, density_handle()], 4)


def _verdict(prediction: Prediction, truth: Truth) -> str:
    if not prediction.located:
        return "not located"
    if truth is None:
        return theme.place_name(prediction.lat, prediction.lon)
    return f"{distance_km([prediction.lat, prediction.lon], truth).item():,.0f} km off"


def plot_gallery(
    predictions: Sequence[Prediction],
    photos: Sequence[Photo],
    truth: Sequence[tuple[float, float] | None] | None = None,
    *,
    titles: Sequence[str] = (),
    on_earth: Sequence[bool] = (),
    bases: Sequence[Base] = (),
    figure: Figure | None = None,
) -> Figure:
    """Show a row for each prediction: the photo under its title, the map drawn, the density.

    `on_earth` says in which rows coastlines belong, by default all; `bases` are the worlds' own
    pictures as in `plot_density`, None where there is none.

    Raises:
        ValueError: no prediction, or sequences of other lengths.
    """
    count = len(predictions)
    truth, titles = truth or [None] * count, titles or [""] * count
    bases = bases or [None] * count
    columns = (predictions, photos, truth, titles, on_earth or [True] * count, bases)
    lengths = [len(column) for column in columns]
    if not count or set(lengths) != {count}:
        requirement = "a photo, truth, title, on_earth and base for each of at least one prediction"
        raise ValueError(f"expected {requirement}, got {lengths}")
    figure = figure or Figure(figsize=(10, 2.15 * count + 0.5), layout="constrained")
    axes = figure.subplots(count, 3, squeeze=False, width_ratios=[1, 2, 2.06])
    for row, prediction, photo, place, title, is_earth, base in zip(axes, *columns, strict=True):
        _show_input_and_map(row[0], row[1], prediction, photo, title)
        row[0].set_anchor("N")  # heads of columns in a line
        draw_world(row[2], prediction, place, on_earth=is_earth, levels=(0.9,), base=base)
        row[2].set_title(_verdict(prediction, place), fontsize=TEXT, pad=3)
    above: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points"}
    middle = _SEEN if all(one.levels for one in predictions) else _DRAWN
    for ax, head in zip(axes[0], ("photo", middle, "density on the world"), strict=True):
        if ax.axison or ax is axes[0, 2]:
            ax.annotate(head, (0.5, 1), (0, 1.9 * TEXT), ha="center", fontsize=TITLE, **above)
    _add_legend(figure, predictions, truth, is_shaded=any(base is None for base in bases))
    return figure


def _show_input_and_map(
    photo_ax: Axes, map_ax: Axes, prediction: Prediction, photo: Photo, title: str, head: str = ""
) -> None:
    title = title if len(title) <= 26 else "…" + title[-25:]  # its end tells files apart
    show_image(photo_ax, theme.picture(photo), title=title)
    if prediction.map is not None:
        show_image(map_ax, theme.drawn_image(prediction.map), title=head)
    elif prediction.levels:
        show_image(map_ax, prediction.levels[-1].views[0].movedim(0, -1).numpy(), title=head)
    else:
        map_ax.set_axis_off()


def plot_prediction(
    prediction: Prediction,
    photo: Photo,
    truth: Truth = None,
    *,
    title: str = "",
    on_earth: bool = True,
    base: Base = None,
    ax: Axes | None = None,
) -> Figure:
    """Show all of a prediction: photo, map drawn, density on the world, and a window on its mode.

    One that is not located has no window. `title` stands over the photo; `on_earth` draws
    coastlines and borders, `base` the world's own picture as in `plot_density`; `ax`, one of a grid
    (`Figure.subplots`), gives up its place.

    Raises:
        ValueError: an `ax` that is not one of a grid.
    """
    if ax is None:
        width = 10.5 if prediction.located else 7.7
        ax = Figure(figsize=(width, 3.5), layout="constrained").subplots()
    figure, place = theme.figure_of(ax), ax.get_subplotspec()
    if place is None:
        raise ValueError("expected axes of a grid, got free ones; make them with Figure.subplots")
    ax.remove()
    widths = [1.25, 3.6, 1.75][: 3 if prediction.located else 2]
    grid = place.subgridspec(2, len(widths), width_ratios=widths)
    # what is left of a slot is below, so that the layout keeps room for titles
    spots: list[Any] = [grid[0, 0], grid[1, 0], *(grid[:, i] for i in range(1, len(widths)))]
    photo_ax, map_ax, world, *zooms = (figure.add_subplot(spot, anchor="N") for spot in spots)
    head = _SEEN if prediction.levels else _DRAWN
    _show_input_and_map(photo_ax, map_ax, prediction, photo, title or "photo", head)
    image = draw_world(world, prediction, truth, on_earth=on_earth, base=base)
    world.set_title(summary(prediction, truth), fontsize=TEXT)
    theme.add_colour_bar(image, world, "probability per steradian")
    handles = legend_handles([prediction], [truth], is_shaded=base is None)
    for zoom in zooms:
        view = draw_zoom(zoom, prediction, truth, on_earth=on_earth, base=base)
        handles.append(frame_window(world, view))
    if handles:
        spacing: dict[str, Any] = {"handletextpad": 0.4, "handlelength": 1.5, "columnspacing": 0.9}
        below: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, 0)}
        below |= {"ncols": len(handles), "fontsize": SMALL, "frameon": False}
        world.legend(handles=handles, **below, **spacing)
    return figure


def frame_window(world: Axes, view: View) -> Artist:
    """Draw the edge of a window on the whole world; return what names it in a legend."""
    style: dict[str, Any] = {"linewidths": 1.0, "path_effects": theme.HALO}
    world.add_collection(LineCollection(whole_world().lines(edge(view)), colors=BLACK, **style))
    square: dict[str, Any] = {"ls": "none", "marker": "s", "mfc": "none", "mec": BLACK, "ms": 7}
    return Line2D([], [], label="window on the right", **square)


def summary(prediction: Prediction, truth: Truth) -> str:
    """Say in a line where it is, how far from the truth and how large its 90 % region is."""
    if not prediction.located:
        remark = ": all places are as likely" if _is_flat(prediction.density) else ""
        return f"not located, legibility {prediction.legibility:.2f}{remark}"
    off = "" if truth is None else f", {_verdict(prediction, truth)}"
    area = rounded(prediction.density.credible_area_km2(0.9), digits=2)
    place = theme.place_name(prediction.lat, prediction.lon)
    return f"{place}{off}, 90 % region of {area} km²"


def _zoom_radius_km(density: Density, truth: Truth) -> float:
    """Return half of the side of a window that shows most of what lies around the mode."""
    mode = density.mode()
    min_radius = _LEAST_CELLS * EARTH_RADIUS_KM * math.sqrt(density.cell_area)
    distances, order = (EARTH_RADIUS_KM * angle(to_xyz(mode), cell_xyz(density.nside))).sort()
    total = density.mass[order][distances < _WIDEST_KM].cumsum(0)
    within = distances[torch.searchsorted(total, 0.9 * total[-1])].item()
    radius = min(max(min_radius, 1.4 * within), _WIDEST_KM)
    off = 0.0 if truth is None else 1.2 * distance_km(mode, truth).item()
    # widened to show the truth, but not to show little else
    return max(radius, off) if off < min(4 * radius, _WIDEST_KM) else radius


def draw_zoom(
    ax: Axes, prediction: Prediction, truth: Truth, *, on_earth: bool, base: Base = None
) -> View:
    """Show a window on the mode in axes of km."""
    lat, lon = prediction.density.mode().tolist()
    view = window(lat, lon, _zoom_radius_km(prediction.density, truth))
    _draw_density(ax, view, prediction.density, CREDIBLE_LEVELS, base)
    for kind, colour in (("borders", "0.7"), ("land", "0.35")) if on_earth else ():
        ax.add_collection(LineCollection(view.lines(shapes(kind)), colors=colour, linewidths=0.6))
    _mark_points(ax, view, prediction, truth)
    left, right, bottom, top = view.extent
    ax.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
    ax.set_title(f"around the mode, {theme.place_name(lat, lon)}", fontsize=TEXT)
    ax.set_xlabel("km to the east", fontsize=SMALL)
    ax.set_ylabel("km to the north", fontsize=SMALL, labelpad=0)
    ax.tick_params(labelsize=SMALL)
    ax.locator_params(nbins=4)
    return view
