"""What the page shows: steps of the drawing, maps, files."""

import json
import math
from dataclasses import replace
from threading import Event

import geopandas
import numpy as np
import pytest
import torch
from PIL import Image

from icgeo import Density, Example, Geolocator, Prediction
from icgeo.app import outputs, session
from icgeo.app.session import (
    FIRST,
    WAYS_TO_CHOOSE,
    CancelledError,
    ExampleList,
    Request,
    Shot,
    build_locator,
    choose_examples,
    locate_in_steps,
)
from icgeo.models import load
from icgeo.plots import plot_interactive

PARIS = (48.8566, 2.3522)


def photo(seed=0):
    values = np.random.default_rng(seed).integers(0, 255, (48, 48, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.fixture(scope="module")
def locator():
    return Geolocator(steps=3, samples=2)


@pytest.fixture(scope="module")
def prediction():
    density = Density.from_mixture([[*PARIS]], math.radians(5) ** -2, nside=16)
    return Prediction(density, *PARIS, legibility=0.8, located=True, seconds=0.5)


def test_steps_end_in_what_the_locator_says_alone(locator):
    examples = [Example(photo(1), 10, 20)]
    *maps, answer = locate_in_steps(locator, photo(), examples, cancelled=Event())
    alone = locator.locate([photo()], examples)[0]
    assert len(maps) == 3
    assert torch.allclose(maps[-1], alone.map, atol=1e-5), "the last step is what is read"
    assert not torch.allclose(maps[0], maps[-1], atol=1e-3)
    assert torch.equal(answer.map, alone.map)
    assert (answer.lat, answer.lon) == (alone.lat, alone.lon)


@pytest.mark.parametrize("choice", WAYS_TO_CHOOSE)
def test_each_photo_is_shown_what_is_chosen_for_it(choice):
    if WAYS_TO_CHOOSE[choice][1] is not None:
        pytest.importorskip("efficientnet_lite_pytorch", reason="needs the extra [selection]")
    bank = ExampleList(tuple(Shot(f"{seed}", photo(seed), (10, seed)) for seed in range(6)))
    request = Request([], bank, "tiny", choice, shots=2, steps=1, samples=1)
    locator = build_locator(load("tiny"), request)
    shown = choose_examples(locator, photo(4), request)
    assert len(shown) == 2
    expected = bank.examples[0] if choice == FIRST else bank.examples[4]
    assert shown[0] is expected, "the same photo is the most alike"


def test_cancelling_stops_between_two_steps(locator):
    cancelled, seen = Event(), []

    def drawing():
        for step in locate_in_steps(locator, photo(), [], cancelled=cancelled):
            seen.append(step)
            cancelled.set()

    cancelled.set()
    with pytest.raises(CancelledError):
        drawing()
    assert not seen


def test_whoever_stops_listening_stops_the_drawing(locator):
    cancelled = Event()
    steps = locate_in_steps(locator, photo(), [], cancelled=cancelled)
    next(steps)
    steps.close()
    assert cancelled.is_set()


def test_the_map_to_click_on_is_in_the_box():
    pytest.importorskip("plotly", reason="needs the extra [demo]")
    bank = ExampleList((Shot("a", photo(), (-33.9, 151.2)), Shot("waits", photo())))
    text = outputs.draw_world(bank)
    figure = json.loads(text)
    assert "http" not in text, "nothing is fetched"
    assert figure["config"]["scrollZoom"]
    (earth,) = figure["layout"]["images"]
    assert earth["source"].startswith("data:image/jpeg")
    assert (earth["x"], earth["y"], earth["sizex"], earth["sizey"]) == (-180, 90, 360, 180)
    *_, marks = figure["data"]
    assert (marks["x"], marks["y"]) == ([151.2], [-33.9])
    assert len(text) < 800_000, "it is sent again with each example"


def test_what_the_model_cannot_know_is_counted(locator):
    """Noise is unlike all views from orbit; of none there is nothing to say."""
    assert session.count_unlike(locator, [Example(photo(1), 10, 20)]) == 1
    assert session.count_unlike(locator, []) == 0


def test_the_map_shows_the_density_where_it_is(prediction):
    pytest.importorskip("plotly", reason="needs the extra [demo]")
    figure = plot_interactive(prediction, truth=(40.0, 0.0))
    heat = figure.data[0]
    row, column = np.unravel_index(np.argmax(heat.z), heat.z.shape)
    assert (heat.y[row], heat.x[column]) == pytest.approx(PARIS, abs=3)
    names = [trace.name for trace in figure.data[1:]]
    assert names == ["coastlines", "50% region", "90% region", "answer", "truth"]
    assert "http" not in figure.to_json(), "nothing is fetched"


def test_the_summary_names_the_city(prediction):
    rows = dict(outputs.summary(prediction, truth=(48.8566, 3.3522)))
    assert rows["Nearest city"] == "Paris 04 Hôtel-de-Ville, France (0 km away)"
    assert rows["Distance to the truth"] == "73 km", "a degree of longitude there: 111.2 cos(lat)"
    assert rows["Place"] == "48.86° N, 2.35° E"
    area = float(rows["90% region"].removesuffix(" km²").replace(",", ""))
    assert area == pytest.approx(prediction.density.credible_area_km2(0.9), rel=5e-3)


def test_no_city_is_named_on_another_planet(prediction):
    assert "Nearest city" not in dict(outputs.summary(prediction, is_earth=False))
    assert "Nearest city" not in dict(outputs.summary(replace(prediction, world="unknown world")))
    bank = ExampleList()
    request = Request([], bank, "tiny", FIRST, 4, 1, 1, map_file="uploads/mars.png")
    assert not request.is_earth, "a picture does not say of which planet it is"
    assert replace(request, map_file="uploads/fiji.TIF").is_earth
    assert replace(request, map_file=None).is_earth


def test_a_photo_of_another_kind_has_a_caution_beside_its_answer(prediction):
    assert "Caution" not in dict(outputs.summary(replace(prediction, in_domain=True)))
    first, *_ = outputs.summary(replace(prediction, in_domain=False))
    assert first == ["Caution", outputs.OTHER_KIND]


def test_no_place_is_invented():
    nowhere = Prediction(
        Density.uniform(16), float("nan"), float("nan"), 0.0, located=False, seconds=0.1
    )
    rows = dict(outputs.summary(nowhere))
    assert rows["Map"].startswith("not legible")
    assert "Place" not in rows


def test_files_hold_the_answer(prediction, tmp_path):
    paths = outputs.save_files(prediction, Shot("../a b<c>.jpg", photo()), tmp_path / "new")
    assert [path.removeprefix(f"{tmp_path}/new/") for path in paths] == [
        "a-b-c.geojson",
        "a-b-c.parquet",
        "a-b-c.fits",
        "a-b-c.png",
    ]
    frame = geopandas.read_file(paths[0])
    point = frame[frame["kind"] == "point"].geometry.iloc[0]
    assert (point.y, point.x) == pytest.approx(PARIS)
    areas = frame[frame["probability"] == 0.9].to_crs("EPSG:6933").area.sum()
    assert areas / 1e6 == pytest.approx(prediction.density.credible_area_km2(0.9), rel=0.02)
    for path in paths[1:3]:
        assert torch.allclose(Density.load(path).mass, prediction.density.mass)
    with Image.open(paths[3]) as picture:
        assert picture.format == "PNG"
