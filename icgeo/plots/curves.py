"""Curves of an evaluation: error against shots, calibration."""

import math
from collections.abc import Mapping, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame
from torch import Tensor

from icgeo.evaluation import BASELINES
from icgeo.metrics import calibration_error, reliability
from icgeo.plots.theme import (
    BASELINE_STYLES,
    CALIBRATION_STYLES,
    GREY,
    METHOD_STYLES,
    TEXT,
    TITLE,
    figure_of,
)

_LEGEND_COLUMNS = 5


def plot_shots(
    scores: DataFrame, *, ax: Axes | None = None, label: str = "shots", log: bool = False
) -> Figure:
    """Show the median error against the number of shots, with 95 % intervals; a panel a world.

    `scores` are those of `icgeo.evaluation.score`. `label` says what their shots stand for, if it
    is something else; `log` makes the scale of errors logarithmic. A given `ax` gets no legend;
    `ax.legend()` makes one.

    Raises:
        ValueError: no score, or an `ax` for several worlds.
    """
    worlds = list(scores.world.unique())
    if not worlds or (ax is not None and len(worlds) > 1):
        raise ValueError(f"expected scores of one world for each panel, got those of {worlds}")
    if ax is not None:
        _plot_world(ax, scores, label)
        _scale_errors(ax, log)
        return figure_of(ax)
    figure = Figure(figsize=(3.9 * len(worlds) + 0.4, 3.5), layout="constrained")
    axes = figure.subplots(1, len(worlds), squeeze=False, sharey=True)[0]
    for panel, world in zip(axes, worlds, strict=True):
        _plot_world(panel, scores[scores.world == world], label)
        panel.label_outer()
    _scale_errors(axes[0], log)  # for all, and last: it ends the scaling to what is drawn
    handles, labels = axes[0].get_legend_handles_labels()
    columns = min(2 * len(worlds), _LEGEND_COLUMNS)
    figure.set_figheight(3.3 + 0.2 * math.ceil(len(labels) / columns))
    figure.legend(
        handles, labels, loc="outside lower center", ncols=columns, fontsize=TEXT, frameon=False
    )
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


def _plot_world(ax: Axes, scores: DataFrame, label: str) -> None:
    shots = sorted(scores.shots.unique())
    locators = sorted(scores.locator.unique(), key=BASELINES.__contains__)
    for number, locator in enumerate(locators):
        curve = scores[scores.locator == locator].sort_values("shots")
        at = [shots.index(count) for count in curve.shots]
        style = BASELINE_STYLES.get(locator, METHOD_STYLES[number % len(METHOD_STYLES)])
        is_baseline = locator in BASELINES
        ax.plot(
            at,
            curve.median_km,
            label=locator,
            markersize=4,
            zorder=2 if is_baseline else 3,
            **style,
        )
        if not is_baseline:
            low, high = curve.median_km_low, curve.median_km_high
            alpha = 0.2 if len(locators) < 4 + len(BASELINES) else 0.1
            name = "" if number else "95 % interval"
            ax.fill_between(
                at, low, high, color=style["color"], alpha=alpha, linewidth=0, label=name
            )
    ax.set_xticks(range(len(shots)), [f"{count:,}" for count in shots])
    ax.set_xlabel(label)
    ax.set_ylabel("median error in km")
    ax.set_title(scores.world.iloc[0], fontsize=TITLE)
    ax.yaxis.set_major_formatter("{x:,.0f}")
    ax.grid(axis="y", color="0.9")
    ax.spines[["top", "right"]].set_visible(False)


def plot_calibration(
    levels: Mapping[str, Sequence[float] | Tensor], *, ax: Axes | None = None
) -> Figure:
    """Show P-P curves: how often the truth lies in the credible region of each probability.

    Calibrated densities follow the diagonal; above it they are too wide, below it too narrow. Of 20
    calibrated curves 19 stay within the band around it (Massart 1990), if queries are independent;
    it is wide where there are few.

    Args:
        levels: credible levels of the truths (`Density.credible_level`), by name of the curve.
        ax: where to draw.
    """
    counts = sorted({len(values) for values in levels.values()})
    if ax is None:
        height = 4.75 + 0.18 * len(levels)
        ax = Figure(figsize=(4.6, height), layout="constrained").subplots()
    grid = torch.linspace(0, 1, 201, dtype=torch.float64)
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
    for number, (name, values) in enumerate(levels.items()):
        style = CALIBRATION_STYLES[number % len(CALIBRATION_STYLES)]
        label = f"{name} (largest gap {calibration_error(values):.2f}, n = {len(values)})"
        ax.plot(grid, reliability(values, grid), label=label, linewidth=1.8, **style)
    whose = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1])))) if counts else ""
    for count in counts:
        low, high = ((grid + sign * calibration_band(count)).clamp(0, 1) for sign in (-1, 1))
        label = f"95 % of calibrated curves, n = {whose}" if count == counts[0] else ""
        ax.fill_between(grid, low, high, color=GREY, alpha=0.15, linewidth=0, label=label)
    ax.axvline(0.9, color=GREY, linewidth=0.8, linestyle=":")
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", anchor="N")
    ax.set_xlabel("probability of the credible region")
    ax.set_ylabel("fraction of truths inside")
    ax.legend(fontsize=TEXT, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    ax.spines[["top", "right"]].set_visible(False)
    return figure_of(ax)


def calibration_band(count: int) -> float:
    """Half of the height of the band that holds 95 % of calibrated curves (Massart 1990).

    >>> round(calibration_band(6), 2), round(calibration_band(600), 2)
    (0.55, 0.06)
    """
    return math.sqrt(math.log(2 / 0.05) / (2 * count))
