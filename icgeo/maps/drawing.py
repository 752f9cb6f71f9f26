"""Draw locations and densities on maps, over land and borders, or over imagery.

Conventions: a location is a von Mises-Fisher (vMF) kernel exp(kappa (cos d - 1)) of the distance d
in radians, taken at pixel centres; image = base (1 - kernel) + colour kernel, so that maps are
linear in the density and a mixture draws as the mixture of its maps. Land and borders are Natural
Earth's: `icgeo/assets/basemap.parquet`, made by `scripts/assets/basemap.py`, has the columns kind
("land", "borders") and geometry.
"""

from functools import lru_cache
from importlib.resources import as_file, files
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

from icgeo.data.base_maps import open_map
from icgeo.maps.style import MERCATOR_LATITUDE, MapStyle
from icgeo.sphere import Values, as_lat_lon, to_xyz
from icgeo.sphere.density import Density
from icgeo.sphere.healpix import cell_xyz

if TYPE_CHECKING:
    import geopandas

SEA = (0.68, 0.80, 0.90)
LAND = (0.93, 0.92, 0.86)
BORDER = (0.60, 0.60, 0.60)
UNKNOWN = 0.5
"""Grey, where imagery has no data."""
_FINER = 4
"""Shapes are drawn this many times finer than the pixels, then averaged."""


@lru_cache(maxsize=1)
def basemap() -> "geopandas.GeoDataFrame":
    """Load the shapes of land and borders; cached, do not write to it."""
    import geopandas

    with as_file(files("icgeo") / "assets" / "basemap.parquet") as path:
        return geopandas.read_parquet(path)


@lru_cache(maxsize=16)
def base_image(style: MapStyle) -> Float[Tensor, "3 height width"]:
    """Draw what lies under the heatmap; cached, do not write to it."""
    if style.base == "blank":
        return torch.zeros(3, style.height, style.width)
    if style.base != "land":
        picture, is_known = open_map(style.base).window(style.pixel_lat_lon())
        return torch.where(is_known, picture / 255, UNKNOWN)
    land, borders = (_coverage(style, kind)[..., None] for kind in ("land", "borders"))
    image = torch.tensor(SEA).lerp(torch.tensor(LAND), land)
    return rearrange(image.lerp(torch.tensor(BORDER), borders), "h w c -> c h w").contiguous()


def _coverage(style: MapStyle, kind: str) -> Float[Tensor, "height width"]:
    """Return the share of each pixel that the shapes of a kind cover."""
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
    period = _FINER * 360 / style.pixel_deg
    for (part, fill), turn in product(zip(parts, fills, strict=True), (-period, 0.0, period)):
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
    """Return lines to draw, and their fill: land 255, lakes in it 0, islands in them 255."""
    import shapely

    shapes = basemap().query("kind == @kind").geometry.to_numpy()
    if kind == "borders":
        return shapes, [255] * len(shapes)
    rings = shapely.get_rings(shapes)
    is_hole = np.concatenate([[0] + [1] * n for n in shapely.get_num_interior_rings(shapes)])
    largest_first = np.argsort(-shapely.area(shapely.polygons(rings)))
    return rings[largest_first], [255 * (1 - hole) for hole in is_hole[largest_first].tolist()]


@lru_cache(maxsize=16)
def contrast(style: MapStyle) -> Float[Tensor, "3 height width"]:
    """Colour of the heatmap less the base: how the image changes where the kernel is 1; cached."""
    change = torch.tensor(style.colour)[:, None, None] - base_image(style)
    strength = change.abs() if len(style.sigma_deg) == 3 else change.norm(dim=0)
    if strength.min() < 0.1:
        raise ValueError(
            f"expected a heatmap that stands out from the base, got colour {style.colour} in "
            f"{len(style.sigma_deg)} widths on base {style.base!r}; three widths need a blank base"
        )
    return change


@lru_cache(maxsize=16)
def _pixel_xyz(style: MapStyle) -> Float[Tensor, "3 pixels"]:
    return rearrange(to_xyz(style.pixel_lat_lon()), "h w xyz -> xyz (h w)").contiguous()


def _kernels(xyz: Float[Tensor, "*batch 3"], style: MapStyle) -> Float[Tensor, "*batch 3 pixels"]:
    """Return kernels around unit vectors, in [0, 1], float32."""
    # in float64 as far as the exponent: kappa is 50,000 for a sigma of a quarter degree
    fall = (xyz.double() @ _pixel_xyz(style).to(xyz.device) - 1).clamp_max(0)
    kernels = [torch.exp((kappa * fall).float()) for kappa in style.kappas]
    return torch.stack(kernels if len(kernels) == 3 else 3 * kernels, dim=-2)


def _blend(opacity: Float[Tensor, "*batch 3 pixels"], style: MapStyle) -> Tensor:
    """Lay a heatmap on the base."""
    opacity = rearrange(opacity, "... c (h w) -> ... c h w", h=style.height)
    return base_image(style).to(opacity) + contrast(style).to(opacity) * opacity


def draw(locations: Values, style: MapStyle) -> Float[Tensor, "*batch 3 height width"]:
    """Draw each location on its own map, float32 in [0, 1], on the device of the locations."""
    lat_lon = as_lat_lon(locations)
    if style.projection == "web_mercator" and (lat_lon[..., 0].abs() > MERCATOR_LATITUDE).any():
        raise ValueError(
            "expected latitudes within 85.05 degrees for Web Mercator, got "
            f"{lat_lon[..., 0].abs().max():g}; use equirectangular or equal_area"
        )
    return _blend(_kernels(to_xyz(lat_lon.double()), style), style)


def draw_density(density: Density, style: MapStyle) -> Float[Tensor, "3 height width"]:
    """Draw the mean map of locations that follow the density."""
    opacity = torch.zeros(3, style.height * style.width)
    for part in torch.split(density.mass.nonzero().squeeze(-1), 512):
        kernels = _kernels(cell_xyz(density.nside)[part], style)
        opacity += einsum(density.mass[part].float(), kernels, "cell, cell c pixel -> c pixel")
    return _blend(opacity, style)
