"""Map styles: projections, extents, pixels and their round trip through JSON."""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Proj

from icgeo.maps import MapStyle
from icgeo.maps.style import latitude, northing

WINDOW = MapStyle().window(165.0, -50.0, -160.0, -10.0)
STYLES = [MapStyle(), MapStyle(sigma_deg=(6.0,)), MapStyle.marker(), WINDOW]


@pytest.mark.parametrize("style", STYLES)
def test_a_style_survives_json(style: MapStyle):
    assert MapStyle.from_dict(json.loads(json.dumps(style.to_dict()))) == style


def test_an_unknown_base_is_refused():
    with pytest.raises(ValueError, match=r"expected base in .*blue-marble.* got 'sea'"):
        MapStyle(base="sea")


def test_an_unknown_field_is_refused():
    with pytest.raises(ValueError, match="inks"):
        MapStyle.from_dict({"inks": 3})


@pytest.mark.parametrize(("projection", "proj"), [("web_mercator", "merc"), ("equal_area", "cea")])
def test_northing_agrees_with_proj(projection: str, proj: str):
    lat = torch.linspace(-85, 85, 35, dtype=torch.float64)
    expected = Proj(proj=proj, R=1)(torch.zeros(35).numpy(), lat.numpy())[1]
    assert northing(lat, projection).numpy() == pytest.approx(expected, abs=1e-12)


@given(
    st.sampled_from(["equirectangular", "web_mercator", "equal_area"]),
    st.floats(-85, 85, allow_subnormal=False),
)
def test_latitude_inverts_northing(projection: str, lat: float):
    """Near a pole the sine loses digits: 1e-16 / cos(85 degrees) is 1e-13 degrees."""
    there = northing(torch.tensor(lat, dtype=torch.float64), projection)
    assert latitude(there, projection).item() == pytest.approx(lat, abs=1e-10)


def test_pixels_of_the_world_are_taken_at_their_centres():
    places = MapStyle(height=18, width=36).pixel_lat_lon()
    assert places[0, 0].tolist() == [85, -175]
    assert places[-1, -1].tolist() == [-85, 175]


def test_rows_are_numbered_from_the_north():
    style = replace(WINDOW, height=8)
    rows = style.rows_of(style.row_latitudes())
    assert rows.tolist() == pytest.approx([row + 0.5 for row in range(8)])


def test_equal_area_rows_hold_equal_areas():
    style = MapStyle(projection="equal_area", height=8, width=16)
    heights = torch.sin(torch.deg2rad(style.row_latitudes())).diff()
    assert heights.tolist() == pytest.approx([-0.25] * 7)


def test_a_window_crosses_the_antimeridian_and_keeps_its_ink_in_pixels():
    assert WINDOW.width_deg == 35
    lon = WINDOW.pixel_lat_lon()[0, :, 1]
    assert (lon.diff() < 0).sum() == 1
    assert lon.max() < 180
    world = MapStyle()
    in_pixels = [s / WINDOW.pixel_deg for s in WINDOW.sigma_deg]
    assert in_pixels == pytest.approx([s / world.pixel_deg for s in world.sigma_deg])
    same = replace(WINDOW, extent=(165.0, -50.0, 200.0, -10.0)).pixel_lat_lon()
    assert torch.equal(WINDOW.pixel_lat_lon(), same)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"projection": "mercator"}, "web_mercator"),
        ({"base": "photo"}, "blank"),
        ({"height": 4}, "8 x 8"),
        ({"extent": (-90.0, -180.0, 90.0, 180.0)}, "swapped"),
        ({"extent": (10.0, -20.0, 371.0, 20.0)}, "360"),
        ({"projection": "web_mercator"}, "85.05"),
        ({"sigma_deg": (6.0, 3.0)}, "1 or 3 sigmas"),
        ({"sigma_deg": (0.0,)}, "sigmas in"),
        ({"colour": (1.0, 2.0, 0.0)}, "colour"),
    ],
)
def test_what_cannot_be_drawn_is_refused(change: dict[str, object], message: str):
    # the shape hook of the tests refuses an unknown choice first, as a TypeError
    with pytest.raises((ValueError, TypeError), match=message):
        MapStyle(**change)
