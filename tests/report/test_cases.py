"""Tests of cases: the right ones chosen, their pictures kept, small and without tags."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.ExifTags import IFD
from report_rows import rows, write_run

from icgeo import maps
from icgeo.evaluation import Episode, Query, to_frame
from icgeo.prediction import Example, Prediction
from icgeo.report.run_folder import (
    Case,
    _draw_case,
    _told,
    choose_cases,
    draw_density,
    load_cases,
    save_figures,
)
from icgeo.selection import Bank, Random, Selecting
from icgeo.sphere.density import Density

STYLE = maps.MapStyle(height=16, width=32)


class North:
    """Answers 10 degrees north of the equator, whatever it sees."""

    name = "icgeo"

    def __init__(self):
        self.shots = []

    def locate(self, photos, examples):
        self.shots.append(len(examples))
        density = Density.from_mixture([10.0, 20.0], 100.0, nside=8)
        drawn = maps.draw([10.0, 20.0], STYLE)
        return [Prediction(density, 10.0, 20.0, 0.9, True, 0.1, map=drawn) for _ in photos]


def test_the_best_and_worst_with_most_shots_are_chosen():
    cases = choose_cases(to_frame(rows(count=8)), each=3)
    assert [*zip(cases.kind, cases.id, strict=True)] == [
        ("best", "q0"),
        ("best", "q1"),
        ("best", "q2"),
        ("worst", "q7"),
        ("worst", "q6"),
        ("worst", "q5"),
    ]
    assert {*zip(cases.locator, cases.shots, strict=True)} == {("icgeo", 4)}


def test_no_query_is_a_case_twice_and_silence_is_a_guess():
    some = [row for row in rows(count=4) if row.shots == 4]
    silent = replace(some[0], id="silent", lat=None, lon=None, distance_km=None)
    cases = choose_cases(to_frame([*some, silent]), each=3)
    assert list(cases.id) == ["q0", "q1", "q2", "silent", "q3"]


def test_answers_of_unknown_truth_are_chosen_by_their_area():
    some = [
        replace(row, nll=None, distance_km=None, true_lat=None, true_lon=None, area_90_km2=area)
        for row, area in zip(rows(count=3, locators=("icgeo",), shots=(4,)), (3, 1, 2), strict=True)
    ]
    cases = choose_cases(to_frame(some), each=1)
    assert [*zip(cases.kind, cases.id, strict=True)] == [("surest", "q1"), ("least sure", "q0")]


def photo_with_tags():
    image = Image.new("RGB", (1200, 800), (10, 200, 30))
    tags = Image.Exif()
    tags.get_ifd(IFD.GPSInfo).update({1: "N", 2: (48.0, 51.0, 0.0), 3: "E", 4: (2.0, 21.0, 0.0)})
    stream = io.BytesIO()
    image.save(stream, "JPEG", exif=tags)
    return stream.getvalue()


@pytest.mark.slow
def test_pictures_are_kept_small_and_without_tags(tmp_path):
    some = rows(count=4, locators=("icgeo",))
    folder = write_run(tmp_path, some)
    places = {row.id: (row.true_lat, row.true_lon) for row in some}
    queries = [Query(name, photo_with_tags(), place) for name, place in places.items()]
    examples = [Example(np.zeros((8, 8, 3), np.uint8), 0, 0)] * 6
    locator = North()
    runs = [(locator, Episode("e", "moon", examples, queries))]
    save_figures(folder, to_frame(some), runs, STYLE, each=1)
    assert locator.shots == [6, 4]  # the gallery, then all cases at once
    assert sum(path.stat().st_size for path in (folder / "cases").iterdir()) < 200_000
    first, last = load_cases(folder, to_frame(some), each=1).itertuples()
    assert (first.id, last.id) == ("q0", "q3")
    photo = Image.open(io.BytesIO(first.photo.data))
    assert photo.size == (240, 160)
    assert not photo.getexif()
    assert Image.open(io.BytesIO(first.map.data)).size == (32, 16)
    assert first.density.uri.startswith("data:image/png;base64,")


def test_figures_say_what_was_shown():
    bank = [Example(np.full((8, 8, 3), 9 * n, np.uint8), 0, n) for n in range(6)]
    chosen = Selecting(North(), Bank(bank), Random())
    assert _told(chosen, bank[:4]) == "4 of 6 examples shown, choice: random"
    assert _told(North(), bank) == "6 examples shown, the same to each photo"
    query = Query("q", np.zeros((8, 8, 3), np.uint8), (1.0, 2.0))
    episode, (answer,) = Episode("e", "moon", bank, [query]), North().locate([query.photo], bank)
    title = _draw_case(Case(North(), episode, query, 4, answer), "best").get_suptitle()
    assert title == "moon: best of 1 photos, 4 examples shown, the same to each photo"


def test_the_index_leads_nowhere_else(tmp_path):
    some = rows(count=1, locators=("icgeo",), shots=(1,))
    folder = write_run(tmp_path, some)
    (tmp_path / "secret.png").write_bytes(b"secret")
    (folder / "cases").mkdir()
    entry = {"key": some[0].key, "photo": "../../secret.png", "map": "/etc/hostname"}
    (folder / "cases" / "cases.json").write_text(json.dumps([entry]))
    (case,) = load_cases(folder, to_frame(some)).itertuples()
    assert case.photo is case.map is None
    (folder / "cases" / "cases.json").write_text("torn")
    (case,) = load_cases(folder, to_frame(some)).itertuples()
    assert (case.locator, case.episode, case.id, case.shots) == some[0].key


def test_marks_keep_their_colours():
    """Green of the truth and orange of the answer, in a picture this small."""
    (prediction,) = North().locate([None], [])
    image = draw_density(prediction, (-40.0, -100.0), on_earth=False)
    pixels = np.asarray(Image.open(io.BytesIO(image.data)).convert("RGB")).astype(int)
    for colour in ((0x00, 0x9E, 0x73), (0xD5, 0x5E, 0x00)):
        assert (np.abs(pixels - colour).max(-1) < 30).sum() > 10
    assert torch.isfinite(torch.from_numpy(pixels)).all()
