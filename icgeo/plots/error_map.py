"""Errors on the world: great circles from guesses to truths."""

import numpy as np
import torch
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from torch import Tensor

from icgeo.plots.predictions import draw_globe
from icgeo.plots.theme import (
    BLACK,
    ERROR_MAP,
    GREY,
    ORANGE,
    SMALL,
    TITLE,
    add_colour_bar,
    figure_of,
)
from icgeo.plots.world import Points, cut
from icgeo.sphere import Values, as_lat_lon, distance_km, exp_map, log_map, to_lat_lon, to_xyz

_STEPS = 181
"""Points along a great circle, at most a degree apart."""


def plot_errors(
    guesses: Values, truths: Values, *, on_earth: bool = True, ax: Axes | None = None
) -> Figure:
    """Show the great circle from each guess to its truth, coloured by its length in km.

    The median in the title is that of the located; tables count the others as guesses, 10,008 km.

    Args:
        guesses: locations [n, 2] in degrees; a row of NaN was not located, and only its truth is
            marked.
        truths: locations [n, 2] in degrees.
        on_earth: whether coastlines belong on it.
        ax: where to draw.

    Raises:
        ValueError: no pair, other shapes, or a location off the globe.
    """
    guess, truth, located = _pairs(guesses, truths)
    ax = ax or Figure(figsize=(7, 4), layout="constrained").subplots()
    view, error = draw_globe(ax, on_earth=on_earth), distance_km(guess, truth[located])
    parts = [view.lines(great_circle(*ends)) for ends in zip(guess, truth[located], strict=True)]
    lengths = np.repeat(error.numpy(), [len(lines) for lines in parts])
    segments = LineCollection(
        [line for lines in parts for line in lines],
        array=lengths,
        cmap=ERROR_MAP,
        linewidths=1.3,
        zorder=3,
    )
    segments.set_clim(0, max(1.0, error.max().item()) if len(error) else 1.0)
    ax.add_collection(segments)
    ax.plot(*view.project(guess.numpy()).T, "x", color=ORANGE, ms=4, label="guess", zorder=4)
    ax.plot(
        *view.project(truth[located].numpy()).T, ".", color=BLACK, ms=4, label="truth", zorder=5
    )
    if not located.all():
        missed = view.project(truth[~located].numpy())
        ax.plot(*missed.T, "o", mfc="none", mec=GREY, ms=4, label="truth, not located", zorder=4)
    _label(ax, segments, error, len(truth))
    return figure_of(ax)


def _pairs(
    guesses: Values, truths: Values
) -> tuple[Float[Tensor, "located 2"], Float[Tensor, "n 2"], Bool[Tensor, " n"]]:
    truth = as_lat_lon(truths).detach().cpu().double()
    guess = torch.as_tensor(np.asarray(guesses), dtype=torch.float64)
    if truth.ndim != 2 or guess.shape != truth.shape or not len(truth):
        raise ValueError(
            f"expected a guess and a truth [n, 2] for each of at least one query, got shapes "
            f"{tuple(guess.shape)} and {tuple(truth.shape)}"
        )
    located = ~guess.isnan().any(dim=1)
    return as_lat_lon(guess[located]), truth, located


def great_circle(start: Float[Tensor, "2"], end: Float[Tensor, "2"]) -> Points:
    """Locations along the shorter arc between two, cut at the antimeridian."""
    first, last = to_xyz(start), to_xyz(end)
    share = torch.linspace(0, 1, _STEPS, dtype=torch.float64)[:, None]
    return cut(to_lat_lon(exp_map(first, share * log_map(first, last))).numpy())


def _label(
    ax: Axes, segments: LineCollection, error: Float[Tensor, " located"], count: int
) -> None:
    title = f"{len(error):,} of {count:,} located"
    if len(error):
        whose = "" if len(error) == count else " of the located"
        title += f", median error{whose} {np.median(error):,.0f} km"
    ax.set_title(title, fontsize=TITLE)
    bar = add_colour_bar(segments, ax, "error in km")
    bar.xaxis.set_major_formatter("{x:,.0f}")
    legend = ax.legend(
        fontsize=SMALL, frameon=False, loc="upper left", bbox_to_anchor=(-0.02, 0.04)
    )
    legend.set_in_layout(False)  # there is room beside the colours
