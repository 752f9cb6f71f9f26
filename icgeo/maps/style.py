"""What a map looks like: projection, extent, size, base and heatmap, as data.

Conventions: row 0 is the northernmost, column 0 the westernmost; values are taken at pixel centres.
A pixel is as wide in longitude everywhere, so "an equatorial pixel" is its width in degrees.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from icgeo.data.orbit import REAL_WORLDS
from icgeo.sphere import wrap_longitude

Projection = Literal["equirectangular", "web_mercator", "equal_area"]
BASES = ("blank", "land")

MERCATOR_LATITUDE = 85.06
"""Web Mercator ends here, in degrees: the square world ends at 85.0511, and users write 85.06."""


def northing(lat: Float[Tensor, "*batch"], projection: Projection) -> Float[Tensor, "*batch"]:
    """Return the height on the map of latitudes in degrees, in units of the projection.

    Equirectangular, spherical Mercator, and Lambert's cylindrical equal-area projection (Snyder
    1987, "Map projections: a working manual", eqs. 12-2, 7-2 and 10-2).
    """
    if projection == "equirectangular":
        return lat
    sine = torch.sin(torch.deg2rad(lat))
    return torch.atanh(sine) if projection == "web_mercator" else sine


def latitude(north: Float[Tensor, "*batch"], projection: Projection) -> Float[Tensor, "*batch"]:
    """Return the latitude in degrees of heights on the map: the inverse of `northing`."""
    if projection == "equirectangular":
        return north
    sine = torch.tanh(north) if projection == "web_mercator" else north.clamp(-1, 1)
    return torch.rad2deg(torch.asin(sine))


@dataclass(frozen=True)
class MapStyle:
    """How locations are drawn on a map; by default the world in three widths, on black."""

    projection: Projection = "equirectangular"
    """Rows are spaced evenly in latitude, in Mercator's northing or in the sine of latitude."""
    extent: tuple[float, float, float, float] = (-180.0, -90.0, 180.0, 90.0)
    """West, south, east, north in degrees; over the antimeridian, east < west or east > 180."""
    height: int = 64
    width: int = 128
    base: str = "blank"
    """What lies under the heatmap: blank (black), land (land and borders), or imagery: the name or
    the path of a map, such as blue-marble, as `icgeo.data.base_maps.open_map` takes it."""
    sigma_deg: tuple[float, ...] = (40.0, 15.0, 6.0)
    """Standard deviation of the vMF kernel in degrees: one, or one for each colour channel."""
    colour: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Colour of the heatmap in [0, 1]."""

    def __post_init__(self) -> None:
        if self.projection not in get_args(Projection):
            projections = get_args(Projection)
            raise ValueError(f"expected projection in {projections}, got {self.projection!r}")
        if self.base not in (*BASES, *REAL_WORLDS) and not Path(self.base).exists():
            raise ValueError(
                f"expected base in {(*BASES, *REAL_WORLDS)}, or the path of a map, "
                f"got {self.base!r}"
            )
        if min(self.height, self.width) < 8:
            raise ValueError(f"expected at least 8 x 8 pixels, got {self.height} x {self.width}")
        self._check_extent()
        if len(self.sigma_deg) not in (1, 3) or not all(0.01 <= s <= 180 for s in self.sigma_deg):
            raise ValueError(f"expected 1 or 3 sigmas in [0.01, 180] degrees, got {self.sigma_deg}")
        if len(self.colour) != 3 or not all(0 <= c <= 1 for c in self.colour):
            raise ValueError(f"expected a colour of 3 numbers in [0, 1], got {self.colour}")

    def _check_extent(self) -> None:
        west, south, east, north = self.extent
        if not (-90 <= south < north <= 90 and abs(west) <= 180 and -180 <= east <= 540):
            raise ValueError(
                f"expected extent (west, south, east, north) in degrees, got {self.extent}; "
                "are longitude and latitude swapped?"
            )
        if not 0 < self.width_deg <= 360:
            raise ValueError(f"expected 0 to 360 degrees from west to east, got {self.extent}")
        if self.projection == "web_mercator" and max(-south, north) > MERCATOR_LATITUDE:
            raise ValueError(
                f"expected latitudes within 85.05 degrees for Web Mercator, got {self.extent}; "
                "use equirectangular or equal_area nearer the poles"
            )

    @classmethod
    def marker(cls, *, height: int = 256, width: int = 512, sigma_deg: float = 3.0) -> "MapStyle":
        """Return the world with one red marker, on land and borders."""
        red = (0.85, 0.05, 0.05)
        return cls(height=height, width=width, base="land", sigma_deg=(sigma_deg,), colour=red)

    def window(self, west: float, south: float, east: float, north: float) -> "MapStyle":
        """Zoom in to a Web Mercator window; kernels keep their width in pixels."""
        window = replace(self, projection="web_mercator", extent=(west, south, east, north))
        zoom = window.width_deg / self.width_deg
        return replace(window, sigma_deg=tuple(zoom * s for s in self.sigma_deg))

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as plain values, ready for JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "MapStyle":
        """Rebuild a style from `to_dict`, or from the JSON of it."""
        names = sorted(field.name for field in fields(cls))
        if unknown := set(values).difference(names):
            raise ValueError(f"expected fields of a map style {names}, got {unknown}")
        arguments: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        return cls(**arguments)

    @property
    def width_deg(self) -> float:
        """Degrees of longitude from west to east."""
        west, _, east, _ = self.extent
        return east - west if east > west else east - west + 360

    @property
    def is_world_wide(self) -> bool:
        """Whether the map goes all around."""
        return self.width_deg == 360

    @property
    def pixel_deg(self) -> float:
        """Width of a pixel at the equator, in degrees."""
        return self.width_deg / self.width

    @property
    def kappas(self) -> tuple[float, ...]:
        """Concentrations of the kernels: the inverse squares of the sigmas in radians."""
        return tuple(math.radians(s) ** -2 for s in self.sigma_deg)

    def row_latitudes(self) -> Float[Tensor, " height"]:
        """Return the latitude of the pixel centres of each row in degrees, north to south."""
        _, south, _, north = self.extent
        ends = northing(torch.tensor([north, south], dtype=torch.float64), self.projection)
        steps = (torch.arange(self.height, dtype=torch.float64) + 0.5) / self.height
        return latitude(torch.lerp(ends[0], ends[1], steps), self.projection)

    def pixel_lat_lon(self) -> Float[Tensor, "height width 2"]:
        """Return the location of each pixel's centre."""
        steps = torch.arange(self.width, dtype=torch.float64) + 0.5
        lon = wrap_longitude(self.extent[0] + steps * self.pixel_deg)
        return torch.stack(torch.meshgrid(self.row_latitudes(), lon, indexing="ij"), dim=-1)

    def rows_of(self, lat: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """Return the row of latitudes, fractional: row i spans i to i + 1."""
        _, south, _, north = self.extent
        ends = northing(lat.new_tensor([north, south]), self.projection)
        return (ends[0] - northing(lat, self.projection)) / (ends[0] - ends[1]) * self.height
