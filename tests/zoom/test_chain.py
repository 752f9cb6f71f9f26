"""The zoom from the planet to the place, on a small procedural planet that the model never saw."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import icgeo
from icgeo import sphere
from icgeo.data import orbit
from icgeo.data.base_maps import open_map
from icgeo.data.poses import Poses
from icgeo.data.worlds import procedural_world
from icgeo.prediction import footprint
from icgeo.sphere.density import Density
from icgeo.sphere.multi_order import MultiOrderDensity
from icgeo.zoom.chain import LEAST_SHARE, Windows, weighed


@pytest.fixture(scope="module")
def world():
    return procedural_world("craters", generator=3, height=192)


@pytest.fixture(scope="module")
def locator(world, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ASSETS_CACHE", str(tmp_path_factory.mktemp("cache")))
        found = icgeo.Geolocator("tiny", map=world)
        found.prepare()
    return found


def _query(world, lat_lon, field, heading, *, haze=0.2, exposure=0.3):
    one = torch.tensor([field]), torch.tensor([heading])
    clear, _ = open_map(world).views(torch.tensor([lat_lon]), *one, size=64)
    taken = orbit.develop(
        clear / 255, haze=torch.tensor([haze]), exposure_stops=torch.tensor([exposure])
    )
    return orbit.to_uint8(taken)[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize(
    ("place", "field", "heading"),
    [((12.0, 179.5), 35.0, 0.0), ((-83.0, 20.0), 50.0, 130.0), ((40.0, -75.0), 28.0, 255.0)],
)
def test_the_place_heading_and_width_are_found(locator, world, place, field, heading):
    (found,) = locator.locate(_query(world, place, field, heading))
    pixel_km = 111.2 * 180 / 192
    assert sphere.distance_km((found.lat, found.lon), place).item() < pixel_km / 2
    assert abs((found.heading_deg - heading + 180) % 360 - 180) < 2
    assert found.field_of_view_deg == pytest.approx(field, rel=0.03)
    planet, windows, last = found.levels
    assert [level.name for level in found.levels] == ["planet", "windows", "place"]
    assert last.density is found.density
    # the last level says more of the truth than those before
    nats = [level.density.log_prob(place).item() for level in (planet, windows, last)]
    assert nats[2] > max(nats[:2]) + 3
    for level in (windows, last):
        assert isinstance(level.density, MultiOrderDensity)
        assert level.density.mass.sum().item() == pytest.approx(1)
    assert len(last.views) == len(last.poses) == len(last.probability)
    # what is shown is the map as it is there
    shown = _query(world, place, field, heading, haze=0.0, exposure=0.0)
    alike = torch.corrcoef(
        torch.stack(
            (
                last.views[0].float().mean(0).flatten(),
                torch.tensor(shown).float().mean(-1).flatten(),
            )
        )
    )[0, 1]
    assert alike > 0.97


def test_the_footprint_holds_what_the_photo_shows(locator, world):
    shapely = pytest.importorskip("shapely")
    (found,) = locator.locate(_query(world, (12.0, 179.5), 35.0, 20.0))
    rows = found.to_geodataframe()
    (row,) = rows[rows["kind"] == "footprint"].to_dict("records")
    assert row["probability"] > 0.5
    assert row["heading_deg"] == pytest.approx(20, abs=2)
    west, _, east, _ = row["geometry"].bounds
    assert (west, east) == (-180, 180)
    assert row["geometry"].is_valid
    for lat, lon, inside in (
        (12, 179.0, True),
        (12, -178, True),
        (12, -120, False),
        (60, 179, False),
    ):
        assert shapely.contains_xy(row["geometry"], lon, lat) == inside
    text = json.loads(found.to_geojson())
    assert "footprint" in [one["properties"]["kind"] for one in text["features"]]
    assert found.to_dict()["heading_deg"] == found.heading_deg


@pytest.mark.parametrize("place", [(90.0, 0.0), (-84.0, 100.0), (0.0, 180.0), (45.0, -45.0)])
@pytest.mark.parametrize("heading", [0.0, 77.0])
def test_a_footprint_has_the_area_of_its_view(place, heading):
    """Solid angle of a square pyramid of apex angle a: 4 asin(sin^2(a / 2)) (Mathar 2015)."""
    shapely = pytest.importorskip("shapely")
    field = 40.0
    one = torch.tensor([field], dtype=torch.float64), torch.tensor([heading], dtype=torch.float64)
    shape = footprint(Poses(sphere.to_xyz(torch.tensor([place], dtype=torch.float64)), *one))
    # in longitude and sine of latitude areas are true
    flat = shapely.transform(
        shapely.segmentize(shape, 0.5),
        lambda x: torch.stack(
            (
                torch.deg2rad(torch.from_numpy(x[:, 0])),
                torch.deg2rad(torch.from_numpy(x[:, 1])).sin(),
            ),
            -1,
        ).numpy(),
    )
    expected = 4 * math.asin(math.sin(math.radians(field) / 2) ** 2)
    assert flat.area == pytest.approx(expected, rel=0.01)


def test_a_footprint_around_a_pole_is_whole():
    one = torch.tensor([44.6], dtype=torch.float64), torch.tensor([0.0], dtype=torch.float64)
    place = sphere.to_xyz(torch.tensor([[-80.4, 1.3]], dtype=torch.float64))
    assert footprint(Poses(place, *one)).geom_type == "Polygon"


def test_a_photo_of_no_texture_is_not_placed(locator):
    grey = torch.full((64, 64, 3), 120, dtype=torch.uint8).numpy()
    (found,) = locator.locate(grey)
    assert found.levels[-1].probability.sum() < 0.5
    assert not found.located or found.density.credible_area_km2(0.9) > 1e6


def test_a_heading_that_is_known_is_kept_to(locator, world):
    photo = _query(world, (-20.0, 60.0), 40.0, 0.0)
    north_up = icgeo.Geolocator(locator.loaded, map=world, heading=0.0, point="mode")
    (found,) = north_up.locate(photo)
    assert [found.lat, found.lon] == found.density.mode().tolist()
    assert abs((found.heading_deg + 180) % 360 - 180) < 2
    for wrong in ("north", 1e9):
        with pytest.raises(ValueError, match="heading"):
            icgeo.Geolocator(locator.loaded, map=world, heading=wrong)


@pytest.mark.parametrize("lat", [pytest.param(-20.0, marks=pytest.mark.slow), 84.0])
def test_no_pose_is_turned_further_than_5_degrees_from_a_heading_that_is_known(locator, world, lat):
    photo = torch.from_numpy(_query(world, (lat, 60.0), 40.0, 12.0)).permute(2, 0, 1)
    for known in (0.0, 9.0):
        for level in locator.map_zoom.locate(photo, heading_deg=known).levels:
            turn = (level.poses.heading_deg - known + 180) % 360 - 180
            assert turn.abs().max() < 5 + 1e-9
    assert turn[0] == pytest.approx(3, abs=2)


def test_more_windows_are_looked_into_where_alike_cells_decide_nothing(locator, world):
    counts = []

    def describe(photos):
        counts.append(len(photos))
        return locator.map_zoom.describe(photos)

    zoom = replace(locator.map_zoom, describe=describe)
    looked = []
    for photo in (
        torch.from_numpy(_query(world, (12.0, 60.0), 35.0, 100.0)).permute(2, 0, 1),
        torch.full((3, 64, 64), 120, dtype=torch.uint8),
    ):
        counts.clear()
        zoom.locate(photo)
        looked.append(sum(counts))
    assert looked[0] < looked[1]


def test_examples_are_a_prior_of_the_zoom(locator, world):
    photo = _query(world, (-20.0, 60.0), 40.0, 0.0)
    example = icgeo.Example(_query(world, (-22.0, 63.0), 40.0, 0.0), -22.0, 63.0)
    (alone,), (both,) = locator.locate(photo), locator.locate(photo, [example])
    assert both.levels
    assert both.density.mass.sum().item() == pytest.approx(1)
    assert sphere.distance_km((both.lat, both.lon), (alone.lat, alone.lon)).item() < 100
    assert not torch.equal(both.density.mass, alone.density.mass)


@pytest.mark.slow
def test_a_locators_own_examples_count_as_those_of_a_call(locator, world):
    photo = _query(world, (-20.0, 60.0), 40.0, 0.0)
    example = icgeo.Example(_query(world, (-22.0, 63.0), 40.0, 0.0), -22.0, 63.0)
    (called,) = locator.locate(photo, [example])
    own = icgeo.Geolocator(locator.loaded, map=world, examples=[example])
    (kept,), (nothing,) = own.locate(photo), own.locate(photo, [])
    assert torch.equal(kept.density.mass, called.density.mass)
    assert torch.equal(nothing.density.mass, locator.locate(photo)[0].density.mass)


@pytest.mark.slow
def test_a_model_loaded_with_options_takes_examples_beside_a_map(world):
    photo = _query(world, (-20.0, 60.0), 40.0, 0.0)
    example = icgeo.Example(photo, -20.0, 60.0)
    (found,) = icgeo.Geolocator("tiny", dtype="float32", map=world).locate(photo, [example])
    assert found.levels


def test_without_zoom_the_views_are_examples(locator, world):
    photo = _query(world, (-20.0, 60.0), 40.0, 0.0)
    (found,) = icgeo.Geolocator(locator.loaded, map=world, zoom=False).locate(photo)
    assert found.levels == ()
    assert found.heading_deg is None


def test_what_wide_views_say_is_part_of_level_0_and_where_nothing_agrees_of_the_answer(locator):
    grey = torch.full((3, 64, 64), 120, dtype=torch.uint8)
    there = Density.from_mixture([-30.0, 50.0], kappas=3000)
    shown = []

    def wide(photos):
        shown.append(photos.shape)
        return [there] * len(photos)

    zoom = replace(locator.map_zoom, wide=wide)
    found = zoom.locate(grey, heading_deg=0.0)
    assert [shape[1:] for shape in shown] == [(3, 64, 64)]
    near = there.mass > 1e-6
    least = LEAST_SHARE * zoom.settings.wide
    assert found.levels[0].density.mass[near].sum() > 0.99 * least
    elsewhere = 1 - found.levels[-1].probability.sum()
    assert found.density.mass[near].sum() > 0.99 * (1 - zoom.settings.even) * elsewhere
    assert elsewhere > 0.5


@pytest.fixture
def windows():
    """Two windows a quarter of a planet apart, ten times as wide the one as the other."""
    lat_lon = torch.tensor([[0.0, 0.0], [0.0, 90.0]], dtype=torch.float64)
    poses = Poses(sphere.to_xyz(lat_lon), torch.tensor([40.0, 4.0]).double(), torch.zeros(2))
    views = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    return Windows(poses, views, 20 * torch.ones(2), *torch.zeros(2, 2))


def test_a_window_a_tenth_as_wide_is_one_of_a_hundred_times_as_many(locator, windows):
    _, probability = locator.map_zoom._chained(Density.uniform(), windows)
    assert probability[0] / probability[1] == pytest.approx(100)


def test_a_place_is_as_wide_as_least_squares_say(locator, windows):
    settings = locator.map_zoom.settings
    error = torch.tensor([0.002, 0.04])
    _, sigma = weighed(replace(windows, likeness=0.99 * torch.ones(2), error=error), settings)
    pixels = sigma * 64 / windows.poses.field_of_view_deg
    assert pixels.tolist() == pytest.approx((settings.width * error).tolist())


def test_another_photo_than_the_map_shows_is_told_by_its_colours(locator, world):
    """A photo whose colours are those of another kind of map agrees in brightness alone."""
    photo = _query(world, (12.0, 60.0), 35.0, 0.0)
    brightness = photo.mean(-1)
    other = np.stack((brightness, brightness, 255 - brightness), -1).round().astype(np.uint8)
    (same,), (found,) = locator.locate(photo), locator.locate(other)
    assert same.levels[-1].likeness[0] > 0.9
    assert (found.levels[-1].likeness == 0).all()
