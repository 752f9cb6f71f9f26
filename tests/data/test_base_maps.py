"""Views cut from maps: against a planet whose colours are known everywhere in closed form."""

import inspect
import math

import numpy as np
import pytest
import torch
from map_samples import (
    save_folder,
    save_mbtiles,
    save_pmtiles,
    save_projected,
    save_raster,
    true_views,
    whole_planet,
)
from PIL import Image
from pmtiles.tile import TileType

from icgeo.config import UsageError
from icgeo.data import map_rasters
from icgeo.data.base_maps import BaseMap, open_map
from icgeo.data.photos import PhotoError
from icgeo.maps import MapStyle

# middles, a pole within and at the edge, both sides of the antimeridian
CENTRES = torch.tensor(
    [[10.0, 20.0], [-50.0, -100.0], [89.0, 30.0], [-70.0, 0.0], [5.0, 179.9], [0.0, -180.0]],
    dtype=torch.float64,
)
HEADINGS = torch.tensor([0.0, 35.0, 90.0, 180.0, 270.0, 359.0], dtype=torch.float64)
ROUNDING = 3.0
"""Levels of 256: 8 bits twice, a wave's bend over a pixel, and that pixels end at the pole."""
MERCATOR = 6.0
"""A view has one level, and pixels of Web Mercator in it differ in size by their latitude."""


def views_of(base_map, field=30.0, *, size=24, centres=CENTRES, headings=HEADINGS, frequency=1.0):
    """Cut views; return them, their masks, and how far they are off where they show something."""
    fields = torch.full((len(centres),), field, dtype=torch.float64)
    images, masks = base_map.views(centres, fields, headings[: len(centres)], size=size)
    truth = true_views(centres, fields, headings[: len(centres)], size=size, frequency=frequency)
    off = (images - truth).abs().amax(dim=1)
    return images, masks, (off * masks).max().item()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("maps")


@pytest.mark.parametrize("field", [2.0, 30.0, 100.0])
def test_views_of_a_picture_show_what_is_there(folder, field):
    path = folder / "planet.png"
    Image.fromarray(whole_planet(180)).save(path)
    base_map = open_map(path)
    assert isinstance(base_map, BaseMap)
    assert base_map.bounds is None
    assert base_map.resolution_deg == pytest.approx(1)
    _, masks, off = views_of(base_map, field)
    assert masks.all()
    assert off <= ROUNDING


def test_a_tensor_is_a_map_and_its_fingerprint_is_of_its_content():
    world = torch.from_numpy(whole_planet(90)).movedim(-1, 0) / 255
    base_map, same = open_map(world), open_map(world.clone())
    assert base_map.fingerprint == same.fingerprint != open_map(1 - world).fingerprint
    assert open_map(base_map) is base_map
    assert views_of(base_map)[2] <= 1.5 * ROUNDING, "pixels of 2 degrees"


def test_what_is_finer_than_a_pixel_is_averaged_not_sampled():
    """A board of single pixels is grey from afar; sampling it would show black and white."""
    board = torch.from_numpy(np.indices((512, 1024)).sum(0) % 2).float().expand(3, -1, -1)
    images, masks, _ = views_of(open_map(board), 60.0, size=16, centres=CENTRES[:2])
    assert masks.all()
    assert (images.float() - 127.5).abs().max() < 13


def test_a_window_is_the_map_on_the_grid_of_a_style(folder):
    """Its pixels are those of the picture itself, where both grids are the same."""
    pixels = whole_planet(64)
    base_map = open_map(torch.from_numpy(pixels).movedim(-1, 0) / 255)
    window, known = base_map.window(MapStyle(height=64, width=128).pixel_lat_lon())
    assert known.all()
    assert (window.movedim(0, -1).int() - torch.from_numpy(pixels).int()).abs().max() <= 1
    style = MapStyle(projection="web_mercator", extent=(170, -30, -160, 10), height=32, width=32)
    assert base_map.window(style.pixel_lat_lon())[1].all(), "across the antimeridian"


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_geotiff_of_a_planet_gives_the_views_of_its_picture(folder, monkeypatch, in_memory):
    if not in_memory:
        monkeypatch.setattr(map_rasters, "OVERVIEW_SIDE", 64)
    pixels = whole_planet(180)
    path = save_raster(folder / "planet.tif", pixels, (-180, -90, 180, 90), "EPSG:4326")
    raster = open_map(path)
    assert raster.bounds is None
    assert raster.resolution_deg == pytest.approx(1)
    picture = open_map(torch.from_numpy(pixels).movedim(-1, 0) / 255)
    for field in (2.0, 60.0):
        (images, masks, off), (others, _, _) = (views_of(one, field) for one in (raster, picture))
        assert masks.all()
        assert off <= ROUNDING
        assert (images.int() - others.int()).abs().max() <= 1


