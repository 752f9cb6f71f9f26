"""Curves of an evaluation: error against shots, calibration, recall by radius and by area.

Conventions: recall takes rows of one world, as `icgeo.evaluation.read_rows` gives them. Methods
have a curve for each number of shots there, the darker the more; baselines one, with the most.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame
from torch import Tensor

from icgeo import metrics
from icgeo.evaluation import BASELINES
from icgeo.evaluation.scores import GUESS_KM, methods
from icgeo.metrics.densities import UNIFORM_NLL, calibration_error, recall_by_area, reliability
from icgeo.plots import theme
from icgeo.sphere import AREA_KM2

_ERROR = "median error in km"
_PANELS = 3  # of worlds beside each other
_POINTS = 160  # along each curve of recall


def plot_shots(
    scores: DataFrame, *, ax: Axes | None = None, label: str = "shots", log: bool = True
) -> Figure:
    """Show the median error against the number of shots, with 95 % intervals; a panel a world.

    `scores` are those of `icgeo.evaluation.score`. `label` says what their shots stand for;
    without `log` the scale of errors is linear, from 0. A given `ax` gets no legend.

    Raises:
        ValueError: no score, or an `ax` for several worlds.
    """
    worlds = list(scores.world.unique())
    if not worlds or (ax is not None and len(worlds) > 1):
        raise ValueError(f"expected scores of one world for each panel, got those of {worlds}")
    rows = math.ceil(len(worlds) / _PANELS)
    columns = math.ceil(len(worlds) / rows)
    size = (3.9 * columns + 0.4, 3.3 * rows)
    figure = theme.figure_of(ax) if ax else Figure(figsize=size, layout="constrained")
    axes = [ax] if ax else [*figure.subplots(rows, columns, squeeze=False, sharey=True).flat]
    for panel, world in zip(axes, worlds, strict=False):
        _plot_world(panel, scores[scores.world == world], label)
    _scale_errors(axes[0], log)  # for all, and last: it ends the scaling to what is drawn
    if ax is not None:
        ax.set_ylabel(_ERROR)
        return figure
    for panel in axes[len(worlds) :]:
        panel.remove()
    figure.supylabel(_ERROR, fontsize=theme.TITLE)
    # each name once: worlds may have other methods
    pairs = [zip(*panel.get_legend_handles_labels(), strict=True) for panel in axes]
    handles = {name: handle for pair in pairs for handle, name in pair}
    columns = min(2 * columns, 5)
    figure.set_figheight(3.3 * rows + 0.2 * math.ceil(len(handles) / columns))
    theme.add_legend(figure, [*handles.values()], columns)
    return figure


def _scale_errors(ax: Axes, log: bool) -> None:
    if not log:
        ax.set_ylim(bottom=0)
        return
    ax.set_yscale("log")
    ticks = [digit * 10**power for power in range(5) for digit in (1, 2, 5)]
    first, last = np.clip(np.searchsorted(ticks, ax.get_ylim()), 1, len(ticks) - 1)
    ticks = ticks[first - 1 : last + 1]
    ax.set_ylim(ticks[0], ticks[-1])
    ax.set_yticks(ticks, [f"{tick:,}" for tick in ticks])
    ax.minorticks_off()


def _plot_world(ax: Axes, scores: DataFrame, label: str) -> None:
    shots = sorted(scores.shots.unique())
    locators = sorted(scores.locator.unique(), key=BASELINES.__contains__)
    alpha = 0.2 if len(locators) < 4 + len(BASELINES) else 0.1
    for locator, method_style in zip(locators, cycle(theme.METHOD_STYLES), strict=False):
        curve = scores[scores.locator == locator].sort_values("shots")
        at = [shots.index(count) for count in curve.shots]
        style = theme.BASELINE_STYLES.get(locator, method_style)
        is_baseline = locator in BASELINES
        order = 2 if is_baseline else 3
        ax.plot(at, curve.median_km, label=locator, markersize=4, zorder=order, **style)
        if not is_baseline:
            band: dict[str, Any] = {"color": style["color"], "alpha": alpha, "linewidth": 0}
            band["label"] = "95 % interval" if locator == locators[0] else ""
            ax.fill_between(at, curve.median_km_low, curve.median_km_high, **band)
    ax.set_xticks(range(len(shots)), [f"{count:,}" for count in shots])
    ax.set(xlabel=label)
    ax.set_title(scores.world.iloc[0], fontsize=theme.TITLE)
    ax.yaxis.set_major_formatter("{x:,.0f}")
    _open_frame(ax)


def _open_frame(ax: Axes) -> None:
    """Leave lines to read values off, and the sides that carry numbers."""
    ax.grid(axis="y", color="0.9")
    ax.spines[["top", "right"]].set_visible(False)


def plot_calibration(
    levels: Mapping[str, Sequence[float] | Tensor], *, ax: Axes | None = None
) -> Figure:
    """Show P-P curves: how often the truth lies in the credible region of each probability.

    Above the diagonal densities are too wide, below it too narrow. Of 20 calibrated curves of
    independent queries 19 stay within the band around it (Massart 1990). `levels` are those of the
    truths (`Density.credible_level`), by name of the curve.
    """
    counts = sorted({len(values) for values in levels.values()})
    ax = ax or Figure(figsize=(4.6, 4.75 + 0.18 * len(levels)), layout="constrained").subplots()
    grid = torch.linspace(0, 1, 201, dtype=torch.float64)
    ax.plot([0, 1], [0, 1], color=theme.GREY, linewidth=0.8)
    for name, style in zip(levels, cycle(theme.CALIBRATION_STYLES), strict=False):
        values = levels[name]
        label = f"{name} (largest gap {calibration_error(values):.2f}, n = {len(values)})"
        ax.plot(grid, reliability(values, grid), label=label, linewidth=1.8, **style)
    count_text = " to ".join(map(str, dict.fromkeys((*counts[:1], *counts[-1:]))))
    for count in counts:
        low, high = ((grid + sign * calibration_band(count)).clamp(0, 1) for sign in (-1, 1))
        label = f"95 % of calibrated curves, n = {count_text}" if count == counts[0] else ""
        ax.fill_between(grid, low, high, color=theme.GREY, alpha=0.15, linewidth=0, label=label)
    ax.axvline(0.9, color=theme.GREY, linewidth=0.8, linestyle=":")
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", anchor="N")
    ax.set(xlabel="probability of the credible region", ylabel="fraction of truths inside")
    ax.legend(fontsize=theme.TEXT, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    ax.spines[["top", "right"]].set_visible(False)
    return theme.figure_of(ax)


def calibration_band(count: int) -> float:
    """Return half of the height of the band that 95 % of calibrated curves are in (Massart 1990).

    >>> round(calibration_band(6), 2), round(calibration_band(600), 2)
    (0.55, 0.06)
    """
    return math.sqrt(math.log(2 / 0.05) / (2 * count))


def plot_recall_by_radius(rows: DataFrame, *, ax: Axes | None = None) -> Figure:
    """Show which share of the queries has its answer within each radius, of known truths."""
    ax = ax or Figure(layout="constrained").subplots()
    radii = np.geomspace(1, 20_100, _POINTS)
    for label, group, style in _recall_curves(rows):
        within = group.distance_km.fillna(GUESS_KM).sort_values().searchsorted(radii)
        ax.plot(radii, within / len(group), label=label, **style)
    for km in metrics.THRESHOLDS_KM:
        ax.axvline(km, color="0.85", linewidth=0.8, zorder=0)
    _label_shares(ax, "answer within radius, km", "share of queries")
    ax.set_xticks(metrics.THRESHOLDS_KM, [f"{km:,.0f}" for km in metrics.THRESHOLDS_KM])
    return theme.figure_of(ax)


def plot_recall_by_area(rows: DataFrame, *, ax: Axes | None = None) -> Figure:
    """Show which share of the truths a search of each area finds, most probable cells first.

    Rows without `searched_area_km2` are left out, and curves of flat densities: they are dotted.
    """
    ax = ax or Figure(layout="constrained").subplots()
    shares = torch.logspace(-5, 0, _POINTS, dtype=torch.float64)
    for label, group, style in _recall_curves(rows[rows.searched_area_km2.notna()]):
        if not _is_flat(group).all():
            ax.plot(100 * shares, share_found(shares, group), label=label, **style)
    ax.plot(100 * shares, shares, color="0.6", linewidth=1, linestyle=":", label="searched blindly")
    _label_shares(ax, "area searched, % of the sphere", "share of truths found")
    ax.xaxis.set_major_formatter("{x:g}")
    return theme.figure_of(ax)


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
    _open_frame(ax)


def _recall_curves(rows: DataFrame) -> list[tuple[str, DataFrame, dict[str, Any]]]:
    """Divide the rows of one world into curves: label, rows, style; baselines come last."""
    scored_rows = rows[rows.nll.notna()]
    groups = dict(iter(methods(scored_rows).groupby(["locator", "shots"], sort=False)))
    colours = mpl.colormaps["viridis_r"](np.linspace(0.15, 1, len(groups)))
    styles = {key: {"color": colour} for key, colour in zip(groups, colours, strict=True)}
    curves: list[tuple[str, DataFrame, dict[str, Any]]] = [
        (f"{key[0]}, {key[1]} shots", groups[key], styles[key]) for key in sorted(groups)
    ]
    baselines = scored_rows[
        scored_rows.locator.isin(BASELINES) & (scored_rows.shots == scored_rows.shots.max())
    ]
    for locator, group in baselines.groupby("locator"):
        style = theme.BASELINE_STYLES[str(locator)]
        curves.append((str(locator), group, {**style, "marker": None, "linewidth": 1.2}))
    return curves
