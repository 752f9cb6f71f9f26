"""How a photo was located: its parts and those of the examples, what they say, map and answer.

Conventions: each step has a panel, numbered in order; examples are named A to D, A matches best.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.lines import Line2D
from matplotlib.patches import ConnectionPatch
from torch import Tensor

from icgeo.data.photos import Photo
from icgeo.data.pixels import square_pixels
from icgeo.models.matching import FINE, LEAST, Evidence
from icgeo.plots import predictions, theme
from icgeo.plots.theme import SMALL, TEXT, drawn_image, show_image
from icgeo.prediction import Example, Prediction
from icgeo.sphere import AREA_KM2, as_lat_lon, to_lat_lon
from icgeo.sphere.healpix import cell_of_pixels, cell_xyz

_SLOTS = {"A": (0, 0), "B": (0, 2), "C": (1, 0), "D": (1, 2)}
"""Row and column of each example shown, left and right of the photo."""
_SMALL_SHARE = 0.03
"""A 90 % region of less than this share of the world gets a window."""
_PIXELS = 256


def plot_evidence(
    prediction: Prediction,
    photo: Photo,
    examples: Sequence[Example],
    evidence: Evidence,
    truth: predictions.Truth = None,
    *,
    on_earth: bool = True,
    base: predictions.Base = None,
) -> Figure:
    """Show how a photo was located: parts that match, what they say, the map drawn, the density.

    `evidence` is what `Geolocator.explain` returned of the photo and these examples, of which up to
    4 that match best are shown; the rest is as in `plot_density`.
    """
    figure = Figure(figsize=(10, 6.4), layout="constrained")
    rows = figure.add_gridspec(2, 1, height_ratios=(1.15, 1))
    above = rows[0].subgridspec(1, 2, width_ratios=(1.2, 1))
    numbers = _draw_matches(figure, above[0], photo, examples, evidence)
    places = np.array([[examples[number].lat, examples[number].lon] for number in numbers])
    ax = figure.add_subplot(above[1])
    for part in (ax, _draw_log_ratios(ax, evidence.log_ratios)):
        if truth is not None:
            predictions.mark_truth(part, *as_lat_lon(truth).flip(-1).tolist())
    box: dict[str, Any] = {"boxstyle": "circle,pad=0.15", "fc": "white", "ec": "black", "lw": 0.7}
    for letter, (lat, lon) in zip(_SLOTS, places, strict=False):
        ax.text(lon, lat, letter, fontsize=SMALL, ha="center", va="center", bbox=box)
    is_small = prediction.located and (
        prediction.density.credible_area_km2(0.9) < _SMALL_SHARE * AREA_KM2
    )
    below = rows[1].subgridspec(
        1, 3 if is_small else 2, width_ratios=(1.3, 1.5, 0.85)[: 2 + is_small]
    )
    map_ax, world = (figure.add_subplot(below[column], anchor="N") for column in range(2))
    map_ax.set_axis_off()
    if prediction.map is not None:
        show_image(map_ax, drawn_image(prediction.map), title="3  The map that the model draws")
    predictions.draw_world(world, prediction, truth, on_earth=on_earth, base=base)
    world.set_title(f"4  {predictions.summary(prediction, truth)}", fontsize=TEXT)
    circle: dict[str, Any] = {"marker": "o", "mfc": "white", "mec": "black", "ms": 8, "ls": "none"}
    handles = predictions.legend_handles([prediction], [truth], is_shaded=base is None)
    handles.append(Line2D([], [], label="example", **circle))
    if is_small:
        zoom = figure.add_subplot(below[2], anchor="N")
        view = predictions.draw_zoom(zoom, prediction, truth, on_earth=on_earth, base=base)
        zoom.set_title("the frame on the left", fontsize=TEXT)
        handles.append(predictions.frame_window(world, view))
    theme.add_legend(figure, [*handles, predictions.density_handle()], 7)
    return figure


def _draw_log_ratios(ax: Axes, log_ratios: Float[Tensor, " places"]) -> Axes:
    """Draw the world and, on the half without it, a window on the best place, which is returned."""
    # of what is too unlikely to be told apart only a bound is known: no more than none
    is_exact = log_ratios - log_ratios.max() > 0.99 * math.log(LEAST)
    capped_ratios = torch.where(is_exact, log_ratios, log_ratios.clamp_max(0))
    lat, lon = to_lat_lon(cell_xyz(FINE)[log_ratios.argmax()]).tolist()
    values = capped_ratios[cell_of_pixels(FINE, _PIXELS)].numpy()
    window = ax.inset_axes((0.02 if lon > 0 else 0.68, 0.2, 0.3, 0.6), xticks=[], yticks=[])
    middle = min(max(lat, -70), 70)
    for part, turns in ((ax, 1), (window, 3)):  # a window may lie across the antimeridian
        extent = (-180 * turns, 180 * turns, -90, 90)
        place: dict[str, Any] = {"extent": extent, "interpolation": "nearest"}
        image = part.imshow(np.tile(values, (1, turns)), cmap="viridis", **place)
    window.set(xlim=(lon - 20, lon + 20), ylim=(middle - 20, middle + 20))
    window.spines[:].set_color("white")
    ax.indicate_inset_zoom(window, edgecolor="white", alpha=1)
    ax.set(xticks=range(-180, 181, 90), yticks=range(-90, 91, 45))
    ax.tick_params(labelsize=SMALL)
    ax.set_title("2  What these say: could the photo be here?", fontsize=TEXT)
    theme.add_colour_bar(image, ax, "log-likelihood ratio in nats: above 0 for, below 0 against")
    return window


def _draw_matches(
    figure: Figure, spot: SubplotSpec, photo: Photo, examples: Sequence[Example], evidence: Evidence
) -> list[int]:
    """Draw lines between the parts of a photo and of examples; return which are shown."""
    total = torch.zeros(len(examples)).index_add_(0, evidence.example, evidence.probability)
    numbers = [n for n in total.argsort(descending=True)[: len(_SLOTS)].tolist() if total[n] > 0]
    grid = spot.subgridspec(2, 3, width_ratios=(1, 2.1, 1))
    middle = figure.add_subplot(grid[:, 1])
    _show_square(middle, photo, evidence.photo_size, "1  Parts of the photo, seen in examples")
    scale = Normalize(0, evidence.probability.max().item())
    colours = ScalarMappable(scale, "plasma")
    theme.add_colour_bar(colours, middle, "probability that two parts show the same")
    for number, (letter, slot) in zip(numbers, _SLOTS.items(), strict=False):
        panel = figure.add_subplot(grid[slot])
        one = examples[number]
        place = theme.place_name(one.lat, one.lon)
        _show_square(panel, one.image, evidence.photo_size, f"{letter}: {place}")
        matches = (evidence.example == number).nonzero()[:, 0].flip(0)  # the likeliest on top
        for pair in matches.tolist():
            share = scale(evidence.probability[pair].item())
            ends = (xy[pair].tolist() for xy in (evidence.query_xy, evidence.example_xy))
            start, end = map(tuple, ends)
            line = ConnectionPatch(start, end, middle.transData, panel.transData)
            line.set(color=colormaps["plasma"](share), alpha=0.25 + 0.6 * share, linewidth=0.9)
            line.set_in_layout(False)
            figure.add_artist(line)
    return numbers


def _show_square(ax: Axes, photo: Photo, size: int, title: str) -> None:
    """Show the square that the model sees, sharper, in its pixels."""
    pixels = square_pixels([photo], _PIXELS)[0].permute(1, 2, 0).numpy()
    show_image(ax, pixels, title=title, extent=(0, size, size, 0))