def test_longitudes_from_0_to_360_are_round_too(folder):
    pixels = np.roll(whole_planet(180), 180, axis=1)
    path = save_raster(folder / "from0.tif", pixels, (0, -90, 360, 90), "EPSG:4326")
    base_map = open_map(path)
    assert base_map.bounds is None
    _, masks, off = views_of(base_map)
    assert masks.all()
    assert off <= ROUNDING


FIJI = (1_700_000.0, 3_600_000.0, 2_300_000.0, 4_300_000.0)
"""In metres of EPSG:3460, Fiji 1986 / Fiji Map Grid, whose central meridian is 178.75 east."""


def test_a_country_across_the_antimeridian_in_its_own_crs(folder):
    path = folder / "fiji.tif"
    save_projected(path, FIJI, "EPSG:3460", width=600, height=700, frequency=20.0)
    base_map = open_map(path)
    south, west, north, east = base_map.bounds
    assert west > 170, "its west is east of the date line's other side"
    assert -180 < east < -170
    assert (south, north) == pytest.approx((-20.6, -14.2), abs=0.4)
    assert base_map.resolution_deg == pytest.approx(1000 / 111_195, rel=0.02)
    centres = torch.tensor([[-17.5, 178.0], [-17.0, 180.0], [-18.0, -179.5]], dtype=torch.float64)
    _, masks, off = views_of(base_map, 2.0, centres=centres, frequency=20.0)
    assert masks.all()
    assert off <= ROUNDING
    _, masks, off = views_of(base_map, 20.0, centres=centres, frequency=20.0)
    assert 0.03 < masks.double().mean() < 0.5, "what is outside of the map is masked"
    elsewhere = torch.tensor([[17.5, -1.0], [-17.5, 0.0], [50.0, 10.0], [-17.0, 90.0]])
    fields, none = torch.full((4,), 2.0), torch.zeros(4)
    assert not base_map.views(elsewhere.double(), fields, none, size=8)[1].any()


def test_a_polar_map_holds_its_pole(folder):
    reach = 2_000_000.0
    path = folder / "arctic.tif"
    save_projected(path, (-reach, -reach, reach, reach), "EPSG:3995", width=300, height=300)
    base_map = open_map(path)
    _, west, north, east = base_map.bounds
    assert (west, north, east) == (-180, 90, 180)
    poles = torch.tensor([[90.0, 0.0], [85.0, 179.0]], dtype=torch.float64)
    _, masks, off = views_of(base_map, 10.0, centres=poles)
    assert masks.all()
    assert off <= ROUNDING


def test_another_planet_has_its_own_crs(folder):
    """Mars as the IAU has it: longitudes and latitudes are those of Mars."""
    mars = "+proj=eqc +R=3396190 +units=m +no_defs"
    half = math.pi * 3396190
    pixels = whole_planet(90)
    path = save_raster(folder / "mars.tif", pixels, (-half, -half / 2, half, half / 2), mars)
    base_map = open_map(path)
    assert base_map.bounds is None
    _, masks, off = views_of(base_map)
    assert masks.all()
    assert off <= 1.5 * ROUNDING


def test_nodata_is_masked_and_does_not_darken_what_is_beside_it(folder):
    pixels = np.full((90, 180, 3), 200, np.uint8)
    pixels[:, :90] = 0
    path = save_raster(folder / "half.tif", pixels, (-180, -90, 180, 90), "EPSG:4326", nodata=0)
    images, masks = open_map(path).views(
        torch.tensor([[0.0, 0.0]]).double(), torch.tensor([30.0]), torch.zeros(1), size=16
    )
    assert masks[0, :, 9:].all()
    assert not masks[0, :, :7].any()
    assert set(images[0][:, masks[0]].unique().tolist()) == {200}
    assert images[0][:, ~masks[0]].max() == 0


