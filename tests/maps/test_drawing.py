"""Drawing: kernels of the great-circle distance, linear in the density."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Geod

from icgeo.maps import MapStyle, draw, draw_density
from icgeo.maps.drawing import base_image
from icgeo.sphere.density import Density

SMALL = MapStyle(height=16, width=32)
MARKER = MapStyle.marker(height=64, width=128, sigma_deg=6.0)
WINDOW = MapStyle(height=24, width=32, sigma_deg=(6.0,)).window(165.0, -50.0, -160.0, -10.0)
lat_lon = st.tuples(st.floats(-90, 90), st.floats(-180, 179.99))


@given(lat_lon, st.integers(0, 15), st.integers(0, 31))
def test_pixels_show_the_kernel_of_their_distance(
    place: tuple[float, float], row: int, column: int
):
    """Against the geodesics of PROJ on a sphere; float32 holds the kernel to 1e-6."""
    lat, lon = SMALL.pixel_lat_lon()[row, column].tolist()
    radians = Geod(a=1, b=1).inv(place[1], place[0], lon, lat)[2]
    kappas = [math.radians(s) ** -2 for s in (40, 15, 6)]
    expected = [math.exp(kappa * (math.cos(radians) - 1)) for kappa in kappas]
    assert draw(place, SMALL)[:, row, column].tolist() == pytest.approx(expected, abs=2e-6)


@given(lat_lon, st.integers(0, 31))
def test_turning_the_world_turns_the_map(place: tuple[float, float], columns: int):
    lat, lon = place
    turned = draw((lat, (lon + columns * 11.25 + 180) % 360 - 180), SMALL)
    assert torch.allclose(turned, draw(place, SMALL).roll(columns, dims=-1), atol=2e-6)


@pytest.mark.parametrize("lon", [-180.0, -90.0, 33.3])
def test_a_pole_looks_the_same_from_everywhere(lon: float):
    image = draw((90.0, lon), SMALL)
    assert torch.allclose(image, image[..., :1].expand_as(image), atol=1e-6)
    assert (image[0].diff(dim=0) < 0).all()


@pytest.mark.parametrize("style", [SMALL, MARKER, WINDOW])
def test_maps_keep_the_shape_of_their_locations_and_the_range_of_colours(style: MapStyle):
    maps = draw(torch.tensor([[[-20.0, 170.0], [-30.0, 180.0], [-45.0, -165.0]]]), style)
    assert maps.shape == (1, 3, 3, style.height, style.width)
    assert maps.dtype == torch.float32
    assert 0 <= maps.min() <= maps.max() <= 1


def test_a_marker_is_red_at_its_place_and_leaves_the_rest_alone():
    lat, lon = MARKER.pixel_lat_lon()[20, 100].tolist()
    image, base = draw((lat, lon), MARKER), base_image(MARKER)
    assert image[:, 20, 100].tolist() == pytest.approx(MARKER.colour, abs=1e-6)
    assert torch.allclose(image[:, :, :64], base[:, :, :64], atol=1e-4)


@pytest.mark.parametrize("style", [SMALL, MARKER, WINDOW])
def test_a_mixture_draws_as_the_mixture_of_its_maps(style: MapStyle):
    here, there = (
        Density.from_mixture([place], [kappa], [1.0], nside=8)
        for place, kappa in (([-30.0, 178.0], 500.0), ([10.0, 20.0], 50.0))
    )
    mixed = 0.7 * draw_density(here, style) + 0.3 * draw_density(there, style)
    assert torch.allclose(
        draw_density(Density(0.7 * here.mass + 0.3 * there.mass), style), mixed, atol=1e-5
    )


def test_a_location_off_the_window_leaves_it_empty():
    assert draw((50.0, 0.0), WINDOW).abs().max() < 1e-6


def test_mercator_ends_at_85_degrees():
    world = MapStyle(projection="web_mercator", extent=(-180.0, -85.0, 180.0, 85.0))
    assert draw((85.05, 0.0), world).max() > 0.5
    with pytest.raises(ValueError, match=r"85\.05"):
        draw([(0.0, 0.0), (-86.0, 0.0)], world)


@pytest.mark.parametrize(
    "style",
    [
        MapStyle(base="land"),
        MapStyle(base="land", sigma_deg=(6.0,), colour=(0.68, 0.8, 0.9)),
        MapStyle(colour=(1.0, 0.0, 0.0)),
    ],
)
def test_a_heatmap_must_stand_out_from_the_base(style: MapStyle):
    with pytest.raises(ValueError, match="stands out"):
        draw((0.0, 0.0), style)
