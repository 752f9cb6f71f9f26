"""Maps as drawn: with the photos of a context, side by side, and step by step.

Conventions: a step is what `callback_on_step_end` of `Geolocator.locate` is called with: the maps
[queries, samples, 3, height, width] as they look from there, and the time, from 1 (noise) down:

    steps = []
    locator.locate([photo], examples, callback_on_step_end=lambda *step: steps.append(step))
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from icgeo.data.photos import Photo
from icgeo.maps import MapStyle, draw
from icgeo.plots.theme import drawn_image, picture, place_name, show_image
from icgeo.prediction import Example

_COLUMNS = 4

Panel = tuple[np.ndarray, str]
"""A picture and its title."""
Steps = Sequence[tuple[Float[Tensor, "_queries _samples 3 height width"], float]]


def plot_context(
    examples: Sequence[Example],
    maps: Float[Tensor, "examples 3 height width"] | None = None,
    *,
    style: MapStyle | None = None,
    figure: Figure | None = None,
) -> Figure:
    """Show the context that the model is given: pairs of photo and map, in order.

    Without `maps` they are drawn here, in `style`. That of a `Geolocator`, which its model sees, is
    `locator.loaded.settings.style`; by default `MapStyle()`, which has other sizes.

    Raises:
        ValueError: no example, or another number of maps.
    """
    if maps is None:
        places = torch.tensor([[one.lat, one.lon] for one in examples], dtype=torch.float64)
        maps = draw(places.reshape(-1, 2), style or MapStyle())
    if not examples or len(examples) != len(maps):
        counts = f"{len(examples)} examples and {len(maps)} maps; draw them with icgeo.maps.draw"
        raise ValueError(f"expected a map for each of at least one example, got {counts}")
    panels: list[Panel] = []
    for number, (example, image) in enumerate(zip(examples, maps, strict=True), start=1):
        panels.append((picture(example.image), f"photo {number}"))
        place = place_name(example.lat, example.lon)
        panels.append((drawn_image(image), f"map {number}: {place}"))
    columns, aspect = min(_COLUMNS, len(examples)), maps.shape[-1] / maps.shape[-2]
    size = (columns * (1.15 * (1 + aspect)), math.ceil(len(examples) / columns) * 1.35 + 0.3)
    return _show_rows(panels, [1, aspect] * columns, size, figure)


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
    panels: list[Panel] = []
    for number, photo in enumerate(photos):
        panels.append((picture(photo), "" if number else "photo"))
        for name, images in maps.items():
            panels.append((drawn_image(images[number]), "" if number else name))
    height, width = next(iter(maps.values())).shape[-2:]
    size = (1.5 * (1 + width / height * len(maps)), 1.6 * len(photos))
    return _show_rows(panels, [1, *len(maps) * [width / height]], size)


def plot_denoising(steps: Steps, *, query: int = 0, figure: Figure | None = None) -> Figure:
    """Show the map of one query as it is drawn, the mean of its samples, step by step.

    Raises:
        ValueError: no step, or no such query.
    """
    if not steps:
        remedy = "collect them with locate's callback_on_step_end"
        raise ValueError(f"expected at least one step, got none; {remedy}")
    if not 0 <= query < len(steps[0][0]):
        raise ValueError(f"expected a query from 0 to {len(steps[0][0]) - 1}, got {query}")
    maps = [drawn_image(images[query].float().mean(dim=0)) for images, _ in steps]
    titles = [f"step {number}, from t = {t:.2f}" for number, (_, t) in enumerate(steps, start=1)]
    columns, (height, width) = min(_COLUMNS, len(steps)), maps[0].shape[:2]
    size = (2.6 * columns, (2.6 * height / width + 0.28) * math.ceil(len(steps) / columns))
    return _show_rows([*zip(maps, titles, strict=True)], [1] * columns, size, figure)


def _show_rows(
    panels: Sequence[Panel],
    widths: Sequence[float],
    size: tuple[float, float],
    figure: Figure | None = None,
) -> Figure:
    """Show pictures under their titles, row by row, in columns of relative widths."""
    rows = math.ceil(len(panels) / len(widths))
    figure = figure or Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, len(widths), squeeze=False, width_ratios=widths).ravel()
    for ax in axes[len(panels) :]:
        ax.remove()
    for ax, (image, title) in zip(axes, panels, strict=False):
        show_image(ax, image, title=title)
    return figure
