"""Figures: the context, a gallery of predictions, error against shots, calibration.

Conventions: every function returns a `Figure` and shows nothing, needs no display, and draws into
the `ax` or `figure` that it is given. Colours are those of Okabe and Ito (2008), which are told
apart with any colour vision; world maps are in the Equal Earth projection (Savric et al. 2018).
"""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from torch import Tensor

from icgeo.baselines import Chance, NearestOracle, NearestPixels
from icgeo.data.photos import Photo, read_photo
from icgeo.evaluation import RIVALS, Episode, Query, Row, Score, levels_by_world, scores
from icgeo.maps import MapStyle, draw
from icgeo.maps.basemap import basemap
from icgeo.metrics import calibration_error, reliability
from icgeo.prediction import Example, Locator, Prediction
from icgeo.sphere import Values, as_lat_lon, distance_km

BLUE, ORANGE, GREEN, GREY, BLACK = "#0072B2", "#D55E00", "#009E73", "#767676", "#000000"
METHOD_STYLE: dict[str, Any] = {"color": BLUE, "marker": "o", "linewidth": 2}
METHOD_STYLES: tuple[dict[str, Any], ...] = (
    METHOD_STYLE,
    {"color": ORANGE, "marker": "s", "linewidth": 1.5},
    {"color": GREEN, "marker": "^", "linewidth": 1.5},
    {"color": "#CC79A7", "marker": "D", "linewidth": 1.5},
    {"color": "#E69F00", "marker": "v", "linewidth": 1.5},
    {"color": "#56B4E9", "marker": "P", "linewidth": 1.5},
    {"color": BLACK, "marker": "x", "linewidth": 1, "linestyle": ":"},
)
"""Of several methods, in turn."""
RIVAL_STYLES: dict[str, dict[str, Any]] = {
    NearestPixels.name: {"color": ORANGE, "marker": "s", "linestyle": "--"},
    NearestOracle.name: {"color": GREEN, "marker": "^", "linestyle": "-."},
    Chance.name: {"color": GREY, "marker": None, "linestyle": ":"},
}
CALIBRATION_STYLES: tuple[dict[str, Any], ...] = (
    {"color": BLUE, "linestyle": "-"},
    {"color": ORANGE, "linestyle": "--"},
    {"color": GREEN, "linestyle": "-."},
    {"color": BLACK, "linestyle": (0, (1, 1))},
)
EQUAL_EARTH = "+proj=eqearth +R=1"
_CANVAS_WIDTH = 600
_CONTEXT_COLUMNS = 4


def _picture(photo: Photo) -> np.ndarray:
    return np.asarray(read_photo(photo, size_hint=256))


def _drawn(image: Float[Tensor, "3 height width"]) -> np.ndarray:
    return image.detach().cpu().float().clamp(0, 1).movedim(0, -1).numpy()


def _place(lat: float, lon: float) -> str:
    return f"{abs(lat):.0f}° {'N' if lat >= 0 else 'S'}, {abs(lon):.0f}° {'E' if lon >= 0 else 'W'}"


def _short(name: str, most: int = 26) -> str:
    return name if len(name) <= most else "…" + name[1 - most :]


def _figure_of(ax: Axes) -> Figure:
    figure = ax.get_figure(root=True)
    if figure is None:
        raise ValueError("expected axes of a figure, got removed ones; make them anew")
    return figure


def _show_image(ax: Axes, image: np.ndarray, *, title: str = "") -> None:
    ax.imshow(image, interpolation="nearest")
    ax.set_title(title, fontsize=8, pad=3)
    ax.set_xticks([])
    ax.set_yticks([])


