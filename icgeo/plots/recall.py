"""Recall curves of one world: how many answers lie within a radius, and truths within an area.

Conventions: rows are those of `icgeo.evaluation.read_rows`. Methods have a curve for each number of
shots, the darker the later in the rows, in which shots rise; baselines have one, with the most.
"""

from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame
from torch import Tensor

from icgeo.evaluation import BASELINES
from icgeo.evaluation.scores import GUESS_KM
from icgeo.metrics import THRESHOLDS_KM, UNIFORM_NLL, recall_by_area
from icgeo.plots.theme import BASELINE_STYLES, figure_of
from icgeo.sphere import AREA_KM2

_POINTS = 160
"""Along each curve."""


def plot_recall_by_radius(rows: DataFrame, *, ax: Axes | None = None) -> Figure:
    """Show which share of the queries has its answer within each radius, of known truths."""
    ax = ax or Figure(layout="constrained").subplots()
    radii = np.geomspace(1, 20_100, _POINTS)
    for label, group, style in _curves(rows):
        within = group.distance_km.fillna(GUESS_KM).sort_values().searchsorted(radii)
        ax.plot(radii, within / len(group), label=label, **style)
    for km in THRESHOLDS_KM:
        ax.axvline(km, color="0.85", linewidth=0.8, zorder=0)
    _label_shares(ax, "answer within radius, km", "share of queries")
    ax.set_xticks(THRESHOLDS_KM, [f"{km:,.0f}" for km in THRESHOLDS_KM])
    return figure_of(ax)


def plot_recall_by_area(rows: DataFrame, *, ax: Axes | None = None) -> Figure:
    """Show which share of the truths a search of each area finds, most probable cells first.

    Rows without `searched_area_km2` are left out. A flat density is searched blindly; where all of
    a curve are flat it is left out, as the dotted line is the same.
    """
    ax = ax or Figure(layout="constrained").subplots()
    shares = torch.logspace(-5, 0, _POINTS, dtype=torch.float64)
    for label, group, style in _curves(rows[rows.searched_area_km2.notna()]):
        if not _is_flat(group).all():
            ax.plot(100 * shares, share_found(shares, group), label=label, **style)
    ax.plot(100 * shares, shares, color="0.6", linewidth=1, linestyle=":", label="searched blindly")
    _label_shares(ax, "area searched, % of the sphere", "share of truths found")
    ax.xaxis.set_major_formatter("{x:g}")
    return figure_of(ax)


def share_found(shares: Float[Tensor, " areas"], rows: DataFrame) -> Float[Tensor, " areas"]:
    """Return the share of truths that a search of each share of the sphere finds.

    In a flat density all cells are tied: searched in any order, as many are found as are searched.
    """
    areas = rows.searched_area_km2[~_is_flat(rows)].to_numpy()
    count = shares * (len(rows) - len(areas))
    if len(areas):
        count = count + len(areas) * recall_by_area(areas, shares * AREA_KM2)
    return count / len(rows)


def _is_flat(rows: DataFrame) -> np.ndarray:
    return np.isclose(rows.nll, UNIFORM_NLL, rtol=0, atol=1e-9)


def _label_shares(ax: Axes, x: str, y: str) -> None:
    ax.set_xscale("log")
    ax.minorticks_off()
    ax.set(xlabel=x, ylabel=y, ylim=(0, 1))
    ax.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    ax.grid(axis="y", color="0.9")
    ax.spines[["top", "right"]].set_visible(False)


def _curves(rows: DataFrame) -> list[tuple[str, DataFrame, dict[str, Any]]]:
    """Divide the rows of one world into curves: label, rows, style; baselines come last."""
    known = rows[rows.nll.notna()]
    is_baseline = known.locator.isin(BASELINES)
    methods = dict(iter(known[~is_baseline].groupby(["locator", "shots"], sort=False)))
    colours = mpl.colormaps["viridis_r"](np.linspace(0.15, 1, len(methods)))
    styles = {key: {"color": colour} for key, colour in zip(methods, colours, strict=True)}
    curves: list[tuple[str, DataFrame, dict[str, Any]]] = [
        (f"{key[0]}, {key[1]} shots", methods[key], styles[key]) for key in sorted(methods)
    ]
    with_most = known[is_baseline & (known.shots == known.shots.max())]
    for locator, group in with_most.groupby("locator"):
        style = BASELINE_STYLES[str(locator)]
        curves.append((str(locator), group, {**style, "marker": None, "linewidth": 1.2}))
    return curves
