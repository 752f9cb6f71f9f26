"""Views of a map as examples: the grid, what is kept on disk, and a map given to a locator."""

import json
import math
from concurrent.futures import CancelledError
from dataclasses import replace
from functools import partial
from threading import Event

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import icgeo
from icgeo import Example, Geolocator, cli, sphere
from icgeo.app import session
from icgeo.app.session import ExampleList, Request, Shot, build_locator, choose_examples
from icgeo.config import UsageError
from icgeo.data import map_cache
from icgeo.data.base_maps import open_map
from icgeo.data.orbit import ViewOptions, open_world, random_views
from icgeo.map_views import even_grid, map_views, suited_field_of_view
from icgeo.models import load


@pytest.fixture(autouse=True)
def assets(tmp_path, monkeypatch):
    """What is kept on disk goes to an empty folder."""
    found = partial(map_cache.cached_assets_path, assets_dir=tmp_path / "assets")
    monkeypatch.setattr(map_cache, "cached_assets_path", found)
    return tmp_path / "assets"


@pytest.fixture(scope="module")
def earth():
    return open_map(open_world("blue-marble", height=256))


@pytest.fixture(scope="module")
def queries():
    """Three views of the Earth, by haze and exposure unlike those cut from the map."""
    views = random_views(
        open_world("blue-marble"),
        3,
        generator=torch.Generator().manual_seed(3),
        options=ViewOptions(field_of_view_deg=(30.0, 50.0)),
    )
    return [photo.movedim(0, -1).numpy() for photo in views.images], views.lat_lon


@given(st.floats(2.0, 60.0), st.randoms(use_true_random=False))
def test_no_place_is_far_from_an_even_grid(spacing, random):
    """Half the diagonal of a square of this side, and a quarter for the shapes of the cells."""
    centres = sphere.to_xyz(even_grid(None, spacing))
    lat, lon = math.degrees(math.asin(random.uniform(-1, 1))), random.uniform(-180, 180)
    place = sphere.to_xyz(torch.tensor([lat, lon], dtype=torch.float64))
    assert sphere.angle(place, centres).min() <= math.radians(spacing) * math.sqrt(0.5) * 1.25


@pytest.mark.parametrize(
    "bounds", [(-21.0, 176.0, -12.0, -178.0), (60.0, -180.0, 90.0, 180.0), (41.0, -5.0, 51.5, 9.6)]
)
def test_the_grid_of_a_region_is_inside_of_it(bounds):
    south, west, north, east = bounds
    grid = even_grid(bounds, 2.0)
    lat, lon = grid.unbind(-1)
    width = (east - west) % 360 or 360
    assert ((lat >= south) & (lat <= north) & ((lon - west) % 360 <= width)).all()
    side = math.radians(width) * (math.sin(math.radians(north)) - math.sin(math.radians(south)))
    nside = round(math.sqrt(math.pi / 3) / math.radians(2.0))
    cells = side / (4 * math.pi / 12 / (2 ** math.ceil(math.log2(nside))) ** 2)
    assert len(grid) == pytest.approx(cells, rel=0.35), "as many as its area holds"


def test_a_region_smaller_than_the_grid_has_one_view():
    assert even_grid((40.0, 5.0, 40.1, 5.1), 40.0).tolist() == [[40.05, pytest.approx(5.05)]]


def test_views_of_a_planet_are_examples_at_their_places(earth):
    examples = map_views(earth, size=16).examples()
    assert len(examples) == 192
    assert suited_field_of_view(earth, 16) == 40
    assert examples[0].image.shape == (16, 16, 3)
    sahara = min(examples, key=lambda one: float(sphere.distance_km((one.lat, one.lon), (22, 10))))
    red, _, blue = sahara.image[4:12, 4:12].mean((0, 1))
    assert red > 1.3 * blue, "it is sand"


def test_views_are_kept_on_disk_and_damaged_ones_are_cut_again(earth, assets, monkeypatch):
    first = map_views(earth, size=8)
    (path,) = assets.rglob("*.safetensors")

    def cut_again(*_, **__):
        pytest.fail("they are on disk")

    with monkeypatch.context() as patch:
        patch.setattr(type(earth), "views", cut_again)
        again = map_views(earth, size=8)
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.lat_lon, again.lat_lon)
    path.write_bytes(b"damaged")
    assert torch.equal(map_views(earth, size=8).images, first.images)


