"""Maps in tiles of pictures in Web Mercator: PMTiles, MBTiles, or a folder z/x/y.

Conventions: a tile (zoom, x, y) counts from the north-west corner of the world; its level 0 is the
largest zoom there is. What is missing, transparent or beyond 85.05 degrees has no data.
"""

import json
import math
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from icgeo.config import UsageError, one_line, require
from icgeo.data.map_pictures import Bounds, Box, Picture
from icgeo.data.map_rasters import file_fingerprint

KINDS = {".pmtiles": "an archive of PMTiles, version 3,", ".mbtiles": "a database of MBTiles"}
TILES_KEPT = 128
"""Decoded, in memory: 32 MB of 256 pixels."""
MERCATOR_LATITUDE = 85.0511287798066
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".avif")


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Say in one line what is wrong with tiles: on damaged data their readers raise anything."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(
            f"expected {KINDS.get(path.suffix.lower(), 'a folder of tiles')} in {path}, got "
            f"{type(error).__name__}: {one_line(error)}; fetch it again"
        ) from error


@dataclass(frozen=True, eq=False)
class TileGrid:
    """The levels of tiles; below the least zoom they are made of its tiles."""

    path: Path
    zooms: tuple[int, int]
    """The least and the largest zoom."""
    bounds: Bounds
    side: int
    """Side of a tile in pixels."""
    content: Callable[[int, int, int], bytes | None]
    """Gives the picture file of a tile of a zoom, column and row, if it is there."""
    is_round: bool = True
    """It is a map of the whole world, with gaps."""

    @cached_property
    def _tile(self) -> Any:
        return lru_cache(maxsize=TILES_KEPT)(self._decode)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the finest level in pixels, of the whole world."""
        side = self.side * 2 ** self.zooms[1]
        return side, side

    @property
    def levels(self) -> int:
        """Number of levels."""
        min_zoom, max_zoom = self.zooms
        return 1 + max_zoom - min_zoom + int(math.log2(self.side))

    @property
    def middle(self) -> tuple[float, float]:
        """A place in its middle: latitude, longitude."""
        south, west, north, east = self.bounds
        return (south + north) / 2, west + ((east - west) % 360 or 360) / 2

    def to_pixels(self, lat_lon: Float[Tensor, "places 2"]) -> Float[Tensor, "places 2"]:
        """Return column and row at the finest level, NaN beyond the end of Web Mercator."""
        (size, _), (lat, lon) = self.size, lat_lon.unbind(-1)
        north = torch.atanh(torch.sin(torch.deg2rad(lat))) / math.pi
        row = torch.where(lat.abs() <= MERCATOR_LATITUDE, (1 - north) / 2 * size, torch.nan)
        return torch.stack(((lon + 180) / 360 * size, row), dim=-1)

    def read(self, level: int, box: Box) -> Picture:
        """Read the pixels of a box inside a level."""
        left, top, right, bottom = box
        min_zoom, max_zoom = self.zooms
        zoom = max(max_zoom - level, min_zoom)
        side = self.side >> (level - (max_zoom - zoom))
        pixels = np.zeros((bottom - top, right - left, 4), np.uint8)
        for x in range(left // side, -(-right // side)):
            for y in range(top // side, -(-bottom // side)):
                if (tile := self._tile(zoom, x, y, side)) is not None:
                    # where the tile lies in the box, cut off at its edges
                    row, column = y * side - top, x * side - left
                    part = tile[max(0, -row) :, max(0, -column) :]
                    place = pixels[max(0, row) :, max(0, column) :][: len(part), : part.shape[1]]
                    place[...] = part[: len(place), : place.shape[1]]
        mask = torch.from_numpy(pixels[..., 3] >= 128)
        return rearrange(torch.from_numpy(pixels[..., :3].copy()), "h w c -> c h w"), mask

    def _decode(
        self, zoom: int, x: int, y: int, side: int
    ) -> UInt8[np.ndarray, "side side 4"] | None:
        with _told(self.path):
            content = self.content(zoom, x, y)
        if content is None:
            return None
        tile = decode_tile(content, f"{zoom}/{x}/{y}")
        return np.array(tile.resize((side, side), Image.Resampling.BOX))


def open_pmtiles(path: Path) -> TileGrid:
    """Open an archive of one file (PMTiles, version 3), through the package pmtiles."""
    require("pmtiles", "a map in PMTiles", "map")
    from pmtiles.reader import Reader, all_tiles
    from pmtiles.tile import TileType

    def bytes_of(offset: int, length: int) -> bytes:
        with path.open("rb") as stream:
            stream.seek(offset)
            return stream.read(length)

    reader: Any = Reader(bytes_of)
    header, (_, tile) = reader.header(), next(all_tiles(bytes_of))
    if header["tile_type"] == TileType.MVT:
        raise UsageError(f"expected tiles of pictures in {path}, got vector tiles; render them")
    names = ("min_lat_e7", "min_lon_e7", "max_lat_e7", "max_lon_e7")
    south, west, north, east = (header[name] / 1e7 for name in names)
    zooms = header["min_zoom"], header["max_zoom"]
    return TileGrid(path, zooms, (south, west, north, east), tile_side(tile, path), reader.get)


def open_mbtiles(path: Path) -> TileGrid:
    """Open a database of SQLite (MBTiles 1.3), whose rows count from the south."""

    def first(query: str, *values: int) -> Any:
        address = f"{path.resolve().as_uri()}?mode=ro"
        with closing(sqlite3.connect(address, uri=True)) as database:
            return database.execute(query, values).fetchone()

    kind = first("select value from metadata where name = 'format'")
    min_zoom, max_zoom = first("select min(zoom_level), max(zoom_level) from tiles")
    if min_zoom is None:
        raise UsageError(f"expected tiles in {path}, got none; fetch it again")
    if kind == ("pbf",):
        raise UsageError(f"expected tiles of pictures in {path}, got vector tiles; render them")
    left, right, low, high = first(
        "select min(tile_column), max(tile_column), min(tile_row), max(tile_row) from tiles "
        "where zoom_level = ?",
        max_zoom,
    )
    bounds = tile_bounds(max_zoom, left, 2**max_zoom - 1 - high, right, 2**max_zoom - 1 - low)
    (tile,) = first("select tile_data from tiles limit 1")
    of_one = "select tile_data from tiles where zoom_level = ? and tile_column = ? and tile_row = ?"

    def read(zoom: int, x: int, y: int) -> bytes | None:
        row = first(of_one, zoom, x, 2**zoom - 1 - y)
        return row and row[0]

    return TileGrid(path, (min_zoom, max_zoom), bounds, tile_side(tile, path), read)


def open_folder(path: Path) -> TileGrid:
    """Open a folder of files z/x/y, as servers of tiles have them.

    Rows count from the south where there is the tilemapresource.xml of gdal2tiles.
    """
    zooms = sorted(int(one.name) for one in path.iterdir() if one.name.isdigit())
    tiles = [
        tile
        for tile in path.glob(f"{zooms[-1]}/*/*.*" if zooms else "0/0/0.*")
        if (tile.parent.name + tile.stem).isdigit() and tile.suffix.lower() in PICTURES
    ]
    if not tiles:
        raise UsageError(
            f"expected a folder of tiles z/x/y.png in {path}, got none; give the folder that "
            "holds the numbers of zooms, or a file"
        )
    from_south, suffix = (path / "tilemapresource.xml").is_file(), tiles[0].suffix

    def row_of(zoom: int, y: int) -> int:
        return 2**zoom - 1 - y if from_south else y

    def read(zoom: int, x: int, y: int) -> bytes | None:
        file = path / str(zoom) / str(x) / f"{row_of(zoom, y)}{suffix}"
        return file.read_bytes() if file.is_file() else None

    columns = [int(tile.parent.name) for tile in tiles]
    rows = [row_of(zooms[-1], int(tile.stem)) for tile in tiles]
    bounds = tile_bounds(zooms[-1], min(columns), min(rows), max(columns), max(rows))
    side = tile_side(tiles[0].read_bytes(), path)
    return TileGrid(path, (zooms[0], zooms[-1]), bounds, side, read)


def tile_bounds(zoom: int, left: int, top: int, right: int, bottom: int) -> Bounds:
    """Return south, west, north, east of the tiles of a zoom, the last ones included."""
    count = 2**zoom
    north, south = (
        math.degrees(math.atan(math.sinh(math.pi * (1 - 2 * row / count))))
        for row in (top, bottom + 1)
    )
    return south, left / count * 360 - 180, north, (right + 1) / count * 360 - 180


def tile_side(content: bytes, path: Path) -> int:
    """Return the side of a tile in pixels, or raise a UsageError if that is no power of two."""
    width, height = decode_tile(content, str(path)).size
    if width != height or width & (width - 1):
        raise UsageError(f"expected square tiles of 256 or 512 pixels, got {width} x {height}")
    return width


def decode_tile(content: bytes, name: str) -> Image.Image:
    """Decode the picture of a tile, with alpha, or raise a UsageError."""
    try:
        with Image.open(BytesIO(content), formats=("PNG", "JPEG", "WEBP", "AVIF")) as picture:
            return picture.convert("RGBA")
    except Exception as error:  # decoders raise nearly anything on damaged data
        raise UsageError(
            f"expected a picture (PNG, JPEG, WebP, AVIF) as the tile {name}, got "
            f"{type(error).__name__}; are these vector tiles? Give a raster tile set"
        ) from error


def open_tiles(path: Path) -> tuple[str, str, TileGrid]:
    """Open an archive or a folder of tiles: its name, its fingerprint, and its pixels.

    Raises:
        UsageError: no tiles, tiles of no pictures, a damaged archive; pmtiles is missing.
    """
    if path.is_dir():
        states = [
            (str(p.relative_to(path)), p.stat().st_size, p.stat().st_mtime_ns)
            for p in sorted(path.rglob("*.*"))
        ]
        fingerprint = blake2b(json.dumps(states).encode(), digest_size=16).hexdigest()
        return path.stem, fingerprint, open_folder(path)
    with _told(path):
        grid = (open_pmtiles if path.suffix.lower() == ".pmtiles" else open_mbtiles)(path)
    return path.stem, file_fingerprint(path), grid