def test_values_of_16_bits_are_scaled_and_one_band_is_grey(folder):
    """From the 2nd to the 98th percentile of the map: here of a ramp from 1,000 to 11,000."""
    ramp = np.linspace(1000, 11000, 180, dtype=np.uint16)
    pixels = np.broadcast_to(ramp[None, :, None], (90, 180, 1)).copy()
    path = save_raster(folder / "dem.tif", pixels, (-180, -90, 180, 90), "EPSG:4326")
    lon = torch.tensor([-90.0, 0.0, 90.0])
    window, known = open_map(path).window(torch.stack((0 * lon, lon), -1)[None].double())
    assert known.all()
    assert (window[0] == window[1]).all()
    assert (window[1] == window[2]).all()
    low, high = 1200.0, 10800.0
    expected = [(1000 + 10000 * (x + 180) / 360 - low) / (high - low) * 255 for x in lon.tolist()]
    assert window[0, 0].tolist() == pytest.approx(expected, abs=3)


def test_a_palette_gives_colours(folder):
    import rasterio

    path = folder / "palette.tif"
    numbers = np.repeat(np.array([[0, 1]], np.uint8), 90, 0).repeat(90, 1)[..., None]
    save_raster(path, numbers, (-180, -90, 180, 90), "EPSG:4326", photometric="palette")
    with rasterio.open(path, "r+") as raster:
        raster.write_colormap(1, {0: (10, 20, 30, 255), 1: (200, 100, 50, 255)})
    places = torch.tensor([[[0.0, -90.0], [0.0, 90.0]]], dtype=torch.float64)
    window, _ = open_map(path).window(places)
    assert window[:, 0, 0].tolist() == [10, 20, 30]
    assert window[:, 0, 1].tolist() == [200, 100, 50]


@pytest.mark.parametrize(
    ("save", "name"),
    [(save_pmtiles, "a.pmtiles"), (save_mbtiles, "a.mbtiles"), (save_folder, "tiles")],
)
def test_tiles_show_the_planet_up_to_85_degrees(folder, save, name):
    base_map = open_map(save(folder / name, range(2)))
    assert base_map.bounds == pytest.approx((-85.05, -180, 85.05, 180), abs=0.01)
    assert base_map.resolution_deg == pytest.approx(360 / 512)
    for field in (5.0, 60.0):
        _, masks, off = views_of(base_map, field)
        assert masks[[0, 1, 4, 5]].all()
        assert not masks[2, 12, 12], "Web Mercator ends there"
        assert off <= MERCATOR


def test_tiles_that_are_missing_are_masked_and_zooms_need_not_begin_at_0(folder):
    path = save_folder(folder / "some", range(1, 3))
    (path / "2" / "3" / "1.png").unlink()
    base_map = open_map(path)
    centres = torch.tensor([[30.0, 135.0], [30.0, -135.0]], dtype=torch.float64)
    _, masks, off = views_of(base_map, 5.0, centres=centres)
    assert not masks[0].any()
    assert masks[1].all()
    assert off <= ROUNDING
    assert views_of(base_map, 120.0, size=8, centres=centres[1:])[1].all(), "coarser than zoom 1"


def no_planet(folder):
    Image.fromarray(np.zeros((50, 60, 3), np.uint8)).save(folder / "portrait.png")
    return folder / "portrait.png"


def no_crs(folder):
    return save_raster(folder / "no-crs.tif", whole_planet(16), (-180, -90, 180, 90), None)


def degrees_in_metres(folder):
    bounds = (170, -20, 180, -10)
    return save_raster(folder / "degrees.tif", whole_planet(16), bounds, "EPSG:3857")


def metres_in_degrees(folder):
    bounds = (500_000, 4_000_000, 600_000, 4_100_000)
    return save_raster(folder / "metres.tif", whole_planet(16), bounds, "EPSG:4326")


def no_body(folder):
    local = 'LOCAL_CS["plan of a building",UNIT["metre",1]]'
    return save_raster(folder / "local.tif", whole_planet(16), (0, 0, 1000, 1000), local)


