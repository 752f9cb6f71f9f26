"""Tests of the views from orbit."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pyproj import Transformer

from icgeo import sphere
from icgeo.data import orbit
from icgeo.data.worlds import pixel_xyz

CLEAR = orbit.ViewOptions(haze=(0, 0), exposure_stops=(0, 0))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def xyz_world(height=512):
    """A picture whose colours are the unit vectors of its places, in [0, 1]."""
    return pixel_xyz(height).permute(2, 0, 1) / 2 + 0.5


def test_directions_are_those_of_the_gnomonic_projection():
    """PROJ's `gnom` maps the directions back to an even grid, north up."""
    centre, degrees = torch.tensor([[40.0, -75.0]], dtype=torch.float64), 50.0
    found = orbit.view_directions(
        sphere.to_xyz(centre)[0], torch.tensor(degrees, dtype=torch.float64), size=8
    )
    lat, lon = sphere.to_lat_lon(found).unbind(-1)
    to_plane = Transformer.from_crs(
        "+proj=longlat +R=1", "+proj=gnom +lat_0=40 +lon_0=-75 +R=1", always_xy=True
    )
    x, y = to_plane.transform(lon.numpy(), lat.numpy())
    step = (torch.arange(8).double() + 0.5) / 4 - 1
    reach = math.tan(math.radians(degrees / 2))
    torch.testing.assert_close(torch.tensor(x), (reach * step).expand(8, 8), atol=1e-9, rtol=0)
    torch.testing.assert_close(
        torch.tensor(y), (-reach * step)[:, None].expand(8, 8), atol=1e-9, rtol=0
    )


@given(lat=st.floats(-90, 90), lon=st.floats(-180, 179.99))
def test_a_view_shows_its_place(lat, lon):
    """The mean of the four middle pixels of a picture of unit vectors is the centre."""
    centre = sphere.to_xyz(torch.tensor([[[lat, lon]]]))
    views, _ = orbit.take_views(xyz_world(256)[None], centre, generator=generator(), options=CLEAR)
    middle = views[0, 0, :, 31:33, 31:33].mean(dim=(1, 2)) * 2 - 1
    assert torch.rad2deg(sphere.angle(middle / middle.norm(), centre[0, 0])) < 0.3


def test_north_is_up_and_heading_turns_the_view():
    centre = sphere.to_xyz(torch.tensor([10.0, 170.0]))
    degrees = torch.tensor(30.0)
    up = orbit.view_directions(centre, degrees, size=9)
    assert up[0, 4, 2] > up[8, 4, 2]
    turned = orbit.view_directions(centre, degrees, size=9, heading_deg=torch.tensor(90.0))
    east = sphere.north_east(centre)[1]
    assert (turned[0, 4] @ east) > 0.2
    torch.testing.assert_close(turned[4, 0], up[0, 4], atol=1e-6, rtol=0)


def test_the_antimeridian_leaves_no_seam():
    centre = sphere.to_xyz(torch.tensor([[[0.0, 180.0]]]))
    views, _ = orbit.take_views(xyz_world(256)[None], centre, generator=generator(), options=CLEAR)
    step = views[0, 0].diff(dim=-1).abs().amax(dim=(0, 1))
    assert step.max() < 3 * step.median()


def test_a_turned_world_shows_the_turned_place():
    turn = sphere.random_rotation(1, generator=generator(2), dtype=torch.float32)
    centre = sphere.sample_uniform(1, 5, generator=generator(3), dtype=torch.float32)
    views, _ = orbit.take_views(
        xyz_world()[None], centre, generator=generator(), options=CLEAR, rotation=turn
    )
    middle = views[0, :, :, 31:33, 31:33].mean(dim=(2, 3)) * 2 - 1
    expected = centre[0] @ turn[0].T
    torch.testing.assert_close(middle, expected, atol=5e-3, rtol=0)


