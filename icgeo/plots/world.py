"""The world as a figure shows it: projections, coastlines, graticule, lines across the globe.

Conventions: locations are (latitude, longitude) in degrees, and rows of NaN part the lines of an
array; the whole world is in the Equal Earth projection (Savric et al. 2018) of a unit sphere, a
window on it in Lambert's azimuthal equal-area projection, in km from its middle.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from icgeo.maps.drawing import basemap
from icgeo.sphere import EARTH_RADIUS_KM

_WORLD_WIDTH, _WINDOW_WIDTH = 600, 360
_BREAK = np.full((1, 2), np.nan)

Points = Float[np.ndarray, "_points 2"]


@dataclass(frozen=True, eq=False)
class View:
    """A projection, and the part of the plane that is shown."""

    projection: str
    """As PROJ writes it."""
    extent: tuple[float, float, float, float]
    """Left, right, bottom, top."""
    lat_lon: Float[Tensor, "height width 2"]
    """Locations of the pixels; anything where there is none."""
    inside: Bool[np.ndarray, "height width"]
    """Which pixels are on the globe."""

    def project(self, lat_lon: Float[np.ndarray, "*batch 2"]) -> Float[np.ndarray, "*batch 2"]:
        """Give x and y; NaN for NaN, and far outside."""
        from pyproj import Proj

        x, y = Proj(self.projection)(lat_lon[..., 1], lat_lon[..., 0])
        _, right, _, top = self.extent
        with np.errstate(invalid="ignore"):
            near = (np.abs(x) < 3 * right) & (np.abs(y) < 3 * top)
        return np.where(near[..., None], np.stack((x, y), axis=-1), np.nan)

    def lines(self, lat_lon: Points) -> list[Points]:
        """Project lines, without the parts far outside."""
        return parted(self.project(lat_lon))


def parted(points: Points) -> list[Points]:
    """Take apart lines at the rows of NaN between them."""
    gaps = np.flatnonzero(np.isnan(points).any(axis=1))
    parts = np.split(points, gaps)
    return [rest for part in parts if len(rest := part[np.isfinite(part).all(axis=1)]) > 1]


def _view(projection: str, right: float, top: float, width: int) -> View:
    """View a plane around 0; a pixel is on the globe if its location is projected back to it."""
    from pyproj import Proj

    height, project = round(width * top / right), Proj(projection)
    x, y = np.meshgrid(
        ((np.arange(width) + 0.5) * 2 / width - 1) * right,
        (1 - (np.arange(height) + 0.5) * 2 / height) * top,
    )
    lon, lat = project(x, y, inverse=True)
    again = np.stack(project(lon, lat))
    inside = np.asarray(np.isclose(again, (x, y), rtol=0, atol=1e-6 * right).all(axis=0))
    places = np.where(inside[..., None], np.stack((lat, lon), axis=-1), 0.0)
    return View(projection, (-right, right, -top, top), torch.from_numpy(places), inside)


@lru_cache(maxsize=1)
def whole_world() -> View:
    """View all of the globe; cached."""
    from pyproj import Proj

    projection = "+proj=eqearth +R=1"
    project = Proj(projection)
    return _view(projection, project(180, 0)[0], project(0, 90)[1], _WORLD_WIDTH)


def window(lat: float, lon: float, radius_km: float) -> View:
    """View a square around a place; `radius_km` is half of its side."""
    projection = f"+proj=laea +lat_0={lat} +lon_0={lon} +R={EARTH_RADIUS_KM}"
    return _view(projection, radius_km, radius_km, _WINDOW_WIDTH)


def edge(view: View) -> Points:
    """Locations along the edge of a window."""
    from pyproj import Proj

    _, radius, _, _ = view.extent
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
    return np.insert(
        np.stack((lat, lon - 360 * turn), axis=-1), np.repeat(at + 1, 3), breaks, axis=0
    )


@lru_cache(maxsize=2)
def shapes(kind: str) -> Points:
    """Coastlines ("land") or "borders"; cached, do not write to it."""
    frame = basemap()
    return outlines(frame.geometry[frame["kind"] == kind].to_numpy())


def outlines(geometry: Any) -> Points:
    """Locations along lines, or around polygons, parted by rows of NaN.

    Without the sides on the antimeridian and at the south pole, which only close polygons.
    """
    import shapely

    rings = shapely.get_rings(geometry)
    xy, owner = shapely.get_coordinates(rings if len(rings) else geometry, return_index=True)
    at_seam = (np.abs(xy[:, 0]) > 180 - 1e-6) | (xy[:, 1] < -90 + 1e-6)
    ends = (np.diff(owner) > 0) | (at_seam[1:] & at_seam[:-1])
    return np.insert(xy[:, ::-1], np.flatnonzero(ends) + 1, np.nan, axis=0)


@lru_cache(maxsize=1)
def graticule() -> Points:
    """Lines every 30 degrees of latitude and 60 of longitude; cached, do not write to it."""
    lat, lon = np.linspace(-90, 90, 91), np.linspace(-180, 180, 181)
    parallels = [np.stack((np.full_like(lon, at), lon), axis=-1) for at in range(-60, 90, 30)]
    meridians = [np.stack((lat, np.full_like(lat, at)), axis=-1) for at in range(-120, 180, 60)]
    return np.concatenate([part for line in (*parallels, *meridians) for part in (line, _BREAK)])


@lru_cache(maxsize=2)
def world_lines(kind: str) -> list[Points]:
    """Project the coastlines ("land") or the graticule to the whole world; cached."""
    return whole_world().lines(graticule() if kind == "graticule" else shapes(kind))


def outline() -> Points:
    """Locations along the edge of the whole world."""
    lat = np.linspace(-90, 90, 91)
    east = np.stack((lat, np.full_like(lat, 180)), axis=-1)
    return np.concatenate((east, east[::-1] * (1, -1), east[:1]))
