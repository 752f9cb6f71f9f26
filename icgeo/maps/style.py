"""What a map looks like: size, base and heatmap, as data.

Conventions: a map shows the whole world, equirectangular, from north to south and from longitude
-180 eastwards; values are taken at pixel centres. "An equatorial pixel" is its width in degrees.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from icgeo.sphere import wrap_longitude

Base = Literal["blank", "land"]


@dataclass(frozen=True)
class MapStyle:
    """How locations are drawn on a map; by default in three widths, on black."""

    height: int = 64
    width: int = 128
    base: Base = "blank"
    """What lies under the heatmap: black, or land and borders."""
    sigma_deg: tuple[float, ...] = (40.0, 15.0, 6.0)
    """Standard deviation of the vMF kernel in degrees: one, or one for each colour channel."""
    colour: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Colour of the heatmap in [0, 1]."""

    def __post_init__(self) -> None:
        if self.base not in get_args(Base):
            raise ValueError(f"expected a base of {get_args(Base)}, got {self.base!r}")
        if min(self.height, self.width) < 8:
            raise ValueError(f"expected at least 8 x 8 pixels, got {self.height} x {self.width}")
        if len(self.sigma_deg) not in (1, 3) or not all(0.01 <= s <= 180 for s in self.sigma_deg):
            raise ValueError(f"expected 1 or 3 sigmas in [0.01, 180] degrees, got {self.sigma_deg}")
        if len(self.colour) != 3 or not all(0 <= c <= 1 for c in self.colour):
            raise ValueError(f"expected a colour of 3 numbers in [0, 1], got {self.colour}")

    @classmethod
    def marker(cls, *, height: int = 256, width: int = 512, sigma_deg: float = 3.0) -> "MapStyle":
        """Return a style with one red marker, on land and borders."""
        red = (0.85, 0.05, 0.05)
        return cls(height=height, width=width, base="land", sigma_deg=(sigma_deg,), colour=red)

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as plain values, ready for JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "MapStyle":
        """Rebuild a style from `to_dict`, or from the JSON of it."""
        names = sorted(field.name for field in fields(cls))
        if unknown := set(values).difference(names):
            raise ValueError(f"expected fields of a map style {names}, got {unknown}")
        options: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        return cls(**options)

    @property
    def pixel_deg(self) -> float:
        """Width of a pixel at the equator, in degrees."""
        return 360 / self.width

    @property
    def kappas(self) -> tuple[float, ...]:
        """Concentrations of the kernels: the inverse squares of the sigmas in radians."""
        return tuple(math.radians(s) ** -2 for s in self.sigma_deg)

    def row_latitudes(self) -> Float[Tensor, " height"]:
        """Latitude of the pixel centres of each row, in degrees, from north to south."""
        north, south = torch.tensor([90, -90], dtype=torch.float64)
        steps = (torch.arange(self.height, dtype=torch.float64) + 0.5) / self.height
        return torch.lerp(north, south, steps)

    def pixel_lat_lon(self) -> Float[Tensor, "height width 2"]:
        """Location of each pixel's centre."""
        steps = torch.arange(self.width, dtype=torch.float64) + 0.5
        lon = wrap_longitude(steps * self.pixel_deg - 180)
        return torch.stack(torch.meshgrid(self.row_latitudes(), lon, indexing="ij"), dim=-1)