def test_haze_and_exposure():
    grey = torch.full((1, 3, 4, 4), 0.25)
    clear = orbit.develop(grey, haze=torch.zeros(1), exposure_stops=torch.ones(1))
    torch.testing.assert_close(clear, torch.full_like(grey, 0.5))
    veiled = orbit.develop(grey, haze=torch.ones(1), exposure_stops=torch.zeros(1))
    torch.testing.assert_close(veiled[0, :, 0, 0], torch.tensor(orbit.HAZE_COLOUR))


def test_textures_are_not_copied_per_view(monkeypatch):
    """One `grid_sample` over one texture a world, whatever the number of views."""
    shapes = []
    original = orbit.functional.grid_sample
    monkeypatch.setattr(
        orbit.functional,
        "grid_sample",
        lambda texture, grid, **rest: (
            shapes.append((texture.shape, grid.shape)) or original(texture, grid, **rest)
        ),
    )
    centre = sphere.sample_uniform(2, 7, generator=generator(), dtype=torch.float32)
    orbit.take_views(torch.rand(2, 3, 16, 32), centre, generator=generator())
    assert shapes == [((2, 3, 16, 34), (2, 7 * 64, 64, 2))]


def test_real_worlds_have_land_where_there_is_land():
    world, land = orbit.open_world("blue-marble", height=256), orbit.land_mask(256)
    assert world.shape == (3, 256, 512)

    def at(lat, lon):
        return int((90 - lat) * 256 / 180), int((lon + 180) * 512 / 360)

    assert land[0][at(23.0, 10.0)] == 1  # Sahara
    assert land[0][at(0.0, -140.0)] == 0  # Pacific
    red, _, blue = world[(slice(None), *at(23.0, 10.0))]
    assert red > blue
    red, _, blue = world[(slice(None), *at(0.0, -140.0))]
    assert blue > red


def test_more_views_than_are_taken_at_a_time(monkeypatch):
    monkeypatch.setattr(orbit, "VIEWS_AT_ONCE", 4)
    views = orbit.random_views(xyz_world(64), 402, generator=generator())
    assert len(views.images) == len(views.lat_lon.unique(dim=0)) == 402


def test_random_views_keep_to_the_land_asked_for():
    world, land = torch.rand(3, 64, 128), torch.zeros(1, 64, 128)
    land[:, :, :64] = 1  # the western hemisphere
    options = orbit.ViewOptions(min_land=0.9, field_of_view_deg=(30, 30))
    views = orbit.random_views(world, 30, generator=generator(), options=options, land=land)
    assert views.images.dtype == torch.uint8
    assert views.images.shape == (30, 3, 64, 64)
    assert (views.lat_lon[:, 1] < 0).all()
    with pytest.raises(ValueError, match="expected land in some views"):
        orbit.random_views(world, 5, generator=generator(), options=options, land=0 * land)


def test_same_generator_same_views():
    world = torch.rand(3, 64, 128)
    first, again = (orbit.random_views(world, 4, generator=generator(9)) for _ in range(2))
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.lat_lon, again.lat_lon)


def test_any_picture_of_a_planet_is_a_world(tmp_path):
    Image.new("RGB", (200, 100), (255, 0, 51)).save(tmp_path / "mars.png")
    world = orbit.open_world(tmp_path / "mars.png", height=32)
    torch.testing.assert_close(world[:, 3, 5], torch.tensor([1.0, 0.0, 0.2]))
    Image.new("RGB", (100, 100)).save(tmp_path / "square.png")
    with pytest.raises(ValueError, match=r"twice as wide as high, got 100 x 100 in square\.png"):
        orbit.open_world(tmp_path / "square.png")
    with pytest.raises(ValueError, match=r"expected a world of .* got 'pluto'"):
        orbit.open_world("pluto")


