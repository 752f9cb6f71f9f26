"""Tests of examples and predictions, against closed forms and files on disk."""

import io
import json
import math

import numpy as np
import pandas
import pytest
import shapely
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from icgeo.data.photos import as_photos
from icgeo.prediction import Example, Prediction, as_examples
from icgeo.sphere import AREA_KM2
from icgeo.sphere.density import Density

PHOTO = np.zeros((8, 8, 3), dtype=np.uint8)


@given(st.floats(-90, 90), st.floats(-360, 360))
def test_an_example_keeps_its_place_and_wraps_its_longitude(lat, lon):
    example = Example(PHOTO, lat, lon)
    assert example.lat == lat
    assert -180 <= example.lon < 180
    assert math.isclose(math.cos(math.radians(example.lon - lon)), 1, abs_tol=1e-12)


@pytest.mark.parametrize("place", [(139.7, 35.7), (math.nan, 0), (0, 500)])
def test_an_example_off_the_globe_is_refused(place):
    with pytest.raises(ValueError, match=r"expected l(at|ong)itude in"):
        Example(PHOTO, *place)


def test_swapped_coordinates_are_suspected():
    with pytest.raises(ValueError, match=r"got 139\.7.*swapped"):
        Example(PHOTO, 139.7, 35.7)


@pytest.fixture
def manifest(tmp_path):
    for name in "ab":
        Image.fromarray(PHOTO).save(tmp_path / f"{name}.png")
    path = tmp_path / "examples.csv"
    path.write_text("image,latitude,longitude\na.png,48.5,2.25\nb.png,-33.5,190\n")
    return path


def test_examples_come_in_every_form(manifest):
    places = [(48.5, 2.25), (-33.5, -170.0)]
    paths = [manifest.parent / name for name in ("a.png", "b.png")]
    tuples = [(paths[0], (48.5, 2.25)), (paths[1], (-33.5, 190))]
    forms = [
        manifest,
        str(manifest),
        tuples,
        [Example(p, *at) for p, at in tuples],
        [(p, *at) for p, at in tuples],
        [{"image": p, "lat": lat, "lon": lon} for p, (lat, lon) in tuples],
        [{"path": p, "latitude": lat, "longitude": lon, "note": 1} for p, (lat, lon) in tuples],
        pandas.DataFrame({"image": paths, "lat": [48.5, -33.5], "lon": [2.25, 190]}),
        pandas.DataFrame({"latitude": [48.5, -33.5], "image": paths, "longitude": [2.25, 190]}),
    ]
    for form in forms:
        found = as_examples(form)
        assert [(example.lat, example.lon) for example in found] == places
        assert [example.image for example in found] == paths
    assert as_examples(None) == as_examples([]) == []


def test_a_manifest_of_examples_needs_locations_and_stays_in_its_folder(manifest, tmp_path):
    (tmp_path / "sub").mkdir()
    outside = tmp_path / "sub" / "outside.csv"
    outside.write_text("image,lat,lon\n../a.png,1,2\n")
    with pytest.raises(ValueError, match="allow_outside"):
        as_examples(outside)
    assert as_examples(outside, allow_outside=True)[0].lat == 1
    manifest.write_text("image,lat,lon\na.png,,\n")
    with pytest.raises(ValueError, match="expected photos with locations, found none"):
        as_examples(manifest)


@pytest.mark.parametrize("wrong", [Example(PHOTO, 1, 2), {"image": PHOTO}, 3])
def test_what_is_no_list_is_named(wrong):
    with pytest.raises(ValueError, match=f"expected a list of examples.*{type(wrong).__name__}"):
        as_examples(wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        (PHOTO, (1.0, 2.0)),
        [(PHOTO, (1.0,))],
        [(PHOTO, 1.0, 2.0, 3.0)],
        ["a.png"],
        [{"image": PHOTO, "lat": 1.0}],
    ],
)
def test_what_is_no_list_of_examples_is_refused(wrong):
    with pytest.raises(ValueError, match=r"expected examples as Example.*number"):
        as_examples(list(wrong))


def prediction(*, located=True, kappa=40.0):
    density = Density.from_mixture([20.0, 30.0], kappa)
    place = (20.0, 30.0) if located else (math.nan, math.nan)
    return Prediction(density, *place, legibility=0.8, located=located, seconds=0.01)


def test_a_prediction_is_a_line_of_json():
    """A cap of probability p has 1 - cos r = -log(1 - p (1 - exp(-2 kappa))) / kappa (Ulrich 1984).

    Cells of nside 64 have a millionth of the sphere each; the cap is resolved to about 2 %.
    """
    values = json.loads(json.dumps(prediction().to_dict(), allow_nan=False))
    assert (values["lat"], values["lon"], values["located"]) == (20.0, 30.0, True)
    for percent in (50, 90):
        cap = -math.log(1 - percent / 100 * (1 - math.exp(-80))) / 40 / 2 * AREA_KM2
        assert values[f"area_{percent}_km2"] == pytest.approx(cap, rel=0.02)


def test_without_an_answer_there_is_no_point():
    values = json.loads(json.dumps(prediction(located=False).to_dict(), allow_nan=False))
    assert values["lat"] is None
    assert values["lon"] is None
    assert values["located"] is False


def test_its_text_is_short_and_invents_no_point():
    assert repr(prediction(located=False)) == "Prediction(not located, legibility 0.80)"
    assert repr(prediction()).startswith("Prediction(20.00, 30.00, 90 % in 14,")
    assert len(repr([prediction(), prediction()])) < 200


def test_the_region_has_the_area_that_the_line_tells():
    found = prediction()
    region = found.credible_region(0.9)
    assert region.area_km2.sum() == pytest.approx(found.to_dict()["area_90_km2"])
    assert region.contains(shapely.Point(30.0, 20.0)).any()


def test_a_table_without_places_is_refused():
    with pytest.raises(ValueError, match=r"\"lat\": .*, got dict as number 0"):
        as_examples(pandas.DataFrame({"image": ["a.png"], "town": ["Lyon"]}))
    with pytest.raises(ValueError, match="expected latitude in"):
        as_examples(pandas.DataFrame({"image": ["a.png"], "lat": [math.nan], "lon": [2.0]}))


def test_a_prediction_is_built_of_its_density():
    density = Density.from_mixture([20.0, 30.0], 40.0)
    samples = torch.rand(3, 3, 4, 8, generator=torch.Generator().manual_seed(0))
    best = Prediction.from_density(density, legibility=0.5, seconds=1.0, samples=samples)
    assert best.located
    assert (best.lat, best.lon) == pytest.approx((20, 30), abs=0.5)
    assert torch.equal(best.map, samples.mean(0))
    point = torch.tensor([1.0, 2.0])
    said = Prediction.from_density(density, point, legibility=0.01, located=True, seconds=1.0)
    assert (said.lat, said.lon, said.map) == (1, 2, None)
    nowhere = Prediction.from_density(density, point, legibility=0.01, seconds=1.0)
    assert not nowhere.located
    assert math.isnan(nowhere.lat)


def test_streams_are_read_as_photos(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    with (tmp_path / "a.png").open("rb") as file:
        photos = as_photos([io.BytesIO(data), file])
    assert photos == as_photos(io.BytesIO(data)) * 2 == [data, data]
    assert as_examples([(io.BytesIO(data), (1, 2))])[0].image == data
    with pytest.raises(ValueError, match="got StringIO"):
        as_photos(io.StringIO("a.png"))