def nothing_but_nodata(folder):
    pixels = np.zeros((16, 32, 1), np.int16)
    bounds = (-180, -90, 180, 90)
    return save_raster(folder / "empty.tif", pixels, bounds, "EPSG:4326", nodata=0)


def no_raster(folder):
    (folder / "text.tif").write_text("no raster")
    return folder / "text.tif"


def vector_tiles(folder):
    return save_pmtiles(folder / "vector.pmtiles", range(1), kind=TileType.MVT)


def torn_archive(folder):
    whole = save_pmtiles(folder / "whole.pmtiles", range(1)).read_bytes()
    (folder / "torn.pmtiles").write_bytes(whole[:100])
    return folder / "torn.pmtiles"


def no_database(folder):
    (folder / "text.mbtiles").write_text("no database")
    return folder / "text.mbtiles"


def folder_without_tiles(folder):
    (folder / "nothing").mkdir()
    return folder / "nothing"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (no_planet, "twice as wide as high, got 60 x 50"),
        (no_crs, "no CRS in no-crs.tif"),
        (degrees_in_metres, "looks like degrees"),
        (metres_in_degrees, "is its CRS wrong"),
        (no_body, "CRS of a planet"),
        (nothing_but_nodata, "nothing but nodata"),
        (no_raster, "that GDAL reads"),
        (vector_tiles, "vector tiles"),
        (torn_archive, "archive of PMTiles"),
        (no_database, "database of MBTiles"),
        (folder_without_tiles, "folder of tiles"),
    ],
)
def test_what_is_no_map_is_told_in_one_line(tmp_path, make, says):
    with pytest.raises(UsageError, match=says) as error:
        open_map(make(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["pmtiles", "mbtiles"])
def test_tiles_that_are_damaged_after_they_were_opened_are_told_in_one_line(tmp_path, kind):
    path = tmp_path / f"planet.{kind}"
    (save_pmtiles if kind == "pmtiles" else save_mbtiles)(path, range(2))
    base_map = open_map(path)
    path.write_bytes(b"damaged" * 100)
    with pytest.raises(UsageError, match=f"in {path}, got .*fetch it again") as error:
        views_of(base_map, 40.0)
    assert "\n" not in str(error.value)


def test_the_whole_world_in_web_mercator_goes_around(tmp_path):
    """The square of EPSG:3857 ends at 20,037,508.34 m, which is 85.0511 degrees."""
    edge = 20037508.342789244
    path = save_raster(tmp_path / "all.tif", whole_planet(16), (-edge, -edge, edge, edge), 3857)
    base_map = open_map(path)
    assert base_map.bounds == pytest.approx((-85.0511, -180, 85.0511, 180), abs=1e-4)
    centres = torch.tensor([[0.0, 180.0], [20.0, 175.0]], dtype=torch.float64)
    _, masks, _ = views_of(base_map, 20.0, centres=centres)
    assert masks.all(), "nothing is missing at the seam"


def test_a_map_that_is_not_there_is_told(tmp_path):
    with pytest.raises(UsageError, match=r"found no .*blue-mable"):
        open_map("blue-mable")
    with pytest.raises(UsageError, match="download the file first"):
        open_map("https://example.org/map.tif")
    with pytest.raises(UsageError, match=r"twice as wide as high, got \[3, 10, 10\]"):
        open_map(torch.zeros(3, 10, 10))
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(PhotoError, match="expected a photo"):
        open_map(tmp_path / "text.png")
    with pytest.raises(UsageError, match="got a ndarray; save the picture to a file"):
        inspect.unwrap(open_map)(np.zeros((10, 20, 3)))  # without the checks of types of tests


def test_without_the_packages_the_extra_is_named(folder, monkeypatch):
    import sys

    path = save_raster(folder / "any.tif", whole_planet(16), (-180, -90, 180, 90), "EPSG:4326")
    archive = save_pmtiles(folder / "any.pmtiles", range(1))
    for name, source in (("rasterio", path), ("pmtiles", archive)):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, None)
            with pytest.raises(UsageError, match=rf"needs {name}: pip install 'icgeo\[map\]'"):
                open_map(source)