def test_a_track_is_a_great_circle_at_constant_speed():
    """460 km a minute at 27,600 km/h, along one plane, and each view shows its own place."""
    views = orbit.track_views(xyz_world(), 8, generator=generator(3), options=CLEAR)
    xyz = sphere.to_xyz(views.lat_lon)
    steps_km = sphere.EARTH_RADIUS_KM * sphere.angle(xyz[1:], xyz[:-1])
    torch.testing.assert_close(steps_km, torch.full_like(steps_km, 460.0), atol=0.5, rtol=0)
    assert torch.linalg.svdvals(xyz)[-1] < 1e-6
    edge = views.images[..., 31:33, :2].double().mean(dim=(-2, -1)) / 255 * 2 - 1
    reach = sphere.angle(edge / edge.norm(dim=-1, keepdim=True), xyz)
    assert reach.std() < 0.01, "one field of view"
    middle = views.images[..., 31:33, 31:33].double().mean(dim=(-2, -1)) / 255
    torch.testing.assert_close(middle, xyz / 2 + 0.5, atol=0.01, rtol=0)


def test_tracks_differ_in_place_and_course():
    first, second = (
        orbit.track_views(xyz_world(64), 2, generator=generator(seed), speed_kmh=900.0)
        for seed in (0, 1)
    )
    assert sphere.distance_km(first.lat_lon[0], second.lat_lon[0]).item() > 100
    assert sphere.distance_km(*first.lat_lon).item() == pytest.approx(15, abs=0.5)


def test_views_are_photos_with_their_locations():
    views = orbit.random_views(xyz_world(64), 3, generator=generator())
    examples = orbit.views_to_examples(views.images, views.lat_lon)
    for (photo, place), image, lat_lon in zip(examples, views.images, views.lat_lon, strict=True):
        assert torch.equal(torch.from_numpy(photo), image.movedim(0, -1))
        assert place == tuple(lat_lon.tolist())


def test_views_overlap_where_both_look():
    """A view of half the width shows a quarter of a wide one, which shows all of it."""
    centre = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    wide, narrow = (
        orbit.Views(
            torch.empty(2, 3, 64, 64, dtype=torch.uint8),
            sphere.to_lat_lon(centre),
            orbit._corners(orbit.view_directions(centre, torch.full((2,), degrees), size=64)),
        )
        for degrees in (90.0, 2 * math.degrees(math.atan(0.5)))
    )
    torch.testing.assert_close(narrow.overlap(wide), torch.eye(2).double())
    torch.testing.assert_close(wide.overlap(narrow), torch.eye(2).double() / 4)


@pytest.mark.parametrize("count", [4, 6])
def test_views_of_a_panorama_look_where_they_should(count):
    """Each pixel's direction by trigonometry alone: atan(x), and the height over the distance."""
    size, width = 64, 720
    azimuth = (np.arange(width) + 0.5) * 360 / width - 180
    height = 90 - (np.arange(width // 2) + 0.5) * 360 / width
    picture = np.zeros((width // 2, width, 3), dtype=np.uint8)
    picture[..., 0] = np.rint(127.5 + 127.5 * np.cos(np.deg2rad(azimuth)))
    picture[..., 1] = np.rint(127.5 + 127.5 * np.sin(np.deg2rad(azimuth)))
    picture[..., 2] = np.rint((height + 90) * 255 / 180)[:, None]
    step = (np.arange(size) + 0.5) * 2 / size - 1
    reach = np.tan(np.pi / count)
    for number, view in enumerate(orbit.panorama_views(picture, count, size=size)):
        found = np.asarray(view).astype(float)
        turned = np.deg2rad(360 / count * number) + np.arctan(reach * step)
        for channel, wave in enumerate((np.cos(turned), np.sin(turned))):
            expected = np.broadcast_to(127.5 + 127.5 * wave, (size, size))
            np.testing.assert_allclose(found[..., channel], expected, atol=2)
        up = np.rad2deg(np.arctan2(-reach * step[:, None], np.hypot(1, reach * step)[None]))
        np.testing.assert_allclose(found[..., 2], (up + 90) * 255 / 180, atol=2)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_panorama_needs_three_views(count):
    with pytest.raises(ValueError, match="expected at least 3 views"):
        orbit.panorama_views(np.zeros((4, 8, 3), dtype=np.uint8), count)