def plot_context(
    examples: Sequence[Example],
    maps: Float[Tensor, "examples 3 height width"],
    *,
    figure: Figure | None = None,
) -> Figure:
    """Show the context as the model sees it: pairs of photo and map, in order.

    Raises:
        ValueError: no example, or another number of maps.
    """
    if not examples or len(examples) != len(maps):
        raise ValueError(
            f"expected a map for each of at least one example, got {len(examples)} examples and "
            f"{len(maps)} maps; draw them with icgeo.maps.draw"
        )
    columns = min(_CONTEXT_COLUMNS, len(examples))
    rows = math.ceil(len(examples) / columns)
    aspect = maps.shape[-1] / maps.shape[-2]
    size = (columns * (1.15 * (1 + aspect)), rows * 1.35 + 0.3)
    figure = figure or Figure(figsize=size, layout="constrained")
    axes = figure.subplots(
        rows, 2 * columns, squeeze=False, width_ratios=[1, aspect] * columns
    ).reshape(-1, 2)
    for ax in axes[len(examples) :].flat:
        ax.set_axis_off()
    for number, (example, image) in enumerate(zip(examples, maps, strict=True)):
        photo_ax, map_ax = axes[number]
        _show_image(photo_ax, _picture(example.image), title=f"photo {number + 1}")
        _show_image(
            map_ax, _drawn(image), title=f"map {number + 1}: {_place(example.lat, example.lon)}"
        )
    return figure


def plot_maps(
    photos: Sequence[Photo], maps: Mapping[str, Float[Tensor, "photos 3 height width"]]
) -> Figure:
    """Show a row for each photo: the photo, and its maps side by side, under their names.

    Raises:
        ValueError: no photo, or another number of maps.
    """
    counts = {name: len(images) for name, images in maps.items()}
    if not photos or set(counts.values()) != {len(photos)}:
        raise ValueError(f"expected a map for each of {len(photos)} photos, got {counts}")
    aspect = next(iter(maps.values())).shape[-1] / next(iter(maps.values())).shape[-2]
    figure = Figure(
        figsize=(1.5 * (1 + aspect * len(maps)), 1.6 * len(photos)), layout="constrained"
    )
    widths = [1.0, *len(maps) * [aspect]]
    axes = figure.subplots(len(photos), len(widths), squeeze=False, width_ratios=widths)
    for number, (row, photo) in enumerate(zip(axes, photos, strict=True)):
        _show_image(row[0], _picture(photo), title="" if number else "photo")
        for ax, (name, images) in zip(row[1:], maps.items(), strict=True):
            _show_image(ax, _drawn(images[number]), title="" if number else name)
    return figure