def test_descriptors_are_kept_and_those_of_another_encoder_are_not_taken(earth):
    views, calls = map_views(earth, size=8), []

    def describe(images, *, scale=1.0):
        calls.append(len(images))
        return images.float().mean((2, 3)) * scale

    first = views.described("mean", describe)
    assert torch.equal(views.described("mean", describe), first)
    assert calls == [192, 1, 1], "all once, then one to see whether it is the same"
    other = views.described("mean", partial(describe, scale=2.0))
    assert torch.equal(other, 2 * first), "under the same name, yet another encoder"


def test_what_is_kept_has_a_limit_and_the_longest_unused_goes(earth, monkeypatch, assets):
    import os

    def make(name):
        tensors = {"x": torch.full((1000,), float(ord(name)))}
        return map_cache.kept(earth, (name,), lambda: tensors)

    monkeypatch.setattr(map_cache, "MOST_BYTES", 9_000)
    for age, name in enumerate("ab"):
        make(name)
        for path in assets.rglob("*.safetensors"):
            os.utime(path, (path.stat().st_atime, 1000 + age))
    make("a")  # used again
    make("c")
    sizes = [path.stat().st_size for path in assets.rglob("*.safetensors")]
    assert sum(sizes) <= 9_000
    made = []
    map_cache.kept(earth, ("a",), lambda: made.append("a") or {"x": torch.zeros(1)})
    map_cache.kept(earth, ("b",), lambda: made.append("b") or {"x": torch.zeros(1)})
    assert made == ["b"]


def test_a_map_alone_locates_and_needs_no_example(queries):
    """As far as half the distance of its views; from nothing, photos are some 240 km off."""
    photos, places = queries
    predictions = icgeo.predict(photos, map="blue-marble", zoom=False)
    found = torch.tensor([[one.lat, one.lon] for one in predictions])
    assert sphere.distance_km(found, places).max() < 300
    assert all(one.located for one in predictions)


def test_with_a_map_and_examples_both_are_used(earth, queries):
    photos, places = queries
    own = [Example(photo, *place) for photo, place in zip(photos, places.tolist(), strict=True)]
    locator = Geolocator(map=earth)
    numbers = locator.choose_for(photos, own)
    assert numbers.shape == (3, 16)
    assert numbers[:, 0].tolist() == [0, 1, 2], "the photo itself is the most alike"
    assert (numbers[:, 1:] >= 3).sum() > 20, "views of the map stand behind the user's own"
    assert numbers.max() < 3 + 192
    alone = Geolocator(map=earth).choose_for(photos)
    assert alone.shape == (3, 16)
    vectors = locator._chooser.bank(locator._bank_examples(own)).index
    views = map_views(earth, size=64).examples()
    assert torch.allclose(vectors[3:], Geolocator(map=earth)._chooser.bank(views).index)


def test_no_shots_and_no_photos_see_no_map(earth, queries):
    locator = Geolocator(map=earth, shots=0)
    (prediction,), (alone,) = (one.locate(queries[0][:1], []) for one in (locator, Geolocator()))
    assert torch.equal(prediction.density.mass, alone.density.mass)
    assert Geolocator(map=earth).locate([]) == []


def test_a_map_is_saved_by_its_name_and_an_open_one_is_refused(earth, tmp_path):
    folder = Geolocator(map="blue-marble", shots=2).save_pretrained(tmp_path / "mine")
    again = Geolocator.from_pretrained(folder)
    assert (again.map, again.shots) == ("blue-marble", 2)
    with pytest.raises(UsageError, match="map by name or path"):
        Geolocator(map=earth).save_pretrained(tmp_path / "other")


