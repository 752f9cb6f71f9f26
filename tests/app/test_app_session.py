"""What a visitor gives: uploads, manifests, places."""

import gc
import socket
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from PIL.ExifTags import GPS, IFD

from icgeo.app import _free_port, launch, session
from icgeo.app.session import ExampleList, Shot, read_uploads
from icgeo.sphere import distance_km


@pytest.fixture
def photo(tmp_path):
    def save(name, *, place=None, folder="a"):
        path = tmp_path / folder / name
        path.parent.mkdir(exist_ok=True)
        picture = Image.fromarray(np.full((30, 40, 3), 90, dtype=np.uint8))
        exif = Image.Exif()
        if place:
            exif.get_ifd(IFD.GPSInfo).update(
                {
                    GPS.GPSLatitudeRef: "N",
                    GPS.GPSLatitude: (place[0], 0, 0),
                    GPS.GPSLongitudeRef: "E",
                    GPS.GPSLongitude: (place[1], 0, 0),
                }
            )
        picture.save(path, exif=exif)
        return path

    return save


def test_a_broken_file_is_told_by_its_name_and_the_others_are_taken(photo, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"not a photo")
    shots, problems = read_uploads([photo("one.jpg"), broken, photo("two.jpg", place=(48, 2))])
    assert [(shot.name, shot.place) for shot in shots] == [("one.jpg", None), ("two.jpg", (48, 2))]
    assert len(problems) == 1
    assert "broken.jpg: expected a photo" in problems[0]
    assert str(tmp_path) not in problems[0], "where the server keeps files is no one's business"


def test_too_many_pixels_are_refused_before_they_are_decoded(photo, monkeypatch):
    monkeypatch.setattr(session, "MAX_PIXELS", 1000)
    shots, problems = read_uploads([photo("large.png")])
    assert not shots
    assert "at most 1000 pixels, found 40 x 30" in problems[0]


def test_a_manifest_finds_its_photos_by_name_wherever_they_were_uploaded(photo, tmp_path):
    table = tmp_path / "bank.csv"
    table.write_text("image,lat,lon\nphotos/one.jpg,10,20\nphotos/two.jpg,,\n")
    uploads = [table, photo("one.jpg"), photo("two.jpg", folder="b"), photo("three.jpg")]
    shots, problems = read_uploads(uploads)
    assert not problems
    places = {shot.name: shot.place for shot in shots}
    assert places == {"one.jpg": (10, 20), "two.jpg": None, "three.jpg": None}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("bank.json", '[{"image": "one.jpg", "lat": 10, "lon": 20}]'),
        ("bank.JSONL", '{"image": "one.jpg", "lat": 10, "lon": 20}'),
        (
            "bank.geojson",
            '{"type": "Feature", "properties": {"image": "one.jpg"}, "geometry": {"type": "Point",'
            ' "coordinates": [20, 10]}}',
        ),
    ],
)
def test_all_kinds_of_tables_are_read(photo, tmp_path, name, text):
    (tmp_path / name).write_text(text)
    shots, problems = read_uploads([tmp_path / name, photo("one.jpg")])
    assert not problems
    assert [(shot.name, shot.place) for shot in shots] == [("one.jpg", (10, 20))]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("image,lat,lon\none.jpg,10,20\ngone.jpg,1,2\n", "1 of 2 are missing, gone.jpg first"),
        ("image,lat,lon\none.jpg,100,20\n", "expected latitude in"),
        ("image,lat,lon\n../../etc/passwd,1,2\n", "in the manifest's folder"),
    ],
)
def test_a_wrong_manifest_is_told(photo, tmp_path, rows, message):
    table = tmp_path / "bank.csv"
    table.write_text(rows)
    shots, problems = read_uploads([table, photo("one.jpg")])
    assert not shots, "its photos would have no place"
    assert message in problems[0]
    assert "/tmp" not in problems[0]


def test_photos_wait_for_their_place_in_order():
    picture = Image.new("RGB", (8, 8))
    bank = ExampleList().adding(
        [Shot("a", picture), Shot("b", picture, (1.0, 2.0)), Shot("c", picture)]
    )
    assert [shot.name for shot in bank.waiting] == ["a", "c"]
    placed = bank.placing(10, 20)
    assert [(e.lat, e.lon) for e in placed.examples] == [(10, 20), (1, 2)], "as uploaded"
    assert [shot.name for shot in placed.waiting] == ["c"]
    assert len(bank.examples) == 1, "a bank is replaced, never changed"
    with pytest.raises(ValueError, match="latitude"):
        placed.placing(91, 0)
    with pytest.raises(ValueError, match="waits"):
        ExampleList().placing(0, 0)