@lru_cache(maxsize=1)
def _canvas() -> tuple[
    Float[Tensor, "height width 2"],
    Bool[np.ndarray, "height width"],
    tuple[float, float, float, float],
]:
    """Locations of the pixels of a world map, which of them are on the globe, and its extent."""
    from pyproj import Proj

    project = Proj(EQUAL_EARTH)
    (right, _), (_, top) = project(180, 0), project(0, 90)
    height = round(_CANVAS_WIDTH * top / right)
    x = ((np.arange(_CANVAS_WIDTH) + 0.5) * 2 / _CANVAS_WIDTH - 1) * right
    y = (1 - (np.arange(height) + 0.5) * 2 / height) * top
    across, up = np.meshgrid(x, y)
    lon, lat = project(across, up, inverse=True)
    edge = project(np.full(height, 180.0), lat[:, _CANVAS_WIDTH // 2])[0]
    inside = np.abs(x) <= edge[:, None]
    lat_lon = torch.from_numpy(np.where(inside[..., None], np.stack((lat, lon), axis=-1), 0.0))
    return lat_lon, inside, (-right, right, -top, top)


def _projected(lat_lon: np.ndarray) -> np.ndarray:
    """Project degrees [..., 2] to x and y."""
    from pyproj import Proj

    return np.stack(Proj(EQUAL_EARTH)(lat_lon[..., 1], lat_lon[..., 0]), axis=-1)


@lru_cache(maxsize=1)
def _coastlines() -> list[np.ndarray]:
    frame = basemap()
    rings = [
        ring
        for shape in frame.geometry[frame["kind"] == "land"]
        for ring in (shape.exterior, *shape.interiors)
    ]
    return [_projected(np.asarray(ring.coords)[:, ::-1]) for ring in rings]


def _graticule() -> tuple[list[np.ndarray], np.ndarray]:
    """Lines every 30 degrees of latitude and 60 of longitude, and the edge of the globe."""
    lat, lon = np.linspace(-90, 90, 91), np.linspace(-180, 180, 181)
    parallels = [np.stack((np.full_like(lon, at), lon), axis=-1) for at in range(-60, 90, 30)]
    meridians = [np.stack((lat, np.full_like(lat, at)), axis=-1) for at in range(-120, 180, 60)]
    sides = [
        np.stack((part, np.full_like(lat, at)), axis=-1)
        for part, at in ((lat, 180.0), (lat[::-1], -180.0))
    ]
    edge = np.concatenate((*sides, sides[0][:1]))
    return [_projected(line) for line in (*parallels, *meridians)], _projected(edge)


def plot_density(
    prediction: Prediction,
    truth: Values | None = None,
    *,
    on_earth: bool = True,
    ax: Axes | None = None,
) -> Figure:
    """Show a density on the world: bluer is denser, grey beyond the 90 % region; truth, point.

    `on_earth` draws coastlines; on other worlds there is only the graticule.
    """
    ax = ax or Figure(figsize=(6, 3.1), layout="constrained").subplots()
    lat_lon, inside, extent = _canvas()
    values = np.where(inside, prediction.density.log_prob(lat_lon).exp().numpy(), np.nan)
    image: dict[str, Any] = {"extent": extent, "origin": "upper"}
    ax.imshow(values, cmap="Blues", vmin=0, interpolation="nearest", **image)
    lines, edge = _graticule()
    ax.add_collection(LineCollection(lines, colors="0.8", linewidths=0.4))
    if on_earth:
        ax.add_collection(LineCollection(_coastlines(), colors="0.35", linewidths=0.5))
    ax.plot(*edge.T, color="0.35", linewidth=0.8)
    mass = prediction.density.mass
    if mass.max() > mass.min():
        levels = np.where(inside, prediction.density.credible_level(lat_lon).numpy(), np.nan)
        ax.contourf(levels, [0.9, 2], colors="0.5", alpha=0.2, **image)
        ax.contour(levels, [0.9], colors=BLACK, linewidths=0.9, **image)
    _mark_points(ax, prediction, truth)
    ax.set_aspect("equal")
    ax.set_axis_off()
    return _figure_of(ax)


def _mark_points(ax: Axes, prediction: Prediction, truth: Values | None) -> None:
    halo = [withStroke(linewidth=2.5, foreground="white")]
    if prediction.located:
        x, y = _projected(np.array([prediction.lat, prediction.lon]))
        ax.plot(x, y, "x", color=ORANGE, markersize=7, markeredgewidth=1.8, path_effects=halo)
    if truth is not None:
        x, y = _projected(as_lat_lon(truth).numpy())
        ax.plot(x, y, "*", color=GREEN, markersize=10, markeredgecolor="white")


def _legend_handles(has_truth: bool) -> list[Line2D]:
    marks: dict[str, Any] = {"linestyle": "none"}
    handles = [
        Line2D([], [], marker="x", color=ORANGE, markeredgewidth=1.8, label="answer", **marks),
        Line2D([], [], color=BLACK, linewidth=0.9, label="90 % region (grey: outside)"),
    ]
    if has_truth:
        handles.insert(0, Line2D([], [], marker="*", color=GREEN, ms=10, label="truth", **marks))
    return handles


def _verdict(prediction: Prediction, truth: Values | None) -> str:
    if not prediction.located:
        return "not located"
    if truth is None:
        return _place(prediction.lat, prediction.lon)
    return f"{distance_km([prediction.lat, prediction.lon], truth).item():,.0f} km off"


def plot_gallery(
    predictions: Sequence[Prediction],
    photos: Sequence[Photo],
    truth: Sequence[tuple[float, float] | None] | None = None,
    *,
    titles: Sequence[str] = (),
    on_earth: Sequence[bool] = (),
    figure: Figure | None = None,
) -> Figure:
    """Show a row for each prediction: the photo, the map drawn, the density on the world.

    `titles` stand over the photos; `on_earth` says in which rows coastlines belong, by default all.

    Raises:
        ValueError: no prediction, or sequences of other lengths.
    """
    count = len(predictions)
    truth, titles = truth or [None] * count, titles or [""] * count
    columns = (predictions, photos, truth, titles, on_earth or [True] * count)
    lengths = [len(column) for column in columns]
    if not count or set(lengths) != {count}:
        raise ValueError(
            f"expected a photo, truth, title and on_earth for each of at least one prediction, "
            f"got {lengths}"
        )
    figure = figure or Figure(figsize=(10, 2.15 * count + 0.5), layout="constrained")
    axes = figure.subplots(count, 3, squeeze=False, width_ratios=[1, 2, 2.06])
    for row, (prediction, photo, place, title, is_earth) in zip(
        axes, zip(*columns, strict=True), strict=True
    ):
        _show_image(row[0], _picture(photo), title=_short(title))
        if prediction.map is None:
            row[1].set_axis_off()
        else:
            _show_image(row[1], _drawn(prediction.map), title="map drawn")
        plot_density(prediction, place, on_earth=is_earth, ax=row[2])
        row[2].set_title(_verdict(prediction, place), fontsize=8, pad=3)
    handles = _legend_handles(any(place is not None for place in truth))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def plot_shots(
    scored: Sequence[Score], *, ax: Axes | None = None, label: str = "shots", log: bool = False
) -> Figure:
    """Show the median error against the number of shots, with 95 % intervals; a panel a world.

    `label` says what the shots of these scores stand for, if it is something else; `log` makes the
    scale of errors logarithmic.

    Raises:
        ValueError: no score, or an `ax` for several worlds.
    """
    worlds = list(dict.fromkeys(score.world for score in scored))
    if not worlds or (ax is not None and len(worlds) > 1):
        raise ValueError(f"expected scores of one world for each panel, got those of {worlds}")
    if ax is not None:
        _plot_world(ax, scored, label)
        _scale_errors(ax, log)
        return _figure_of(ax)
    figure = Figure(figsize=(3.9 * len(worlds) + 0.4, 3.7), layout="constrained")
    axes = figure.subplots(1, len(worlds), squeeze=False, sharey=True)[0]
    for panel, world in zip(axes, worlds, strict=True):
        _plot_world(panel, [score for score in scored if score.world == world], label)
        panel.label_outer()
    _scale_errors(axes[0], log)  # for all, and last: it ends the scaling to what is drawn
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return figure


def _scale_errors(ax: Axes, log: bool) -> None:
    if not log:
        ax.set_ylim(bottom=0)
        return
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    ticks = [digit * 10**power for power in range(5) for digit in (1, 2, 5)]
    inside = [tick for tick in ticks if low <= tick <= high]
    ax.set_yticks(inside, [f"{tick:,}" for tick in inside])
    ax.minorticks_off()


def _plot_world(ax: Axes, scored: Sequence[Score], label: str) -> None:
    shots = sorted({score.shots for score in scored})
    locators = sorted(dict.fromkeys(s.locator for s in scored), key=RIVALS.__contains__)
    for number, locator in enumerate(locators):
        curve = sorted((s for s in scored if s.locator == locator), key=lambda s: s.shots)
        at = [shots.index(score.shots) for score in curve]
        style = RIVAL_STYLES.get(locator, METHOD_STYLES[number % len(METHOD_STYLES)])
        is_rival = locator in RIVALS
        medians = [score.median_km.estimate for score in curve]
        ax.plot(at, medians, label=locator, markersize=4, zorder=2 if is_rival else 3, **style)
        if not is_rival:
            low, high = ([getattr(s.median_km, end) for s in curve] for end in ("low", "high"))
            ax.fill_between(
                at,
                low,
                high,
                color=style["color"],
                alpha=0.2 if len(locators) < 4 + len(RIVALS) else 0.1,
                linewidth=0,
            )
    ax.set_xticks(range(len(shots)), [f"{count:,}" for count in shots])
    ax.set_xlabel(label)
    ax.set_ylabel("median error in km")
    ax.set_title(scored[0].world, fontsize=10)
    ax.yaxis.set_major_formatter("{x:,.0f}")
    ax.grid(axis="y", color="0.9")
    ax.spines[["top", "right"]].set_visible(False)


def plot_calibration(
    levels: Mapping[str, Sequence[float] | Tensor], *, ax: Axes | None = None
) -> Figure:
    """Show P-P curves: how often the truth lies in the credible region of each probability.

    Calibrated densities follow the diagonal; above it they are too wide, below it too narrow.

    Args:
        levels: credible levels of the truths (`Density.credible_level`), by name of the curve.
        ax: where to draw.
    """
    ax = ax or Figure(figsize=(4.6, 5.4), layout="constrained").subplots()
    grid = torch.linspace(0, 1, 201, dtype=torch.float64)
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
    for number, (name, values) in enumerate(levels.items()):
        style = CALIBRATION_STYLES[number % len(CALIBRATION_STYLES)]
        label = f"{name} (largest gap {calibration_error(values):.2f}, n = {len(values)})"
        ax.plot(grid, reliability(values, grid), label=label, linewidth=1.8, **style)
    ax.axvline(0.9, color=GREY, linewidth=0.8, linestyle=":")
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    ax.set_xlabel("probability of the credible region")
    ax.set_ylabel("fraction of truths inside")
    ax.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    ax.spines[["top", "right"]].set_visible(False)
    return _figure_of(ax)


def save_figures(
    folder: Path,
    rows: Sequence[Row],
    runs: Sequence[tuple[Locator, Episode]],
    style: MapStyle,
    *,
    shown: int = 3,
) -> None:
    """Write `context.png`, `gallery.png`, and where the truth is known `shots` and `calibration`.

    Args:
        folder: where to.
        rows: what `evaluate` gave.
        runs: locators and their episodes, whose first `shown` queries are located again.
        style: in which the model is shown its examples.
        shown: rows of the gallery for each run.
    """
    figures: dict[str, Figure] = {}
    if examples := runs[0][1].examples:
        places = [[example.lat, example.lon] for example in examples]
        figures["context"] = plot_context(examples, draw(places, style))
    if gallery := _gallery(rows, runs, shown):
        figures["gallery"] = gallery
    if scored := scores(rows):
        figures["shots"] = plot_shots(scored)
        figures["calibration"] = plot_calibration(levels_by_world(rows))
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=150)


def _gallery(
    rows: Sequence[Row], runs: Sequence[tuple[Locator, Episode]], shown: int
) -> Figure | None:
    """Show the first queries of each run that can be read, with all examples."""
    failed = {(row.episode, row.id) for row in rows if row.error is not None}
    predictions: list[Prediction] = []
    queries: list[Query] = []
    on_earth: list[bool] = []
    for locator, episode in runs:
        good = [query for query in episode.queries if (episode.id, query.id) not in failed][:shown]
        predictions += locator.locate([query.photo for query in good], episode.examples)
        queries += good
        on_earth += [episode.is_earth] * len(good)
    if not queries:
        return None
    return plot_gallery(
        predictions,
        [query.photo for query in queries],
        [query.lat_lon for query in queries],
        titles=[query.id for query in queries],
        on_earth=on_earth,
    )
