"""The chain of a zoom: photo and map as seen from where it may be, level by level."""

import math
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from icgeo import sphere
from icgeo.data.base_maps import BaseMap
from icgeo.data.photos import Photo
from icgeo.data.pixels import square_pixels
from icgeo.plots import predictions
from icgeo.plots.theme import SMALL, place_name, show_image
from icgeo.prediction import Prediction, ZoomLevel, footprint

_PIXELS = 200
_FALL = 12.0
"""Densities are drawn down to exp(-12) of the highest, by their logarithm."""
_TITLES = {
    **{"planet": "The planet", "windows": "Windows, looked into", "place": "The place, aligned"},
    **{"alike": "Examples, laid over", "examples": "Weighed by examples"},
}


def plot_zoom(
    prediction: Prediction, photo: Photo, base_map: BaseMap | None, truth: predictions.Truth = None
) -> Figure:
    """Show how a photo was located on a map: each level, its windows, its density.

    Where it was zoomed on examples there is no map, and places stand on white.

    Above the photo and, for each level, the map as seen from the likeliest pose; below where that
    is, with the outlines of the poses that hold more than 2 %, and the density in orange.
    """
    if not prediction.levels:
        raise ValueError("expected a prediction of a zoom, got one without levels; give it a map")
    levels = prediction.levels
    widths = [1.0, 2.0] + [1.0] * (len(levels) - 1)  # the planet is twice as wide as high
    figure = Figure(figsize=(2.6 * sum(widths), 5.6), layout="constrained")
    grid = figure.subplots(2, 1 + len(levels), width_ratios=widths)
    square = square_pixels([photo], 256)[0].permute(1, 2, 0).numpy()
    show_image(grid[0, 0], square, title="The photo")
    grid[1, 0].set_axis_off()
    grid[1, 0].text(0, 1, _told(prediction, truth), va="top", fontsize=SMALL, wrap=True)
    reach = 180.0
    boxes = []
    for number, level in enumerate(levels, start=1):
        view = level.views[0].permute(1, 2, 0).numpy()
        share = f"{float(level.probability[0]):.0%}"
        name = _TITLES.get(level.name, level.name)
        title = f"{number}  {name}\nlikeliest of {len(level.views)}: {share}"
        show_image(grid[0, number], view, title=title)
        field = float(level.poses.field_of_view_deg[0])
        reach = 180.0 if number == 1 else min(reach, (2.5, 1.1)[number > 2] * field)
        boxes.append(_draw_level(grid[1, number], level, base_map, reach, truth))
    for ax, (corner, width, height) in zip(grid[1, 1:-1], boxes[1:], strict=True):
        for turn in (-360, 0, 360) if width < 360 else ():
            place = (corner[0] + turn, corner[1])
            edge = "white" if base_map is not None else "black"
            ax.add_patch(Rectangle(place, width, height, fill=False, ec=edge, lw=1.2))
    return figure


def _told(prediction: Prediction, truth: predictions.Truth) -> str:
    lines = [place_name(prediction.lat, prediction.lon)] if prediction.located else ["Not located"]
    lines += [
        f"{prediction.field_of_view_deg:.1f} degrees wide",
        f"upper edge towards {round(prediction.heading_deg or 0) % 360} degrees",
        f"90 % in {prediction.density.credible_area_km2(0.9):,.0f} km²",
    ]
    if truth is not None and prediction.located:
        off = float(sphere.distance_km((prediction.lat, prediction.lon), sphere.as_lat_lon(truth)))
        lines.append(f"{off:,.1f} km from the truth (cross)")
    return "\n".join(lines)


def _draw_level(
    ax: Axes, level: ZoomLevel, base_map: BaseMap | None, reach_deg: float, truth: predictions.Truth
) -> tuple[tuple[float, float], float, float]:
    """Draw the map of a level so far around its likeliest pose; return its box on the map."""
    lat, lon = level.poses[:1].lat_lon[0].tolist()
    is_world = reach_deg >= 180
    if is_world:
        south, north, west, east = -90.0, 90.0, -180.0, 180.0
    else:
        half_width = min(180.0, reach_deg / max(math.cos(math.radians(lat)), 0.15))
        south, north = max(-90.0, lat - reach_deg), min(90.0, lat + reach_deg)
        west, east = lon - half_width, lon + half_width
    rows = torch.linspace(north, south, _PIXELS, dtype=torch.float64)
    columns = torch.linspace(west, east, 2 * _PIXELS if is_world else _PIXELS).double()
    places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1)
    places[..., 1] = sphere.wrap_longitude(places[..., 1])
    box: dict[str, Any] = {"extent": (west, east, south, north), "aspect": "auto"}
    if base_map is not None:
        ax.imshow(base_map.window(places)[0].permute(1, 2, 0).numpy(), **box)
    height = level.density.log_prob(places)
    alpha = ((height - height.max() + _FALL) / _FALL).clamp(0, 1).numpy()
    colour = np.broadcast_to([1.0, 0.45, 0.0], (*alpha.shape, 3))
    ax.imshow(np.concatenate((colour, 0.85 * alpha[..., None] ** 2), axis=-1), **box)
    for number in (level.probability > 0.02).nonzero()[:, 0].tolist():
        ring = footprint(level.poses[number : number + 1])
        for part in getattr(ring, "geoms", [ring]):
            if part.geom_type == "Polygon":
                for turn in (-360, 0, 360):
                    x, y = part.exterior.coords.xy
                    ax.plot(np.array(x) + turn, y, lw=0.9, color="cyan", alpha=0.9)
    if truth is not None:
        truth_place = sphere.as_lat_lon(truth).tolist()
        x = lon + (truth_place[1] - lon + 180) % 360 - 180 if not is_world else truth_place[1]
        ax.plot(x, truth_place[0], "x", color="red", ms=7, mew=1.8)
    ax.set(xlim=(west, east), ylim=(south, north))
    ax.tick_params(labelsize=SMALL)
    return (west, south), east - west, north - south
