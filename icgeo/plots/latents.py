"""Figures of what latent spaces know: error by block and time, alignment, steps, moved maps.

Conventions: those of `icgeo.plots`; tables are those of `scripts/latent_geography.py`.
"""

from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure
from pandas import DataFrame

from icgeo.plots import theme
from icgeo.plots.world import draw_globe, great_circle


def _draw_cells(
    ax: Axes, table: DataFrame, form: str, title: str, *, shrink: float = 1.0, **colours: Any
) -> Colorbar:
    """Draw a table as coloured cells with their numbers; return the scale of colours."""
    values = table.to_numpy(float)
    image = ax.imshow(values, aspect="auto", **colours)
    middle: Any = image.norm(values)
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            is_dark = (middle[row, column] > 0.5) == colours["cmap"].endswith("_r")
            style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": theme.SMALL}
            ax.text(column, row, format(value, form), color="white" if is_dark else "0", **style)
    ax.set_xticks(range(table.shape[1]), [str(name) for name in table.columns])
    ax.set_yticks(range(table.shape[0]), [str(name) for name in table.index])
    ax.tick_params(labelsize=theme.TEXT, length=0)
    ax.set_title(title, fontsize=theme.TITLE)
    bar = theme.figure_of(ax).colorbar(image, ax=ax, shrink=shrink)
    bar.ax.tick_params(labelsize=theme.SMALL)
    return bar


def plot_blocks_and_times(table: DataFrame, *, title: str = "", ax: Axes | None = None) -> Figure:
    """Show the median error in km of probes: a row a block, a column a time, from noise down."""
    ax = ax or Figure(figsize=(4.6, 3.4), layout="constrained").subplots()
    bar = _draw_cells(ax, table, ",.0f", title, cmap="viridis_r")
    bar.set_label("median error in km", fontsize=theme.SMALL)
    ax.set(xlabel="time (1 is noise)", ylabel="block")
    return theme.figure_of(ax)


def plot_alignment(table: DataFrame, *, title: str = "", ax: Axes | None = None) -> Figure:
    """Show how alike spaces are, each with each, as a matrix of numbers from 0 to 1."""
    size = 1.1 + 0.36 * len(table)  # read on a telephone, too
    ax = ax or Figure(figsize=(size + 0.8, size), layout="constrained").subplots()
    _draw_cells(ax, table, ".2f", title, shrink=0.7, cmap="viridis", vmin=0.0, vmax=1.0)
    ax.tick_params(axis="x", rotation=90)
    return theme.figure_of(ax)


def plot_steps(table: DataFrame, *, xlabel: str = "", ax: Axes | None = None) -> Figure:
    """Show what can be told at each step, in their order.

    Columns are step, label, score in [0, 1], and maybe chance.
    """
    ax = ax or Figure(figsize=(5.2, 3.8), layout="constrained").subplots()
    for number, (label, part) in enumerate(table.groupby("label", sort=False)):
        style = theme.METHOD_STYLES[number % len(theme.METHOD_STYLES)]
        ax.plot(part.step, part.score, label=str(label), **style)
        if "chance" in part:
            ax.plot(part.step, part.chance, color=style["color"], linestyle=":", linewidth=1)
    names = list(dict.fromkeys(table.step))
    if max(map(len, names)) > len("0.25"):
        ax.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
    dotted = "; dotted: chance" if "chance" in table else ""
    ax.set(xlabel=xlabel, ylabel=f"score{dotted}", ylim=(0, 1.02))
    ax.tick_params(labelsize=theme.TEXT)
    look: dict[str, Any] = {"fontsize": theme.TEXT, "frameon": False, "ncols": 2}
    theme.figure_of(ax).legend(loc="outside upper center", **look)
    return theme.figure_of(ax)


def plot_moves(rows: DataFrame, change: str, *, most: int = 24, ax: Axes | None = None) -> Figure:
    """Show on the globe how a change moves maps: from where they were read to where they are.

    Arrows are great circles; a ring is where the goal is. `rows` are those of
    `icgeo.latents.steering.steer`; photos of which a map is illegible are left out.
    """
    ax = ax or Figure(figsize=(6, 3.6), layout="constrained").subplots()
    view = draw_globe(ax, on_earth=True)
    old_rows = rows[rows.change == "none"].set_index("photo")
    new_rows = rows[rows.change == change].set_index("photo")[["lat", "lon"]].add_suffix("_after")
    moves = old_rows.join(new_rows).dropna(subset=["lat", "lat_after", "goal_lat"])
    for row in moves.head(most).itertuples():
        ends = torch.tensor([[row.lat, row.lon], [row.lat_after, row.lon_after]]).double()
        goal = view.project(np.array([[row.goal_lat, row.goal_lon]]))
        lines = view.lines(great_circle(*ends))
        ax.add_collection(LineCollection(lines, colors=theme.BLUE, linewidths=1.1, zorder=3))
        ax.plot(*goal.T, "o", mfc="none", mec=theme.ORANGE, ms=6, zorder=4)
        if lines and len(lines[-1]) > 3:
            head: dict[str, Any] = {"arrowstyle": "-|>", "color": theme.BLUE, "linewidth": 0}
            ax.annotate("", lines[-1][-1], lines[-1][-4], arrowprops=head, zorder=5)
    ax.set_title(
        f"{change}: {min(most, len(moves))} of {len(old_rows)} photos", fontsize=theme.TITLE
    )
    return theme.figure_of(ax)
