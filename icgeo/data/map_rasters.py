"""Maps in files of GDAL, such as GeoTIFF: any extent and CRS, read by windows, never whole.

Conventions: values of 8 bits are colours as they are. All others (16 bits, floats) are scaled, the
bands together, so that their 2nd and 98th percentile over the map become 0 and 255. One band is
grey, or coloured by its palette; of more, those that say so are red, green and blue, or the first
three. Places are those of WGS84, or of the CRS's own body where that is not the Earth; degrees of
other datums of the Earth are taken for those of WGS84, some 200 m away at most.
"""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional

from icgeo.config import UsageError, one_line, require
from icgeo.data.map_pictures import Bounds, Box, Picture, level_size
from icgeo.sphere import wrap_longitude

BandValues = tuple[np.ndarray, Bool[np.ndarray, "h w"]]
"""Values [bands, height, width], and where there are any."""

DRIVERS = {".tif": "GTiff", ".tiff": "GTiff", ".jp2": "JP2OpenJPEG", ".img": "HFA"}
"""Of GDAL by the end of a name; others, as that of VRT, may open further files or fetch some."""
OVERVIEW_SIDE = 2048
"""Longer side in pixels of the levels that are kept in memory; finer ones are read by windows."""
STRIP_ROWS = 64
CACHE_MEGABYTES = 64
"""Of GDAL, which takes a share of the machine's memory otherwise."""
PERCENTILES = (2.0, 98.0)
EARTH_RADIUS_M = 6_378_137.0
LATTICE = 33
"""Rows and columns of places from which bounds are told."""


@dataclass(frozen=True)
class Bands:
    """Which bands are shown, and how their values become 8 bits."""

    indexes: tuple[int, ...]
    low: float = 0.0
    high: float = 255.0
    palette: UInt8[np.ndarray, "256 3"] | None = None

    def to_colours(self, values: np.ndarray) -> UInt8[Tensor, "3 h w"]:
        """Turn values [bands, height, width] into colours."""
        if self.palette is not None:
            return rearrange(torch.from_numpy(self.palette[values[0]]), "h w c -> c h w")
        numbers = torch.from_numpy(np.nan_to_num(values.astype(np.float32)))
        scaled_values = (
            ((numbers - self.low) * (255 / (self.high - self.low))).round().clamp(0, 255)
        )
        colours = scaled_values.to(torch.uint8)
        return repeat(colours[0], "h w -> 3 h w") if len(colours) == 1 else colours