def test_a_bank_has_an_end():
    with pytest.raises(ValueError, match="at most 256 photos, got 257"):
        ExampleList().adding([Shot("a", Image.new("RGB", (8, 8)))] * 257)


@pytest.mark.slow
def test_views_from_orbit_are_the_same_for_a_seed_and_others_for_another():
    first, again, other = (
        session.built_in_views("Blue Marble", seed=seed, count=2) for seed in (0, 0, 1)
    )
    assert first[0].photo.tobytes() == again[0].photo.tobytes()
    assert first[0].place == again[0].place
    assert distance_km([*first[0].place], [*other[0].place]) > 100


def test_real_photos_of_known_places_are_a_set():
    assert session.REAL in session.set_names()
    shots = session.built_in_set(session.REAL, seed=0)
    assert len(shots) == 72
    assert all(-90 <= shot.place[0] <= 90 for shot in shots)
    assert len(ExampleList().adding(shots).examples) == 72


def test_each_example_can_be_moved_and_removed():
    picture = Image.new("RGB", (8, 8))
    shots = [Shot("a", picture, (1.0, 2.0)), Shot("b", picture), Shot("c", picture, (3.0, 4.0))]
    bank = ExampleList().adding(shots)
    first = replace(bank, chosen=0)
    assert [shot.place for shot in first.placing(5, 6).shots] == [(5, 6), None, (3, 4)]
    assert first.placing(5, 6).chosen is None
    assert [shot.name for shot in first.without_chosen().shots] == ["b", "c"]
    assert [shot.name for shot in bank.without_chosen().shots] == ["a", "b"], "else the last"
    assert ExampleList().without_chosen().shots == ()
    with pytest.raises(ValueError, match="click on an example to move it"):
        bank.placing(5, 6).placing(7, 8)


@pytest.mark.parametrize("text", ["48.86, 2.35", " 48.86  2.35 ", "48.86°, 2.35°", "48.86,2.35"])
def test_a_place_is_read_as_maps_give_it(text):
    assert session.read_place(text) == (48.86, 2.35)


@pytest.mark.parametrize("text", ["", "48.86", "1, 2, 3", "north, 2", "4_8.86, 2", "48,86 2,35"])
def test_no_place_is_made_up(text):
    with pytest.raises(ValueError, match=r"latitude and longitude.*type both"):
        session.read_place(text)


@pytest.mark.slow
def test_the_photo_itself_is_no_example(photo, tmp_path):
    """Also at another size and compression; a photo of the same size is not the same photo."""
    shots = session.built_in_set(session.REAL, seed=0)
    query = shots[7].photo
    again = tmp_path / "again.jpg"
    query.resize((query.width // 2, query.height // 2)).save(again, quality=60)
    bank = ExampleList(tuple(shots))
    for copy in (query, Image.open(again)):
        left = [shot.name for shot in shots if shot not in bank.without_photo(copy).shots]
        assert left == [shots[7].name]


@pytest.mark.parametrize("port", [None, 99_999])
def test_a_port_that_cannot_be_had_is_told_before_anything_is_loaded(port):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = port or taken.getsockname()[1]
        with pytest.raises(OSError, match=f"port {number}.*give another"):
            launch(port=number, model="no such model")


def test_a_host_that_is_not_there_is_told():
    with pytest.raises(OSError, match=r"there is no no\.such\.host .*give another --host"):
        launch(host="no.such.host", model="no such model")


def test_any_free_port_can_be_asked_for():
    assert _free_port("127.0.0.1", 0) > 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_page_has_its_parts():
    """Gradio leaves an event loop open as it is imported: it is collected here."""
    pytest.importorskip("gradio", reason="needs the extra [demo]")
    from icgeo.app.interface import build

    page = build("tiny")
    names = {part["props"].get("elem_id") for part in page.config["components"]}
    assert names >= {"photos", "examples", "world", "locate", "cancel", "summary", "files"}
    gc.collect()
