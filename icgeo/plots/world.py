"""The world as a figure shows it: projections, coastlines, great circles of errors.

Conventions: locations are (latitude, longitude) in degrees, and rows of NaN part the lines of an
array; the whole world is in the Equal Earth projection (Savric et al. 2018) of a unit sphere, a
window on it in Lambert's azimuthal equal-area projection, in km from its middle.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import shapely
import torch
from contourpy import contour_generator
from einops import rearrange
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from pyproj import Proj
from torch import Tensor

from icgeo import sphere
from icgeo.data.orbit import look_up
from icgeo.maps.drawing import basemap
from icgeo.plots import theme
from icgeo.sphere import EARTH_RADIUS_KM, Values
from icgeo.sphere.density import Density

Points = Float[np.ndarray, "_points 2"]


@dataclass(frozen=True, eq=False)
class View:
    """A projection of PROJ, and the part of the plane that is shown: left, right, bottom, top.

    `lat_lon` are the locations of its pixels, anything where they are not `inside` the globe.
    """

    projection: str
    extent: tuple[float, float, float, float]
    lat_lon: Float[Tensor, "height width 2"]
    inside: Bool[np.ndarray, "height width"]

    def paint(self, world: Float[Tensor, "3 rows columns"]) -> Float[np.ndarray, "height width 4"]:
        """Show an equirectangular picture of a world, in [0, 1] and transparent beyond the globe.

        It is made pale and nearly grey, so that what is drawn over it stands out.
        """
        picture = look_up(world[None].float(), sphere.to_xyz(self.lat_lon.float())[None, None])
        colours = rearrange(picture, "1 1 c h w -> h w c").numpy()
        grey = colours.mean(axis=-1, keepdims=True)
        pale_colours = 0.35 + 0.65 * (0.7 * grey + 0.3 * colours)
        return np.concatenate((pale_colours, self.inside[..., None]), axis=-1)

    def project(self, lat_lon: Float[np.ndarray, "*batch 2"]) -> Float[np.ndarray, "*batch 2"]:
        """Give x and y; NaN for NaN, and far outside."""
        x, y = Proj(self.projection)(lat_lon[..., 1], lat_lon[..., 0])
        _, right, _, top = self.extent
        with np.errstate(invalid="ignore"):
            is_near = (np.abs(x) < 3 * right) & (np.abs(y) < 3 * top)
        return np.where(is_near[..., None], np.stack((x, y), axis=-1), np.nan)

    def lines(self, lat_lon: Points) -> list[Points]:
        """Project lines, without the parts far outside."""
        return parted(self.project(lat_lon))


def parted(points: Points) -> list[Points]:
    """Take apart lines at the rows of NaN between them."""
    parts = np.split(points, np.flatnonzero(np.isnan(points[:, 0])))
    return [piece for part in parts if len(piece := part[np.isfinite(part[:, 0])]) > 1]


def _view(projection: str, right: float, top: float, width: int) -> View:
    """View a plane around 0; a pixel is on the globe if its location is projected back to it."""
    height, project = round(width * top / right), Proj(projection)
    across = ((np.arange(width) + 0.5) * 2 / width - 1) * right
    x, y = np.meshgrid(across, (1 - (np.arange(height) + 0.5) * 2 / height) * top)
    lon, lat = project(x, y, inverse=True)
    round_trip = np.stack(project(lon, lat))
    inside = np.asarray(np.isclose(round_trip, (x, y), rtol=0, atol=1e-6 * right).all(axis=0))
    places = np.where(inside[..., None], np.stack((lat, lon), axis=-1), 0.0)
    return View(projection, (-right, right, -top, top), torch.from_numpy(places), inside)


@lru_cache(maxsize=1)
def whole_world() -> View:
    """View all of the globe; cached."""
    project = Proj(projection := "+proj=eqearth +R=1")
    return _view(projection, project(180, 0)[0], project(0, 90)[1], width=600)


def window(lat: float, lon: float, radius_km: float) -> View:
    """View a square around a place; `radius_km` is half of its side."""
    projection = f"+proj=laea +lat_0={lat} +lon_0={lon} +R={EARTH_RADIUS_KM}"
    return _view(projection, radius_km, radius_km, width=360)


def edge(view: View) -> Points:
    """Return locations along the edge of a window."""
    radius = view.extent[1]
    side, one = np.linspace(-radius, radius, 90), np.full(90, radius)
    x = np.concatenate((side, one, -side, -one))
    y = np.concatenate((-one, side, one, -side))
    lon, lat = Proj(view.projection)(x, y, inverse=True)
    return cut(np.stack((lat, lon), axis=-1))


def cut(lat_lon: Points) -> Points:
    """Part a line where it crosses the antimeridian, up to which its parts are drawn.

    Points may lie up to half a turn apart in longitude; a line over a pole runs along the edge that
    a pole is in most projections.
    """
    lat, lon = lat_lon[:, 0], np.unwrap(lat_lon[:, 1], period=360)
    turn = np.floor((lon + 180) / 360)
    at = np.flatnonzero(np.diff(turn))
    border = 360 * np.maximum(turn[at], turn[at + 1]) - 180
    share = (border - lon[at]) / (lon[at + 1] - lon[at])
    crossing = lat[at] + share * (lat[at + 1] - lat[at])
    side = np.copysign(180, turn[at + 1] - turn[at])
    gap = np.full_like(side, np.nan)
    breaks = np.stack((crossing, side, gap, gap, crossing, -side), axis=-1).reshape(-1, 2)
    points = np.stack((lat, lon - 360 * turn), axis=-1)
    return np.insert(points, np.repeat(at + 1, 3), breaks, axis=0)


@lru_cache(maxsize=2)
def shapes(kind: str) -> Points:
    """Return coastlines ("land") or "borders"; cached, do not write to it."""
    frame = basemap()
    return outlines(frame.geometry[frame["kind"] == kind].to_numpy())


def outlines(geometry: Any) -> Points:
    """Take locations along lines or polygons, less the sides along ±180° that only close them."""
    rings = shapely.get_rings(geometry)
    xy, owner = shapely.get_coordinates(rings if len(rings) else geometry, return_index=True)
    at_seam = (np.abs(xy[:, 0]) > 180 - 1e-6) | (xy[:, 1] < -90 + 1e-6)
    ends = (np.diff(owner) > 0) | (at_seam[1:] & at_seam[:-1])
    return np.insert(xy[:, ::-1], np.flatnonzero(ends) + 1, np.nan, axis=0)


def contour(density: Density, level: float) -> Points:
    """Return locations along the smooth outline of a region, cut at the antimeridian."""
    height = 4 * min(2 * density.nside, 256)
    lat, lon = np.linspace(90, -90, height + 1), np.linspace(-180, 180, 2 * height + 1)
    places = np.stack(np.broadcast_arrays(lat[:, None], lon), axis=-1)
    levels = density.credible_level(places, smooth=True)
    lines: Any = contour_generator(lon, lat, levels.numpy()).lines(level)
    gap = np.full((1, 2), np.nan)
    return np.concatenate([gap, *(part for line in lines for part in (line[:, ::-1], gap))])


@lru_cache(maxsize=2)
def _world_lines(kind: str) -> list[Points]:
    """Project the coastlines ("land") or lines every 30 degrees of latitude and 60 of longitude."""
    if kind != "graticule":
        return whole_world().lines(shapes(kind))
    lat, lon = np.linspace(-90, 90, 91), np.linspace(-180, 180, 181)
    parallels = [np.stack((np.full_like(lon, at), lon), axis=-1) for at in range(-60, 90, 30)]
    meridians = [np.stack((lat, np.full_like(lat, at)), axis=-1) for at in range(-120, 180, 60)]
    return [whole_world().project(line) for line in (*parallels, *meridians)]


def draw_globe(ax: Axes, *, on_earth: bool) -> View:
    """Draw the lines of the whole world into axes without any other decoration."""
    view = whole_world()
    ax.add_collection(LineCollection(_world_lines("graticule"), colors="0.8", linewidths=0.4))
    if on_earth:
        ax.add_collection(LineCollection(_world_lines("land"), colors="0.35", linewidths=0.5))
    east = np.stack((np.linspace(-90, 90, 91), np.full(91, 180)), axis=-1)
    outline = np.concatenate((east, east[::-1] * (1, -1), east[:1]))
    ax.plot(*view.project(outline).T, color="0.35", linewidth=0.8)
    left, right, bottom, top = view.extent
    ax.set(xlim=(1.01 * left, 1.01 * right), ylim=(1.01 * bottom, 1.01 * top), aspect="equal")
    ax.set_axis_off()
    return view


def great_circle(start: Float[Tensor, "2"], end: Float[Tensor, "2"]) -> Points:
    """Return locations along the shorter arc between two, cut at the antimeridian."""
    start_xyz, end_xyz = sphere.to_xyz(start), sphere.to_xyz(end)
    share = torch.linspace(0, 1, 181, dtype=torch.float64)[:, None]  # a degree apart at most
    points = sphere.exp_map(start_xyz, share * sphere.log_map(start_xyz, end_xyz))
    return cut(sphere.to_lat_lon(points).numpy())


def plot_errors(
    guesses: Values, truths: Values, *, on_earth: bool = True, ax: Axes | None = None
) -> Figure:
    """Show the great circle from each guess to its truth, coloured by its length in km.

    Both are locations [n, 2] in degrees. Where a guess is NaN only the truth is marked; the median
    in the title leaves it out, tables count it as a guess, 10,008 km. `on_earth` draws coastlines.

    Raises:
        ValueError: no pair, other shapes, or a location off the globe.
    """
    truth = sphere.as_lat_lon(truths).detach().cpu().double()
    guess = torch.as_tensor(np.asarray(guesses), dtype=torch.float64)
    if truth.ndim != 2 or guess.shape != truth.shape or not len(truth):
        pairs = "a guess and a truth [n, 2] for each of at least one query"
        sizes = f"shapes {tuple(guess.shape)} and {tuple(truth.shape)}"
        raise ValueError(f"expected {pairs}, got {sizes}")
    mask = ~guess.isnan().any(dim=1)
    guess, goal, missed_truth = sphere.as_lat_lon(guess[mask]), truth[mask], truth[~mask]
    error = sphere.distance_km(guess, goal)
    ax = ax or Figure(figsize=(7, 4), layout="constrained").subplots()
    view = draw_globe(ax, on_earth=on_earth)
    parts = [view.lines(great_circle(*ends)) for ends in zip(guess, goal, strict=True)]
    lengths = np.repeat(error.numpy(), [len(lines) for lines in parts])
    style: dict[str, Any] = {"cmap": theme.ERROR_MAP, "linewidths": 1.3, "zorder": 3}
    arcs = LineCollection([line for lines in parts for line in lines], array=lengths, **style)
    arcs.set_clim(0, max([1.0, *error.tolist()]))
    ax.add_collection(arcs)
    marks: list[tuple[str, Tensor, str, dict[str, Any]]] = [
        ("guess", guess, "x", {"color": theme.ORANGE, "zorder": 4}),
        ("truth", goal, ".", {"color": theme.BLACK, "zorder": 5}),
        ("truth, not located", missed_truth, "o", {"mfc": "none", "mec": theme.GREY, "zorder": 4}),
    ]
    for label, places, marker, style in marks if len(missed_truth) else marks[:2]:
        ax.plot(*view.project(places.numpy()).T, marker, ms=4, label=label, **style)
    title = f"{len(error):,} of {len(truth):,} located"
    if len(error):
        suffix = " of the located" if len(missed_truth) else ""
        title += f", median error{suffix} {np.median(error):,.0f} km"
    ax.set_title(title, fontsize=theme.TITLE)
    theme.add_colour_bar(arcs, ax, "error in km").xaxis.set_major_formatter("{x:,.0f}")
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (-0.02, 0.04)}
    legend = ax.legend(fontsize=theme.SMALL, frameon=False, **place)
    legend.set_in_layout(False)  # there is room beside the colours
    return theme.figure_of(ax)
