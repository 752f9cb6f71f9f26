"""Views cut from a map on an even grid: examples that nobody had to collect.

Conventions: views are north-up and square; what the map does not show is black. A view that the map
fills by less than half is left out.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from astropy import units
from einops import rearrange
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from icgeo import sphere
from icgeo.config import UsageError
from icgeo.data.base_maps import BaseMap
from icgeo.data.map_cache import kept
from icgeo.data.map_pictures import Bounds
from icgeo.prediction import Example
from icgeo.sphere.healpix import cell_lat_lon, cell_side, grid

FIELD_OF_VIEW_DEG = 40.0
"""Of views of a whole planet."""
OVERLAP = 0.37
"""Distance of two views, as a share of their field of view, at most."""
SHARE_OF_REGION = 1 / 3
"""Field of view of views of a region, as a share of its longer side."""
LEAST_SHOWN = 0.5
"""Share of a view that the map fills, at least."""
VERSION = 1
"""Of the way in which views are cut: another one makes those on disk anew."""
SAME = 1e-2
"""Difference of two descriptors of the same view, computed twice, at most."""


@dataclass(frozen=True, eq=False)
class MapViews:
    """Views of a map, and where they lie."""

    images: UInt8[Tensor, "views 3 size size"]
    masks: Bool[Tensor, "views size size"]
    """Where the map has data."""
    lat_lon: Float[Tensor, "views 2"]
    field_of_view_deg: float
    base_map: BaseMap

    def examples(self) -> list[Example]:
        """Return the views as photos whose places are known."""
        photos = rearrange(self.images, "n c h w -> n h w c").numpy()
        places = self.lat_lon.tolist()
        return [Example(photo, *place) for photo, place in zip(photos, places, strict=True)]

    def described(
        self,
        encoder: str,
        describe: Callable[[UInt8[Tensor, "views 3 size size"]], Float[Tensor, "views *_"]],
    ) -> Float[Tensor, "views *_"]:
        """Return descriptors of the views, from disk where they were computed before.

        `encoder` names what describes; the first view is described again, to see whether it is
        still the same.
        """
        size = self.images.shape[-1]
        for _ in range(2):
            key = (*_key(self.field_of_view_deg, size), encoder)
            tensors = kept(self.base_map, key, lambda: {"vectors": describe(self.images)})
            vectors = tensors["vectors"]
            descriptor = describe(self.images[:1])
            if (
                vectors.shape[1:] == descriptor.shape[1:]
                and (vectors[:1] - descriptor).abs().max() < SAME
            ):
                break
            encoder = f"{encoder}, {descriptor.flatten()[:8].tolist()}"
        return vectors


def even_grid(bounds: Bounds | None, spacing_deg: float) -> Float[Tensor, "views 2"]:
    """Return centres at most so far apart, evenly over the sphere or inside of bounds.

    They are those of HEALPix cells (Gorski et al. 2005), of the coarsest grid that is fine enough.
    """
    nside = 2 ** max(0, math.ceil(math.log2(cell_side(1) / math.radians(spacing_deg)) - 1e-9))
    if bounds is None:
        return cell_lat_lon(torch.arange(12 * nside**2), nside)
    south, west, north, east = bounds
    width = (east - west) % 360 or 360.0
    edge = torch.tensor([south, north], dtype=torch.float64)
    around = torch.linspace(west, west + width, 65, dtype=torch.float64)
    middle = torch.tensor([(south + north) / 2, west + width / 2], dtype=torch.float64)
    corners = sphere.to_xyz(torch.cartesian_prod(edge, around))
    reach = sphere.angle(sphere.to_xyz(middle), corners).max()
    lat, lon = middle.numpy() * units.deg
    radius = min(math.degrees(reach) * 1.1, 180) * units.deg
    cells = grid(nside).cone_search_lonlat(lon, lat, radius)
    lat_lon = cell_lat_lon(torch.from_numpy(np.sort(cells)), nside)
    lat, lon = lat_lon.unbind(-1)
    inside = (lat >= south) & (lat <= north) & ((lon - west) % 360 <= width)
    return lat_lon[inside] if inside.any() else sphere.as_lat_lon(middle)[None]


def suited_field_of_view(base_map: BaseMap, size: int) -> float:
    """Return the field of view in degrees of the views that are cut from all of a map.

    40 degrees of a planet, a third of the longer side of a region; no finer than twice its pixels.
    """
    if base_map.bounds is None:
        return FIELD_OF_VIEW_DEG
    south, west, north, east = base_map.bounds
    latitude = max(0.0, min(abs(south), abs(north))) if south * north > 0 else 0.0
    width = ((east - west) % 360 or 360.0) * math.cos(math.radians(latitude))
    field = max(SHARE_OF_REGION * max(north - south, width), base_map.resolution_deg * size / 2)
    return min(FIELD_OF_VIEW_DEG, field)


def map_views(base_map: BaseMap, *, size: int, field_of_view_deg: float | None = None) -> MapViews:
    """Cut north-up views of `size` pixels from all of a map, overlapping, or find them on disk.

    Raises:
        UsageError: the map has no data anywhere.
    """
    field = field_of_view_deg or suited_field_of_view(base_map, size)

    def cut() -> dict[str, Tensor]:
        centres = even_grid(base_map.bounds, OVERLAP * field)
        ones = torch.ones(len(centres), dtype=torch.float64)
        images, masks = base_map.views(centres, field * ones, 0 * ones, size=size)
        coverage = masks.double().mean(dim=(1, 2))
        is_covered = coverage >= min(LEAST_SHOWN, float(coverage.max()))
        if not masks.any():
            raise UsageError(f"expected a map with data, got none in {base_map.name}")
        return {
            "images": images[is_covered],
            "masks": masks[is_covered],
            "lat_lon": centres[is_covered],
        }

    tensors = kept(base_map, _key(field, size), cut)
    return MapViews(**tensors, field_of_view_deg=field, base_map=base_map)


def _key(field_of_view_deg: float, size: int) -> tuple[object, ...]:
    """Tell views of a map apart."""
    return VERSION, field_of_view_deg, OVERLAP, size
