"""One look for all figures: colours, sizes of text, pictures in panels.

Conventions: colours are those of Okabe and Ito (2008), told apart with any colour vision.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from einops import rearrange
from jaxtyping import Float, UInt8
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from torch import Tensor

from icgeo import baselines
from icgeo.data.photos import Photo, read_photo

BLUE, ORANGE, GREEN, GREY, BLACK = "#0072B2", "#D55E00", "#009E73", "#767676", "#000000"
METHOD_STYLES: tuple[dict[str, Any], ...] = (
    {"color": BLUE, "marker": "o", "linewidth": 2},
    {"color": ORANGE, "marker": "s", "linewidth": 1.5},
    {"color": GREEN, "marker": "^", "linewidth": 1.5},
    {"color": "#CC79A7", "marker": "D", "linewidth": 1.5},
    {"color": "#E69F00", "marker": "v", "linewidth": 1.5},
    {"color": "#56B4E9", "marker": "P", "linewidth": 1.5},
    {"color": BLACK, "marker": "x", "linewidth": 1, "linestyle": ":"},
)
"""Of several methods, in turn."""
BASELINE_STYLES: dict[str, dict[str, Any]] = {
    baselines.NearestPixels.name: {"color": ORANGE, "marker": "s", "linestyle": "--"},
    baselines.NearestOracle.name: {"color": GREEN, "marker": "^", "linestyle": "-."},
    baselines.CROSS_CORRELATION: {"color": BLACK, "marker": "v", "linestyle": "--"},
    baselines.PARTS_ALONE: {"color": "#56B4E9", "marker": "P", "linestyle": "-."},
    baselines.RETRIEVAL: {"color": "#CC79A7", "marker": "D", "linestyle": "--"},
    baselines.Chance.name: {"color": GREY, "marker": None, "linestyle": ":"},
}
CALIBRATION_STYLES: tuple[dict[str, Any], ...] = (
    {"color": BLUE, "linestyle": "-"},
    {"color": ORANGE, "linestyle": "--"},
    {"color": GREEN, "linestyle": "-."},
    {"color": BLACK, "linestyle": (0, (1, 1))},
    {"color": "#56B4E9", "linestyle": "-"},
    {"color": "#CC79A7", "linestyle": "--"},
)
ERROR_MAP = ListedColormap(colormaps["viridis_r"](np.linspace(0.41, 1, 256)), "errors")
"""Green to purple, for errors: without the pale end, as a short line is seen at a contrast of 3."""
DEEP_BLUES = ListedColormap(colormaps["Blues"](np.linspace(0.45, 1, 256)), "deep blues")
"""For densities over pictures, which shine through."""
SMALL, TEXT, TITLE = 7, 8, 10
"""Sizes of text in points: ticks, labels and titles of panels, titles of figures."""
HALO = (withStroke(linewidth=2.5, foreground="white"),)
"""Around marks on maps, so that they are seen on any colour."""


def picture(photo: Photo) -> UInt8[np.ndarray, "height width 3"]:
    """Read a photo to be shown, at no more pixels than a panel has."""
    return np.asarray(read_photo(photo, size_hint=256))


def drawn_image(image: Float[Tensor, "3 height width"]) -> Float[np.ndarray, "height width 3"]:
    """Convert a map drawn, which is float and unclipped, to what can be shown."""
    return rearrange(image.detach().cpu().float().clamp(0, 1), "c h w -> h w c").numpy()


def place_name(lat: float, lon: float, *, digits: int = 0) -> str:
    """Write a location, to a degree or to so many digits of it.

    >>> place_name(-33.9, 151.2)
    '34° S, 151° E'
    """
    north, east = "SN"[round(lat, digits) >= 0], "WE"[round(lon, digits) >= 0]
    return f"{abs(lat):.{digits}f}° {north}, {abs(lon):.{digits}f}° {east}"


def figure_of(ax: Axes) -> Figure:
    """Find the figure of axes; raise ValueError if they were removed from theirs."""
    if (figure := ax.get_figure(root=True)) is None:
        raise ValueError("expected axes of a figure, got removed ones; make them anew")
    return figure


def add_colour_bar(mappable: ScalarMappable, ax: Axes, label: str) -> Axes:
    """Add a small colour bar under axes; return its own axes."""
    shape: dict[str, Any] = {"shrink": 0.5, "aspect": 40, "pad": 0.02, "panchor": False}
    bar = figure_of(ax).colorbar(mappable, ax=ax, location="bottom", **shape)
    bar.set_label(label, fontsize=SMALL)
    bar.ax.tick_params(labelsize=SMALL)
    return bar.ax


def add_legend(figure: Figure, handles: Sequence[Artist], columns: int) -> None:
    """Add the legend of a figure below its axes."""
    place: dict[str, Any] = {"loc": "outside lower center", "ncols": columns}
    figure.legend(handles=handles, fontsize=TEXT, frameon=False, **place)


def show_image(ax: Axes, image: np.ndarray, *, title: str = "", **options: Any) -> None:
    """Show a picture without axes, under its title; `options` are those of `Axes.imshow`."""
    ax.imshow(image, interpolation="nearest", **options)
    ax.set_title(title, fontsize=TEXT, pad=3)
    ax.set(xticks=[], yticks=[])