def test_a_saved_locator_asks_for_the_same_map(tmp_path):
    path = tmp_path / "planet.png"
    Image.fromarray(np.zeros((20, 40, 3), np.uint8)).save(path)
    folder = Geolocator(map=path, zoom=False).save_pretrained(tmp_path / "mine")
    assert Geolocator.from_pretrained(folder).map == str(path)
    Image.fromarray(np.ones((20, 40, 3), np.uint8)).save(path)
    with pytest.raises(UsageError, match=r"planet\.png with which the locator was saved"):
        Geolocator.from_pretrained(folder)
    path.unlink()
    with pytest.raises(UsageError, match="found another or none"):
        Geolocator.from_pretrained(folder)
    assert Geolocator.from_pretrained(folder, map=None).map is None


def test_what_a_zoom_has_no_use_for_is_refused(earth, queries):
    photos, _ = queries
    for options in ({"steps": 2}, {"shots": 4}, {"select": "diverse", "augment": 1}):
        with pytest.raises(UsageError, match=f"expected examples with {', '.join(options)}, got"):
            Geolocator(map=earth, **options).prepare()
    with pytest.raises(UsageError, match="expected examples with callback_on_step_end"):
        Geolocator(map=earth).locate(photos, callback_on_step_end=lambda *_: None)
    for options in ({}, {"map": earth, "zoom": False}):
        with pytest.raises(ValueError, match="where no map is zoomed on, got 10"):
            Geolocator(heading=10.0, **options)


def test_the_command_takes_a_map(queries, tmp_path, capsys):
    photos, places = queries
    Image.fromarray(photos[0]).save(tmp_path / "photo.png")
    told = ["predict", str(tmp_path / "photo.png"), "--map", "blue-marble", "--json"]
    assert cli.main([*told, "--zoom=false"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert sphere.distance_km((row["lat"], row["lon"]), places[0]) < 300
    assert cli.main([*told[:3], "blue-mable"]) == 2
    error = capsys.readouterr().err
    assert "blue-mable" in error
    assert len(error.splitlines()) == 1


def test_the_page_chooses_among_the_map_and_the_examples(queries, tmp_path):
    photos, places = queries
    photo = Image.fromarray(photos[0])
    bank = ExampleList((Shot("own", photo, tuple(places[0].tolist())),))
    request = Request([], bank, "tiny", "Most alike", 4, 1, 1, map="Blue Marble")
    locator = build_locator(load("tiny"), request)
    shown = choose_examples(locator, photo, request)
    assert len(shown) == 4
    assert shown[0] is bank.examples[0]
    assert shown[1].image.shape == (64, 64, 3)
    zoomed = replace(request, zoom=True)
    assert choose_examples(build_locator(load("tiny"), zoomed), photo, zoomed) == [shown[0]]
    path = tmp_path / "given.png"
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(path)
    given = Request([], bank, "tiny", "Most alike", 4, 1, 1, map_file=str(path))
    with pytest.raises(ValueError, match="twice as wide as high") as error:
        session.open_request_map(given)
    assert str(tmp_path) not in str(error.value)


@pytest.fixture
def given_map(tmp_path):
    path = tmp_path / "given.png"
    Image.fromarray(np.zeros((20, 40, 3), np.uint8)).save(path)
    return Request([], ExampleList(), "tiny", "Most alike", 4, 1, 1, map_file=str(path))


def test_a_map_that_a_visitor_gave_is_kept_as_long_as_it_is_open(given_map, assets):
    def describe(images):
        described.append(len(images))
        return images.float().mean((2, 3))

    described, opened = [], session.open_request_map(given_map)
    for _ in range(2):
        again = session.open_request_map(given_map)
        assert len(map_views(again, size=8).described("mean", describe)) == 192
    assert described == [192, 1, 1], "the second time one view is described, to compare"
    assert not [*assets.rglob("*.safetensors")], "nothing of it is among the maps of all"
    assert len([*opened.cache.iterdir()]) == 2
    folder = opened.cache
    session.open_given_map.cache_clear()
    assert folder.exists(), "it is in use"
    del opened, again
    assert not folder.exists()


def test_cancel_stops_the_cutting_of_views(given_map):
    cancelled = Event()
    opened = session.open_request_map(given_map, cancelled)
    assert len(map_views(opened, size=8).images) == 192
    cancelled.set()
    with pytest.raises(CancelledError):
        map_views(opened, size=16)
