"""Land and borders under the heatmap, from the Natural Earth shapes in the package.

Conventions: shapes are in EPSG:4326; `icgeo/assets/basemap.parquet` has the columns kind ("land",
"borders") and geometry, and is made by `scripts/assets/basemap.py`.
"""

from dataclasses import replace
from functools import lru_cache
from importlib.resources import as_file, files
from itertools import product
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
    """Draw what lies under the heatmap; cached, do not write to it."""
    return _base_image(replace(style, sigma_deg=(1.0,), colour=(1.0, 1.0, 1.0)))


@lru_cache(maxsize=16)
def _base_image(style: MapStyle) -> Float[Tensor, "3 height width"]:
    if style.base == "blank":
        return torch.zeros(3, style.height, style.width)
    land, borders = (_coverage(style, kind)[..., None] for kind in ("land", "borders"))
    image = torch.tensor(SEA).lerp(torch.tensor(LAND), land)
    return rearrange(image.lerp(torch.tensor(BORDER), borders), "h w c -> c h w").contiguous()


def _coverage(style: MapStyle, kind: str) -> Float[Tensor, "height width"]:
    """Share of each pixel that the shapes of a kind cover."""
    import shapely
    from PIL import Image, ImageDraw

    canvas = Image.new("L", (_FINER * style.width, _FINER * style.height))
    pen = ImageDraw.Draw(canvas)
    lines, fills = _lines(kind)
    coordinates, line = shapely.get_coordinates(lines, return_index=True)
    lon, lat = torch.from_numpy(coordinates).unbind(-1)
    if style.projection == "web_mercator":
        lat = lat.clamp(-MERCATOR_LATITUDE, MERCATOR_LATITUDE)
    column = (lon - style.extent[0]) / style.pixel_deg
    corners = _FINER * torch.stack((column, style.rows_of(lat)), dim=-1) - 0.5
    parts = np.split(corners.numpy(), np.flatnonzero(np.diff(line)) + 1)
    around = _FINER * 360 / style.pixel_deg
    for (part, fill), turn in product(zip(parts, fills, strict=True), (-around, 0.0, around)):
        points = part + np.array([turn, 0.0])
        if points[:, 0].max() < 0 or points[:, 0].min() > canvas.width:
            continue
        if kind == "borders":
            pen.line(points.flatten().tolist(), fill=fill, width=_FINER // 2)
        else:
            pen.polygon(points.flatten().tolist(), fill=fill)
    return torch.from_numpy(np.asarray(canvas.reduce(_FINER), dtype=np.float32) / 255)


@lru_cache(maxsize=2)
def _lines(kind: str) -> tuple[Any, list[int]]:
    """Lines to draw, and what to fill them with: land 255, lakes in it 0, islands in them 255."""
    import shapely

    shapes = basemap().query("kind == @kind").geometry.to_numpy()
    if kind == "borders":
        return shapes, [255] * len(shapes)
    rings = shapely.get_rings(shapes)
    is_hole = np.concatenate([[0] + [1] * n for n in shapely.get_num_interior_rings(shapes)])
    largest_first = np.argsort(-shapely.area(shapely.polygons(rings)))
    return rings[largest_first], [255 * (1 - hole) for hole in is_hole[largest_first].tolist()]
