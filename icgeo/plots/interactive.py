"""Maps to zoom and to point at, by plotly: a prediction, and places of examples.

Conventions: equirectangular, in degrees, longitude first, over a picture of the Earth, so that they
look the same on light and dark pages; nothing is fetched from anywhere.
"""

from base64 import b64encode
from collections.abc import Sequence
from functools import lru_cache
from io import BytesIO
from typing import Any

import numpy as np
from einops import rearrange
from PIL import Image

from icgeo.data.orbit import open_world
from icgeo.plots.theme import BLUE, GREEN, ORANGE, place_name
from icgeo.plots.world import contour, shapes
from icgeo.prediction import CREDIBLE_LEVELS, Prediction

_MARGIN_DEG = 30.0
"""Latitude that the map shows around the 90 % region; twice as much of longitude."""
_CLOSEST_DEG = 5.0
"""Least latitude that a map of two answers shows, but for a quarter."""
_ROWS = 180
"""Of the density: one a degree."""
_DARK = "#1f2937"
_GLOW = [[0, "rgba(255,221,60,0)"], [0.05, "rgba(255,221,60,.3)"], [1, "rgba(255,221,60,.95)"]]
"""Colours of densities, through which the Earth is seen."""

Places = Sequence[tuple[float, float]]


@lru_cache(maxsize=1)
def _blue_marble() -> str:
    """Return an address that holds a picture of the Earth."""
    pixels = (rearrange(open_world("blue-marble", height=800), "c h w -> h w c") * 255).byte()
    stream = BytesIO()
    Image.fromarray(pixels.numpy()).save(stream, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{b64encode(stream.getvalue()).decode()}"


def _draw_earth(figure: Any) -> Any:
    """Draw the Earth with coasts and borders, to be moved within its bounds; return the figure."""
    world = {"x": -180, "y": 90, "sizex": 360, "sizey": 180, "xref": "x", "yref": "y"}
    figure.add_layout_image(source=_blue_marble(), sizing="stretch", layer="below", **world)
    lat, lon = np.concatenate((shapes("land"), [[np.nan] * 2], shapes("borders"))).round(2).T
    line = {"color": "rgba(255,255,255,.5)", "width": 1}
    options = {"name": "coastlines", "hoverinfo": "skip", "showlegend": False}
    figure.add_scatter(x=lon, y=lat, mode="lines", line=line, **options)
    axis: dict[str, Any] = {"ticksuffix": "°", "constrain": "domain", "showgrid": False}
    axis |= {"zeroline": False}
    return figure.update_layout(
        xaxis={"range": [-180, 180], "minallowed": -180, "maxallowed": 180, **axis},
        yaxis={"range": [-90, 90], "minallowed": -90, "maxallowed": 90, "scaleanchor": "x", **axis},
        dragmode="pan",
        font={"family": "system-ui, sans-serif"},
        modebar={"bgcolor": _DARK, "color": "white", "activecolor": "white"},
        template="plotly_white",
    )


def _add_points(figure: Any, name: str, places: Places, colour: str, symbol: str) -> None:
    look = {"size": 11, "line": {"color": "white", "width": 1.5}}
    figure.add_scatter(
        x=[lon for _, lon in places],
        y=[lat for lat, _ in places],
        mode="markers",
        name=name,
        marker={**look, "color": colour, "symbol": symbol},
        text=[f"{name}: {place_name(*place, digits=2)}" for place in places],
        hovertemplate="%{text}<extra></extra>",
    )


def _fill_box(figure: Any, lon_range: Sequence[float], lat_range: Sequence[float]) -> Any:
    """Show a part of the Earth without axes and margins; return the figure."""
    figure.update_layout(xaxis_range=lon_range, yaxis_range=lat_range, showlegend=False)
    figure.update_layout(xaxis_visible=False, yaxis_visible=False)
    return figure.update_layout(margin=dict.fromkeys("lrtb", 0))


def plot_places(places: Places, *, view: Sequence[Sequence[float]] | None = None) -> Any:
    """Mark places of examples, as a figure of plotly (`icgeo[demo]`) that fills its box.

    `view` are the longitudes and the latitudes from which to which it shows; None is the whole.
    """
    from plotly import graph_objects

    figure = _draw_earth(graph_objects.Figure())
    _add_points(figure, "example", places, ORANGE, "circle")
    return _fill_box(figure, *(view or ((-180, 180), (-90, 90))))


def plot_answers(a: tuple[float, float] | None, b: tuple[float, float] | None) -> Any:
    """Mark two answers on the Earth as A and B, as a figure of plotly (`icgeo[demo]`).

    The map shows those that are near each other closely, and the whole Earth where none is.
    """
    from plotly import graph_objects

    figure = _draw_earth(graph_objects.Figure())
    for name, place, colour, symbol in (("A", a, ORANGE, "circle"), ("B", b, BLUE, "square")):
        if place is not None:
            text = {"textposition": "top center", "textfont": {"size": 18, "color": "white"}}
            _add_points(figure, name, [place], colour, symbol)
            figure.data[-1].update(mode="markers+text", texttemplate=f"<b>{name}</b>", **text)
    places = [place for place in (a, b) if place is not None]
    lat, lon = np.array(places or [(0.0, 0.0)]).T
    span = max(np.ptp(lat), np.ptp(lon) / 2, _CLOSEST_DEG) if places else 180.0
    ranges = [
        [max(-limit, middle - aspect * span), min(limit, middle + aspect * span)]
        for middle, limit, aspect in ((lon.mean(), 180, 1.5), (lat.mean(), 90, 0.75))
    ]
    figure.update_layout(xaxis_constrain="range", yaxis_constrain="range", height=340)
    return _fill_box(figure, *ranges)


def plot_interactive(prediction: Prediction, truth: tuple[float, float] | None = None) -> Any:
    """Draw the density, its regions and the point as a figure of plotly (`icgeo[demo]`)."""
    from plotly import graph_objects

    centres = (np.arange(2 * _ROWS) + 0.5) * 180 / _ROWS
    figure = graph_objects.Figure()
    values = prediction.density.to_equirectangular(_ROWS).float().numpy()
    grid = {"x": centres - 180, "y": 90 - centres[:_ROWS]}
    hover = "%{y:.1f}°, %{x:.1f}°<br>%{z:.3g} per steradian<extra></extra>"
    colours = {"colorscale": _GLOW, "zmin": 0, "showscale": False}
    figure.add_heatmap(z=values, hovertemplate=hover, **grid, **colours)
    _draw_earth(figure)
    for level, dash in zip(CREDIBLE_LEVELS, ("dash", "solid"), strict=True):
        lat, lon = contour(prediction.density, level).round(2).T
        line = {"color": "white", "width": 2, "dash": dash}
        about: dict[str, Any] = {"name": f"{level:.0%} region", "hoverinfo": "skip"}
        figure.add_scatter(x=lon, y=lat, mode="lines", line=line, **about)
    if prediction.located:
        _add_points(figure, "answer", [(prediction.lat, prediction.lon)], ORANGE, "x")
    if truth is not None:
        _add_points(figure, "truth", [truth], GREEN, "star")
    west, south, east, north = prediction.credible_region(CREDIBLE_LEVELS[-1]).total_bounds
    if not prediction.located or east - west > 120:  # wide, or nothing is known
        west, south, east, north = -180, -90, 180, 90
    lon_range = [max(-180, west - 2 * _MARGIN_DEG), min(180, east + 2 * _MARGIN_DEG)]
    lat_range = [max(-90, south - _MARGIN_DEG), min(90, north + _MARGIN_DEG)]
    dark_style = {"bgcolor": _DARK, "font": {"color": "white"}}  # its lines are white
    return figure.update_layout(
        xaxis={"range": lon_range, "constrain": "range"},
        yaxis={"range": lat_range, "constrain": "range"},
        legend={"orientation": "h", "y": -0.12, **dark_style},
        margin={"l": 34, "r": 8, "t": 34, "b": 10},
        height=380,
    )
