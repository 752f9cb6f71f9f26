"""Base maps: imagery of a planet, or of a part of it, from which views are cut.

Conventions: pixels of a map are (column, row) from its upper left corner, the centre of the first
pixel at 0.5, 0.5; each level has pixels twice as wide as the one before, and level 0 the finest.
"""

import math
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional

from icgeo import sphere
from icgeo.config import UsageError
from icgeo.data.map_pictures import Bounds, Box, Picture, PictureGrid, level_size, open_picture
from icgeo.data.map_rasters import DRIVERS, RasterGrid, open_raster
from icgeo.data.map_tiles import KINDS, TileGrid, open_tiles
from icgeo.data.orbit import REAL_WORLDS, to_uint8, view_directions
from icgeo.data.photos import why_missing

SUBPIXELS = 2
"""A pixel of a view is the mean of so many places in each direction."""
STEP_DEG = 1e-4

Grid = PictureGrid | RasterGrid | TileGrid
"""The pixels of a map, at levels."""


@dataclass(frozen=True, eq=False)
class BaseMap:
    """Imagery of a planet, or of a part of it; every view reads what it shows and no more."""

    name: str
    fingerprint: str
    """Key of its content, for caches; of an empty one nothing is kept on disk."""
    grid: Grid
    cache: Path | None = None
    """Folder in which what is computed of it is kept; None is that of all maps."""

    @property
    def bounds(self) -> Bounds | None:
        """South, west, north, east in degrees; None is the whole sphere."""
        return self.grid.bounds

    @cached_property
    def resolution_deg(self) -> float:
        """Side of a pixel of its finest level, in degrees at its middle."""
        lat, lon = self.grid.middle
        lat = max(-89.9, min(89.9, lat))  # at a pole there is no longitude to step along
        steps = torch.tensor([-STEP_DEG / 2, STEP_DEG / 2], dtype=torch.float64)
        # longitudes of a square on the ground
        grid = torch.meshgrid(lat - steps, lon + steps / math.cos(math.radians(lat)), indexing="ij")
        return STEP_DEG / self._pixels_a_step(self._to_pixels(torch.stack(grid, dim=-1)))

    def views(
        self,
        centres: Float[Tensor, "views 2"],
        field_of_view_deg: Float[Tensor, " views"],
        heading_deg: Float[Tensor, " views"],
        *,
        size: int,
    ) -> tuple[UInt8[Tensor, "views 3 size size"], Bool[Tensor, "views size size"]]:
        """Cut gnomonic views around (latitude, longitude); the mask says where the map has data.

        Each is cut from the level whose pixels are as large as its own. Headings are compass
        directions of the upper edge; what has no data is black.
        """
        images = torch.zeros(len(centres), 3, size, size, dtype=torch.uint8)
        masks = torch.zeros(len(centres), size, size, dtype=torch.bool)
        xyz = sphere.to_xyz(centres.double())
        for number, (centre, field, heading) in enumerate(
            zip(xyz, field_of_view_deg.double(), heading_deg.double(), strict=True)
        ):
            directions = view_directions(centre, field, size=SUBPIXELS * size, heading_deg=heading)
            colours, weights = self._sample(sphere.to_lat_lon(directions))
            means = functional.avg_pool2d(torch.cat((colours, weights[None])), SUBPIXELS)
            images[number], masks[number] = _settled(means[:3], means[3])
        return images, masks

    def window(self, lat_lon: Float[Tensor, "rows columns 2"]) -> Picture:
        """Return the map at a grid of places, as `MapStyle.pixel_lat_lon` gives them."""
        return _settled(*self._sample(lat_lon.double()))

    def _to_pixels(self, lat_lon: Float[Tensor, "rows columns 2"]) -> Tensor:
        """Return columns and rows, NaN outside; columns go on where the map goes around."""
        flat_pixels = self.grid.to_pixels(rearrange(lat_lon, "h w c -> (h w) c"))
        pixels = rearrange(flat_pixels, "(h w) c -> h w c", h=len(lat_lon))
        size = pixels.new_tensor(self.grid.size)
        inside = ((pixels >= 0) & (pixels <= size)).all(-1, keepdim=True)
        pixels = torch.where(inside, pixels, torch.nan)
        if self.grid.is_round and inside.any():
            column, width = pixels[..., 0], size[0]
            finite_columns = column[column.isfinite()].view(-1)
            reference = finite_columns[len(finite_columns) // 2]
            around = (column - reference + width / 2) % width - width / 2
            pixels = torch.stack((reference + around, pixels[..., 1]), dim=-1)
        return pixels

    @staticmethod
    def _pixels_a_step(pixels: Float[Tensor, "rows columns 2"]) -> float:
        """Return how many pixels one step of a grid of places passes, in the median."""
        right = pixels[:-1, 1:] - pixels[:-1, :-1]
        down = pixels[1:, :-1] - pixels[:-1, :-1]
        area = (right[..., 0] * down[..., 1] - right[..., 1] * down[..., 0]).abs()
        return float(area.nanmedian().sqrt())

    def _sample(
        self, lat_lon: Float[Tensor, "rows columns 2"]
    ) -> tuple[Float[Tensor, "3 rows columns"], Float[Tensor, "rows columns"]]:
        """Return colours in [0, 255] times how much of them there is in [0, 1], and that."""
        shape = lat_lon.shape[:2]
        pixels = self._to_pixels(lat_lon)
        inside = pixels.isfinite().all(-1)
        if not inside.any():
            return torch.zeros(3, *shape), torch.zeros(shape)
        step = self._pixels_a_step(pixels)
        is_finest = math.isnan(step) or step <= 1
        level = 0 if is_finest else min(round(math.log2(step)), self.grid.levels - 1)
        width, height = level_size(self.grid.size, level)
        place = pixels * pixels.new_tensor([width, height]) / pixels.new_tensor(self.grid.size)
        points = place[inside]
        left, top = (points.amin(0).floor().int() - 1).tolist()
        right, bottom = (points.amax(0).ceil().int() + 1).tolist()
        top, bottom = max(top, 0), min(bottom, height)
        if not self.grid.is_round:
            left, right = max(left, 0), min(right, width)
        image, mask = self._read(level, (left, top, right, bottom), width)
        colours = torch.cat((image * mask, mask[None].to(torch.uint8)))[None].float()
        corner, span = place.new_tensor([left, top]), place.new_tensor([right - left, bottom - top])
        grid = torch.where(inside[..., None], (place - corner) / span * 2 - 1, 0)[None].float()
        samples = functional.grid_sample(colours, grid, padding_mode="border", align_corners=False)
        samples = samples[0] * inside
        return samples[:3], samples[3]

    def _read(self, level: int, box: Box, width: int) -> Picture:
        """Read a box that may reach over the seam of a round map."""
        left, top, right, bottom = box
        pieces = []
        while left < right:
            start = left % width
            end = min(start + right - left, width)
            pieces.append(self.grid.read(level, (start, top, end, bottom)))
            left += end - start
        images, masks = zip(*pieces, strict=True)
        return torch.cat(images, dim=-1), torch.cat(masks, dim=-1)


def _settled(colours: Float[Tensor, "3 h w"], weights: Float[Tensor, "h w"]) -> Picture:
    """Return colours of 8 bits, black where less than half of a pixel is known."""
    mask = weights >= 0.5
    colours = torch.where(mask, colours / weights.clamp_min(1e-6) / 255, 0)
    return to_uint8(colours), mask


MapSource = str | Path | BaseMap | Float[Tensor, "3 height width"]
"""What `open_map` opens."""


def open_map(source: MapSource) -> BaseMap:
    """Open a map: a picture of a whole planet, a GeoTIFF, an archive or a folder of tiles.

    Args:
        source: a name in `orbit.REAL_WORLDS` ("blue-marble"); a file: a picture of a whole planet,
            twice as wide as high and north up, GeoTIFF (.tif) or another raster that GDAL reads,
            with a CRS, .pmtiles or .mbtiles of pictures; a folder of tiles z/x/y; a world
            [3, height, width] in [0, 1]; or a map that is open, which is returned.

    Raises:
        UsageError: no such file, no planet, no CRS or a wrong one, tiles of no pictures; or a
            package is missing.
        PhotoError: a picture that cannot be read.
    """
    if isinstance(source, BaseMap):
        return source
    if isinstance(source, Tensor) or str(source) in REAL_WORLDS:
        return BaseMap(*open_picture(source))
    if not isinstance(source, str | Path):
        raise UsageError(
            f"expected a name, a path or a tensor [3, height, width] as a map, got a "
            f"{type(source).__name__}; save the picture to a file, or make a tensor in [0, 1] of it"
        )
    path, suffix = Path(source), Path(source).suffix.lower()
    if re.match(r"[a-z]{2,}:/", str(source), re.IGNORECASE) or not path.exists():
        raise UsageError(
            f"expected a map of {sorted(REAL_WORLDS)}, or a file or a folder of one, found no "
            f"{str(source)!r}; {why_missing(source)}"
        )
    if path.is_dir() or suffix in KINDS:
        return BaseMap(*open_tiles(path))
    return BaseMap(*(open_raster if suffix in DRIVERS else open_picture)(path))
