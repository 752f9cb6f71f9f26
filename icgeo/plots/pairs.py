"""What the model is shown and what it draws: pairs of photo and map, and maps side by side."""

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from icgeo.data.photos import Photo
from icgeo.maps import MapStyle, draw
from icgeo.plots.theme import drawn_image, picture, place_name, show_image
from icgeo.prediction import Example

_CONTEXT_COLUMNS = 4


def plot_context(
    examples: Sequence[Example],
    maps: Float[Tensor, "examples 3 height width"] | None = None,
    *,
    style: MapStyle | None = None,
    figure: Figure | None = None,
) -> Figure:
    """Show the context that the model is given: pairs of photo and map, in order.

    Args:
        examples: what it is shown.
        maps: theirs, as drawn; by default they are drawn here.
        style: in which they are then drawn. That of a `Geolocator`, which its model sees, is
            `locator.loaded.settings.style`; by default `MapStyle()`, which has other sizes.
        figure: where to draw.

    Raises:
        ValueError: no example, or another number of maps.
    """
    if maps is None:
        places = torch.tensor([[one.lat, one.lon] for one in examples], dtype=torch.float64)
        maps = draw(places.reshape(-1, 2), style or MapStyle())
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
        show_image(photo_ax, picture(example.image), title=f"photo {number + 1}")
        show_image(
            map_ax,
            drawn_image(image),
            title=f"map {number + 1}: {place_name(example.lat, example.lon)}",
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
        show_image(row[0], picture(photo), title="" if number else "photo")
        for ax, (name, images) in zip(row[1:], maps.items(), strict=True):
            show_image(ax, drawn_image(images[number]), title="" if number else name)
    return figure
