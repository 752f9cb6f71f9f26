"""Land and borders under the heatmap: the file in the package and its raster."""

from dataclasses import replace
from importlib.resources import files

import pytest
import torch
from shapely import Point

from icgeo.maps import MapStyle
from icgeo.maps.drawing import BORDER, LAND, SEA, base_image, basemap

PLACES = {
    "Chad": (15.0, 18.5, LAND),
    "Kansas": (38.5, -98.0, LAND),
    "Chukotka, across the antimeridian": (67.0, -178.0, LAND),
    "Antarctica": (-84.0, 0.0, LAND),
    "the Atlantic": (30.0, -45.0, SEA),
    "the Caspian Sea": (42.0, 50.5, SEA),
    "the Pacific at the antimeridian": (0.0, 180.0, SEA),
}


def test_the_file_is_small_and_whole():
    assert (files("icgeo") / "assets" / "basemap.parquet").stat().st_size < 300_000
    assert set(basemap()["kind"]) == {"land", "borders"}
    assert basemap().crs == "EPSG:4326"
    assert basemap().is_valid.all()
    assert basemap().contains(Point(10.0, -89.9)).sum() == 1


def test_land_has_the_area_of_the_continents():
    """149 million km2 (CIA World Factbook), less lakes and islands under the scale: 2 %."""
    land = basemap()[basemap()["kind"] == "land"].to_crs("ESRI:54034")
    assert land.area.sum() / 1e12 == pytest.approx(149, rel=0.03)


@pytest.mark.parametrize("projection", ["equirectangular", "equal_area", "web_mercator"])
@pytest.mark.parametrize("place", PLACES)
def test_land_and_sea_lie_where_they_belong(projection: str, place: str):
    lat, lon, colour = PLACES[place]
    top = 85.05 if projection == "web_mercator" else 90.0
    style = MapStyle(
        projection=projection, extent=(-180.0, -top, 180.0, top), height=180, width=360, base="land"
    )
    row = int(style.rows_of(torch.tensor(lat, dtype=torch.float64)))
    column = int((lon + 180) % 360 / style.pixel_deg)
    assert base_image(style)[:, row, column].tolist() == pytest.approx(colour, abs=0.01)


def test_a_window_over_the_antimeridian_is_both_of_its_halves():
    window = replace(
        MapStyle.marker(height=64, width=64).window(160.0, 40.0, -160.0, 72.0), height=64
    )
    halves = [
        base_image(replace(window, width=32, extent=extent))
        for extent in ((160.0, 40.0, 180.0, 72.0), (-180.0, 40.0, -160.0, 72.0))
    ]
    apart = (base_image(window) - torch.cat(halves, dim=-1)).abs()
    # the pen draws borders over the edge of a half, which a half of its own does not see
    assert apart.mean() < 1e-3


def test_borders_are_drawn():
    """Along the 49th parallel, between Canada and the United States."""
    style = MapStyle(height=720, width=1440, base="land")
    row = int(style.rows_of(torch.tensor(49.0)))
    column = int((180 - 110) / 360 * 1440)
    strip = base_image(style)[:, row - 2 : row + 3, column]
    towards_border = (strip - torch.tensor(LAND)[:, None]).norm(dim=0) / (
        torch.tensor(BORDER) - torch.tensor(LAND)
    ).norm()
    # the pen is half a pixel wide
    assert 0.4 < towards_border.sum() < 0.6


def test_a_blank_base_is_black():
    assert not base_image(MapStyle()).any()
