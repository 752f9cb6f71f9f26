"""Maps of a planet whose colours are known everywhere in closed form, in files of several kinds."""

import io
import json
import math
import sqlite3

import numpy as np
import rasterio
import torch
from einops import rearrange
from PIL import Image
from pmtiles.tile import Compression, TileType, tileid_to_zxy
from pmtiles.writer import Writer
from pyproj import Transformer

from icgeo import sphere
from icgeo.data.orbit import view_directions

WAVES = torch.tensor([[3.0, 1.0, 2.0], [-1.0, 4.0, 1.0], [2.0, -2.0, 3.0]], dtype=torch.float64)


def colours_at(xyz, *, frequency=1.0):
    """Return colours [.., 3] in [0, 255] in directions: slow waves in three dimensions."""
    return (torch.sin(frequency * xyz @ WAVES.T) / 2 + 0.5) * 255


def painted(lat, lon, *, frequency=1.0):
    """Return a picture [height, width, 3] of 8 bits at latitudes and longitudes in degrees."""
    lat_lon = torch.stack(torch.broadcast_tensors(torch.as_tensor(lat), torch.as_tensor(lon)), -1)
    colours = colours_at(sphere.to_xyz(lat_lon.double()), frequency=frequency)
    return colours.round().to(torch.uint8).numpy()


def whole_planet(height, *, frequency=1.0):
    """Paint an equirectangular picture."""
    lat = 90 - (torch.arange(height) + 0.5) * 180 / height
    lon = (torch.arange(2 * height) + 0.5) * 180 / height - 180
    return painted(lat[:, None], lon[None], frequency=frequency)


def true_views(centres, field_of_view_deg, heading_deg, *, size, frequency=1.0):
    """Return what views must show: the colours [views, 3, size, size] at the middle of pixels."""
    xyz = sphere.to_xyz(centres.double())
    looks = view_directions(xyz, field_of_view_deg, size=size, heading_deg=heading_deg)
    return rearrange(colours_at(looks, frequency=frequency), "n h w c -> n c h w")


def save_raster(path, pixels, bounds, crs, **options):
    """Save a GeoTIFF of pixels [height, width, bands] between bounds (west, south, east, north)."""
    height, width, count = pixels.shape
    west, south, east, north = bounds
    across, down = (east - west) / width, (south - north) / height
    place = {"transform": rasterio.Affine(across, 0, west, 0, down, north), "crs": crs}
    how = {"driver": "GTiff", "width": width, "height": height, "count": count, **place, **options}
    with rasterio.open(path, "w", dtype=pixels.dtype, **how) as raster:
        raster.write(rearrange(pixels, "h w c -> c h w"))
    return path


def save_projected(path, bounds, crs, *, width, height, frequency=1.0, **options):
    """Save a GeoTIFF in a projection, its colours those of the planet at each pixel's middle."""
    west, south, east, north = bounds
    x = west + (np.arange(width) + 0.5) * (east - west) / width
    y = north - (np.arange(height) + 0.5) * (north - south) / height
    inverse = Transformer.from_crs(crs, 4326, always_xy=True)
    lon, lat = inverse.transform(*np.meshgrid(x, y))
    return save_raster(path, painted(lat, lon, frequency=frequency), bounds, crs, **options)


def tile(zoom, x, y, *, side=256, frequency=1.0):
    """Paint a tile of Web Mercator as a PNG."""
    count = 2**zoom
    across, down = ((torch.arange(side) + 0.5) / side + n for n in (x, y))
    lat = torch.rad2deg(torch.atan(torch.sinh(math.pi * (1 - 2 * down.double() / count))))
    pixels = painted(lat[:, None], across[None] / count * 360 - 180, frequency=frequency)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def tiles(zooms, **options):
    """Paint all tiles of zooms, in the order of PMTiles."""
    for zoom in zooms:
        first = (4**zoom - 1) // 3
        for number in range(first, first + 4**zoom):
            zxy = tileid_to_zxy(number)
            yield number, zxy, tile(*zxy, **options)


def save_pmtiles(path, zooms=range(3), *, kind=TileType.PNG, **options):
    """Save an archive of PMTiles."""
    with path.open("wb") as stream:
        writer = Writer(stream)
        for number, _, content in tiles(zooms, **options):
            writer.write_tile(number, content)
        ends = {"min_lon_e7": -180, "max_lon_e7": 180, "min_lat_e7": -85.05, "max_lat_e7": 85.05}
        header = {name: int(value * 1e7) for name, value in ends.items()}
        header |= {"min_zoom": min(zooms), "max_zoom": max(zooms), "tile_type": kind}
        header |= {"center_zoom": 0, "center_lon_e7": 0, "center_lat_e7": 0}
        writer.finalize(header | {"tile_compression": Compression.NONE}, {})
    return path


def save_mbtiles(path, zooms=range(3), **options):
    """Save a database of MBTiles."""
    database = sqlite3.connect(path)
    database.execute("create table metadata (name text, value text)")
    database.execute(
        "insert into metadata values ('format', 'png'), ('json', ?)", (json.dumps({}),)
    )
    columns = "zoom_level integer, tile_column integer, tile_row integer, tile_data blob"
    database.execute(f"create table tiles ({columns})")
    for _, (zoom, x, y), content in tiles(zooms, **options):
        row = (zoom, x, 2**zoom - 1 - y, content)
        database.execute("insert into tiles values (?, ?, ?, ?)", row)
    database.commit()
    database.close()
    return path


def save_folder(path, zooms=range(3), **options):
    """Save a folder of tiles z/x/y.png."""
    for _, (zoom, x, y), content in tiles(zooms, **options):
        file = path / str(zoom) / str(x) / f"{y}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return path
