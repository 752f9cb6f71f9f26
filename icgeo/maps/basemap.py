"""Land and borders under the ink, from the Natural Earth shapes in the package.

Conventions: shapes are in EPSG:4326; `icgeo/assets/basemap.parquet` has the columns kind ("land",
"borders") and geometry, and is made by `scripts/make_basemap.py`.
"""

from dataclasses import replace
from functools import lru_cache
from importlib.resources import as_file, files
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from icgeo.maps.style import MERCATOR_LATITUDE, MapStyle

if TYPE_CHECKING:
    import geopandas

SEA = (0.68, 0.80, 0.90)
LAND = (0.93, 0.92, 0.86)
BORDER = (0.60, 0.60, 0.60)
_FINER = 4
"""Shapes are drawn this many times finer than the pixels, then averaged."""


@lru_cache(maxsize=1)
def basemap() -> "geopandas.GeoDataFrame":
    """Load the shapes of land and borders; cached, do not write to it."""
    import geopandas

    with as_file(files("icgeo") / "assets" / "basemap.parquet") as path:
        return geopandas.read_parquet(path)


def base_image(style: MapStyle) -> Float[Tensor, "3 height width"]:
    """Draw what lies under the ink; cached, do not write to it."""
    return _base_image(replace(style, spread_deg=(1.0,), colour=(1.0, 1.0, 1.0)))


@lru_cache(maxsize=16)
def _base_image(style: MapStyle) -> Float[Tensor, "3 height width"]:
    if style.base == "blank":
        return torch.zeros(3, style.height, style.width)
    land, lines = (_coverage(style, kind)[..., None] for kind in ("land", "borders"))
    image = torch.tensor(SEA).lerp(torch.tensor(LAND), land)
    return rearrange(image.lerp(torch.tensor(BORDER), lines), "h w c -> c h w").contiguous()


def _coverage(style: MapStyle, kind: str) -> Float[Tensor, "height width"]:
    """Share of each pixel that the shapes of a kind cover."""
    from PIL import Image, ImageDraw

    canvas = Image.new("L", (_FINER * style.width, _FINER * style.height))
    pen = ImageDraw.Draw(canvas)
    frame = basemap()
    for shape in frame.geometry[frame["kind"] == kind]:
        for turn in (-360, 0, 360):
            if kind == "borders":
                pen.line(_outline(shape, style, turn), fill=255, width=_FINER // 2)
                continue
            pen.polygon(_outline(shape.exterior, style, turn), fill=255)
            for hole in shape.interiors:
                pen.polygon(_outline(hole, style, turn), fill=0)
    covered = np.asarray(canvas.reduce(_FINER), dtype=np.float32)
    return torch.from_numpy(covered / 255)


def _outline(line: Any, style: MapStyle, turn: int) -> list[tuple[float, float]]:
    """Corners as (column, row) on the finer canvas, turned by whole circles."""
    lon, lat = torch.from_numpy(np.array(line.coords)).unbind(-1)
    if style.projection == "web_mercator":
        lat = lat.clamp(-MERCATOR_LATITUDE, MERCATOR_LATITUDE)
    column = (lon + turn - style.extent[0]) / style.pixel_deg
    corners = _FINER * torch.stack((column, style.rows_of(lat)), dim=-1) - 0.5
    return [(x, y) for x, y in corners.tolist()]
