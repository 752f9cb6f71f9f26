"""A prediction on a map to zoom and to point at, by plotly.

Conventions: equirectangular, in degrees, longitude first; nothing is fetched from anywhere.
"""

from typing import Any

import numpy as np

from icgeo.plots.theme import BLACK, BLUE, GREEN, GREY, ORANGE
from icgeo.plots.world import outlines, shapes
from icgeo.prediction import CREDIBLE_LEVELS, Prediction

_MARGIN_DEG = 30.0
"""Latitude that the map shows around the 90 % region; twice as much of longitude."""
_ROWS = 180
"""Of the density: one a degree."""


def plot_interactive(prediction: Prediction, truth: tuple[float, float] | None = None) -> Any:
    """Draw the density, its regions and the point as a figure of plotly (`icgeo[demo]`)."""
    from plotly import graph_objects

    centres = (np.arange(2 * _ROWS) + 0.5) * 180 / _ROWS
    figure = graph_objects.Figure()
    values = prediction.density.to_equirectangular(_ROWS).float().numpy()
    grid = {"x": centres - 180, "y": 90 - centres[:_ROWS]}
    hover = "%{y:.1f}°, %{x:.1f}°<br>%{z:.3g} per steradian<extra></extra>"
    colours = {"colorscale": "Blues", "zmin": 0, "showscale": False}
    figure.add_heatmap(z=values, hovertemplate=hover, **grid, **colours)
    lines = [("coastlines", shapes("land"), {"color": GREY, "width": 1})]
    for level, dash in zip(CREDIBLE_LEVELS, ("dash", "solid"), strict=True):
        region = outlines(prediction.credible_region(level).geometry.to_numpy())
        lines.append((f"{level:.0%} region", region, {"color": BLACK, "width": 1.5, "dash": dash}))
    for name, places, style in lines:
        lat, lon = places.round(2).T
        figure.add_scatter(x=lon, y=lat, mode="lines", name=name, line=style, hoverinfo="skip")
    answer = (prediction.lat, prediction.lon) if prediction.located else None
    for name, place, colour, symbol in (
        ("answer", answer, ORANGE, "x"),
        ("truth", truth, GREEN, "star"),
    ):
        if place is not None:
            edge = {"color": "white", "width": 1.5}
            look = {"size": 11, "line": edge, "color": colour, "symbol": symbol}
            hover = f"{name}: {place[0]:.2f}°, {place[1]:.2f}°<extra></extra>"
            point: dict[str, Any] = {"x": [place[1]], "y": [place[0]], "mode": "markers"}
            figure.add_scatter(name=name, marker=look, hovertemplate=hover, **point)
    west, south, east, north = prediction.credible_region(CREDIBLE_LEVELS[-1]).total_bounds
    if not prediction.located or east - west > 120:  # wide, or nothing is known
        west, south, east, north = -180, -90, 180, 90
    lon_range = [max(-180, west - 2 * _MARGIN_DEG), min(180, east + 2 * _MARGIN_DEG)]
    lat_range = [max(-90, south - _MARGIN_DEG), min(90, north + _MARGIN_DEG)]
    axis: dict[str, Any] = {"ticksuffix": "°", "constrain": "domain"}
    look = {"dragmode": "pan", "template": "plotly_white", "colorway": [BLUE], "height": 380}
    return figure.update_layout(
        xaxis={"range": lon_range, "minallowed": -180, "maxallowed": 180, **axis},
        yaxis={"range": lat_range, "minallowed": -90, "maxallowed": 90, "scaleanchor": "x", **axis},
        legend={"orientation": "h", "y": -0.12},
        margin={"l": 34, "r": 8, "t": 34, "b": 10},
        font={"family": "system-ui, sans-serif"},
        **look,
    )