@dataclass(frozen=True, eq=False)
class RasterGrid:
    """The levels of a raster file: coarse ones in memory, the others in the file."""

    path: Path
    size: tuple[int, int]
    to_map: Any
    """Transformer of pyproj from longitude and latitude to the CRS; None for degrees."""
    affine: tuple[float, float, float, float, float, float]
    """Pixels to the CRS: x = a column + b row + c, y = d column + e row + f."""
    bands: Bands
    _cache: dict[int, Picture] = field(default_factory=dict, init=False, repr=False)
    """Levels in memory."""

    @property
    def levels(self) -> int:
        """Number of levels."""
        return 1 + max(0, round(math.log2(min(self.size) / 32)))

    @cached_property
    def lattice(self) -> Float[Tensor, "places 2"]:
        """Places (latitude, longitude) all over the map; longitudes go on from its middle."""
        steps = torch.linspace(0, 1, LATTICE, dtype=torch.float64)
        column, row = (
            side.flatten()
            for side in torch.meshgrid(steps * self.size[0], steps * self.size[1], indexing="xy")
        )
        a, b, c, d, e, f = self.affine
        x, y = a * column + b * row + c, d * column + e * row + f
        if self.to_map is not None:
            lon, lat = self.to_map.transform(x.numpy(), y.numpy(), direction="INVERSE")
            x, y = torch.from_numpy(lon), torch.from_numpy(lat)
            middle = x[len(x) // 2]
            x = middle + wrap_longitude(x - middle)
        places = torch.stack((y, x), dim=-1)
        places = places[places.isfinite().all(-1)]
        if not len(places) or places[:, 0].abs().max() > 90.01 or places[:, 1].abs().max() > 720:
            raise UsageError(
                f"expected places on the globe in {self.path.name}, got none by its CRS and "
                "transform; is its CRS wrong? gdal_edit.py -a_srs sets another"
            )
        return places

    @cached_property
    def middle(self) -> tuple[float, float]:
        """A place in its middle: latitude, longitude."""
        lat, lon = self.lattice[len(self.lattice) // 2].tolist()
        return lat, lon

    @cached_property
    def is_round(self) -> bool:
        """Whether its last column touches its first, all around the planet."""
        a, b, c, d, _, _ = self.affine
        width, x = self.size[0], torch.tensor([c, c + a * self.size[0]], dtype=torch.float64)
        if b or d:
            return False
        if self.to_map is not None:
            edges = self.to_map.transform([-180 + 1e-9, 180 - 1e-9], [0.0, 0.0])[0]
            return bool((torch.tensor(edges) - x).abs().max() < abs(a) / 2)
        return abs(abs(a) * width - 360) < abs(a) / 2

    @cached_property
    def bounds(self) -> Bounds | None:
        """South, west, north, east in degrees; None is the whole sphere."""
        lat, lon = self.lattice.unbind(-1)
        south, north = max(float(lat.min()), -90.0), min(float(lat.max()), 90.0)
        west, east = float(lon.min()), float(lon.max())
        for pole in (-90.0, 90.0) if self.to_map is not None else ():
            spot = torch.tensor([[pole, 0.0]], dtype=torch.float64)
            column, row = self._to_pixels(spot)[0].tolist()
            if 0 < column < self.size[0] and 0 < row < self.size[1]:
                south, north = min(south, pole), max(north, pole)
                west, east = -180.0, 180.0
        if self.is_round or east - west >= 360 - 1e-6:
            west, east = -180.0, 180.0
            if south <= -90 + 1e-6 and north >= 90 - 1e-6:
                return None
        edges = wrap_longitude(torch.tensor([west, east], dtype=torch.float64)).tolist()
        return south, edges[0], north, edges[1] if east != 180.0 else 180.0

    def to_pixels(self, lat_lon: Float[Tensor, "places 2"]) -> Float[Tensor, "places 2"]:
        """Return column and row at the finest level, NaN outside of the bounds.

        Far from where a projection is made for, it puts places of elsewhere on the map.
        """
        pixels = self._to_pixels(lat_lon)
        if self.bounds is None:
            return pixels
        south, west, north, east = self.bounds
        lat, lon = lat_lon.unbind(-1)
        margin = 0.02 * (north - south)
        width = (east - west) % 360 or 360.0
        inside = (lat > south - margin) & (lat < north + margin)
        inside &= (lon - west + margin) % 360 < width + 2 * margin
        return torch.where(inside[:, None] | self.is_round, pixels, torch.nan)

    def _to_pixels(self, lat_lon: Float[Tensor, "places 2"]) -> Float[Tensor, "places 2"]:
        y, x = lat_lon.unbind(-1)
        a, b, c, d, e, f = self.affine
        if self.to_map is None:
            middle = a * self.size[0] / 2 + b * self.size[1] / 2 + c
            x = middle + wrap_longitude(x - middle)
        else:
            places = self.to_map.transform(x.numpy(), y.numpy())
            x, y = (torch.from_numpy(np.where(np.isfinite(v), v, np.nan)) for v in places)
        x, y = x - c, y - f
        determinant = a * e - b * d
        return torch.stack((e * x - b * y, a * y - d * x), dim=-1) / determinant

    def read(self, level: int, box: Box) -> Picture:
        """BandValues the pixels of a box inside a level."""
        (width, height), (left, top, right, bottom) = level_size(self.size, level), box
        if max(width, height) <= OVERVIEW_SIDE:
            image, mask = self._coarse(level)
            return image[:, top:bottom, left:right], mask[top:bottom, left:right]
        across, down = self.size[0] / width, self.size[1] / height
        area = (left * across, top * down, right * across, bottom * down)
        with opened(self.path) as raster:
            values, data_mask = read_window(raster, self.bands, area, (bottom - top, right - left))
        return self.bands.to_colours(values), torch.from_numpy(data_mask)

    def _coarse(self, level: int) -> Picture:
        """Return a level that is kept in memory, whole; it is made of the next finer one."""
        if level in self._cache:
            return self._cache[level]
        width, height = level_size(self.size, level)
        if level == 0 or max(level_size(self.size, level - 1)) > OVERVIEW_SIDE:
            with opened(self.path) as raster:
                values, data_mask = read_strips(raster, self.bands, (height, width))
            self._cache[level] = self.bands.to_colours(values), torch.from_numpy(data_mask)
        else:
            image, mask = self._coarse(level - 1)
            channels = torch.cat((image * mask, mask[None].to(torch.uint8))).float()
            mean = functional.adaptive_avg_pool2d(channels[None], (height, width))[0]
            colours = (mean[:3] / mean[3].clamp_min(1e-6)).round().to(torch.uint8)
            self._cache[level] = colours, mean[3] >= 0.5
        return self._cache[level]


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a raster; anew each time, for none can be shared by threads.

    Raises:
        UsageError: GDAL cannot read it.
    """
    rasterio = require("rasterio", "a map in GeoTIFF", "map")
    try:
        with (
            rasterio.Env(GDAL_CACHEMAX=CACHE_MEGABYTES, GDAL_PAM_ENABLED="NO"),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            with rasterio.open(path, driver=DRIVERS[path.suffix.lower()]) as raster:
                yield raster
    except rasterio.errors.RasterioError as error:
        raise UsageError(
            f"expected a map that GDAL reads in {path}, got {one_line(error)}; fetch it again, or "
            "save it as GeoTIFF"
        ) from error


def read_window(
    raster: Any, bands: Bands, area: tuple[float, float, float, float], shape: tuple[int, int]
) -> BandValues:
    """BandValues an area (left, top, right, bottom in pixels) at a size, and where it has data.

    Pixels are means of what they cover, from the overviews of the file where it has some.
    """
    from rasterio.enums import Resampling
    from rasterio.windows import Window as Area

    left, top, right, bottom = area
    window = Area(left, top, right - left, bottom - top)
    resampling = Resampling.nearest if bands.palette is not None else Resampling.average
    values = raster.read(
        list(bands.indexes),
        window=window,
        out_shape=(len(bands.indexes), *shape),
        resampling=resampling,
    )
    data_mask = (
        raster.dataset_mask(window=window, out_shape=shape, resampling=Resampling.nearest) > 0
    )
    return values, data_mask & np.isfinite(values).all(0)


def read_strips(raster: Any, bands: Bands, shape: tuple[int, int]) -> BandValues:
    """BandValues a whole raster at a size, some rows at a time, so that memory stays small."""
    height, width = shape
    down = raster.height / height
    strips = []
    for top in range(0, height, STRIP_ROWS):
        bottom = min(top + STRIP_ROWS, height)
        area = (0.0, top * down, float(raster.width), bottom * down)
        strips.append(read_window(raster, bands, area, (bottom - top, width)))
    values, data_masks = zip(*strips, strict=True)
    return np.concatenate(values, axis=1), np.concatenate(data_masks)


def _choose_bands(raster: Any) -> Bands:
    """Decide which bands are colours, and how values become 8 bits."""
    by_name = {one.name: number for number, one in enumerate(raster.colorinterp, start=1)}
    if "palette" in by_name and raster.dtypes[by_name["palette"] - 1] == "uint8":
        number = by_name["palette"]
        colours = raster.colormap(number)
        palette = np.array([colours.get(value, (0, 0, 0))[:3] for value in range(256)], np.uint8)
        return Bands((number,), palette=palette)
    rgb = tuple(by_name[name] for name in ("red", "green", "blue") if name in by_name)
    band_numbers = [n for n, one in enumerate(raster.colorinterp, start=1) if one.name != "alpha"]
    if not band_numbers:
        raise UsageError(f"expected bands of colours in {raster.name}, got alpha alone")
    indexes = (
        rgb
        if len(rgb) == 3
        else tuple(band_numbers[:3] if len(band_numbers) >= 3 else band_numbers[:1])
    )
    kinds = {raster.dtypes[number - 1] for number in indexes}
    if any(kind.startswith("complex") for kind in kinds):
        raise UsageError(f"expected real numbers in {raster.name}, got {sorted(kinds)}")
    if kinds == {"uint8"}:
        return Bands(indexes)
    scale = min(1.0, 512 / max(raster.width, raster.height))
    shape = max(1, round(raster.height * scale)), max(1, round(raster.width * scale))
    values, data_mask = read_strips(raster, Bands(indexes), shape)
    if not data_mask.any():
        raise UsageError(f"expected a map with data in {raster.name}, got nothing but nodata")
    low, high = np.percentile(values[:, data_mask].astype(float), PERCENTILES).tolist()
    return Bands(indexes, low, high if high > low else low + 1)


def _reference(raster: Any) -> tuple[Any, tuple[float, ...]]:
    """Return the transformer from degrees to the CRS, None for degrees, and the affine."""
    from pyproj import CRS, Transformer
    from pyproj.exceptions import CRSError

    name = Path(raster.name).name
    if raster.crs is None or raster.transform.is_identity:
        problem = "no CRS" if raster.crs is None else "no place of its pixels"
        raise UsageError(
            f"expected a georeferenced map, got {problem} in {name}; set it (gdal_edit.py -a_srs "
            "EPSG:4326 -a_ullr west north east south), or save a picture of a whole planet as PNG"
        )
    try:
        crs = CRS.from_wkt(raster.crs.to_wkt())
        geodetic = crs.geodetic_crs
        if geodetic is None:
            raise CRSError(f"{crs.name} is not tied to a planet")
        is_earth = abs(crs.ellipsoid.semi_major_metre / EARTH_RADIUS_M - 1) < 0.01  # type: ignore[union-attr]
        transformer = None
        if not (crs.is_geographic and crs.axis_info[0].unit_name.startswith("degree")):
            planet = CRS.from_epsg(4326) if is_earth else geodetic
            transformer = Transformer.from_crs(planet, crs, always_xy=True)
    except CRSError as error:
        raise UsageError(
            f"expected a CRS of a planet in {name}, got {one_line(error)}; gdalwarp -t_srs "
            "EPSG:4326 makes one"
        ) from error
    affine = tuple(raster.transform)[:6]
    a, b, c, d, e, f = affine
    ends = (0, 0), (raster.width, raster.height)
    corners = [(a * x + b * y + c, d * x + e * y + f) for x, y in ends]
    looks_like_degrees = all(abs(x) <= 360 and abs(y) <= 90 for x, y in corners)
    if transformer is not None and crs.is_projected and looks_like_degrees:
        raise UsageError(
            f"expected coordinates in metres of {crs.name} in {name}, got what looks like degrees "
            f"({corners[0]} to {corners[1]}); is its CRS wrong? gdal_edit.py -a_srs EPSG:4326"
        )
    return transformer, affine


def open_raster(path: Path) -> tuple[str, str, RasterGrid]:
    """Open a raster file: its name, its fingerprint, and its pixels.

    Raises:
        UsageError: rasterio is missing; GDAL cannot read it; no CRS, a wrong one, no data.
    """
    with opened(path) as raster:
        transformer, affine = _reference(raster)
        bands = _choose_bands(raster)
        size = raster.width, raster.height
    grid = RasterGrid(path, size, transformer, affine, bands)  # type: ignore[arg-type]
    _ = grid.lattice  # a wrong CRS is told now
    return path.stem, file_fingerprint(path), grid


def file_fingerprint(path: Path, *, with_time: bool = True) -> str:
    """Return a key of a file that may be too large to read: size, time, its beginning and end.

    Without the time a copy of the file has the same key.
    """
    state = path.stat()
    time = f" {state.st_mtime_ns}" if with_time else ""
    digest = blake2b(f"{state.st_size}{time}".encode(), digest_size=16)
    with path.open("rb") as stream:
        digest.update(stream.read(2**16))
        stream.seek(max(0, state.st_size - 2**16))
        digest.update(stream.read())
    return digest.hexdigest()
