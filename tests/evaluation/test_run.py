"""Tests of evaluation: complete, resumable at any byte, and right."""

import json
import math
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pandas
import pytest
import torch
from PIL import Image

from icgeo.baselines import NearestPixels
from icgeo.evaluation import BASELINES, Episode, Query, Row, evaluate
from icgeo.metrics.densities import score_density
from icgeo.prediction import Example, Prediction

TIMES = {"seconds"}


@dataclass(frozen=True)
class Matcher(NearestPixels):
    """Nearest example by pixels, narrower than the baseline; counts the photos it is asked for."""

    name: ClassVar[str] = "matcher"
    kappa: float = 30.0
    asked: list[int] = field(default_factory=list)

    def locate(self, photos, examples):
        self.asked.append(len(photos))
        return super().locate(photos, examples)


def episode(name, *, queries=5, examples=4, seed=0):
    """Photos of noise in random places; each query is one of the examples with other noise."""
    generator = np.random.default_rng(seed)
    photos = generator.integers(256, size=(examples, 8, 8, 3), dtype=np.uint8)
    lat, lon = generator.uniform(-80, 80, examples), generator.uniform(-180, 180, examples)
    near = [number % examples for number in range(queries)]
    seen = [photos[n] // 2 + generator.integers(20, size=(8, 8, 3), dtype=np.uint8) for n in near]
    return Episode(
        name,
        "noise",
        [Example(*view) for view in zip(photos, lat, lon, strict=True)],
        [
            Query(f"{name}/{i}", photo, (float(lat[n] + 1), float(lon[n])))
            for i, (n, photo) in enumerate(zip(near, seen, strict=True))
        ],
    )


@pytest.fixture
def matcher():
    return Matcher()


@pytest.fixture
def episodes():
    return [episode("first", seed=1), episode("second", seed=2)]


def as_rows(frame):
    """Give the rows of a frame as they are written; None for what is not known."""
    known = ({k: v for k, v in row.items() if pandas.notna(v)} for row in frame.to_dict("records"))
    return [Row(**values) for values in known]


def without_times(rows):
    return sorted(
        (sorted((k, v) for k, v in vars(row).items() if k not in TIMES) for row in as_rows(rows)),
        key=str,
    )


def test_every_query_is_located_by_all_with_all_shots(matcher, episodes, tmp_path):
    rows = as_rows(evaluate([(matcher, e) for e in episodes], folder=tmp_path, shots=(0, 1, 4)))
    assert len(rows) == 2 * 5 * 3 * 4
    assert len({row.key for row in rows}) == len(rows)
    assert {row.locator for row in rows} == {
        *("matcher", "chance", "nearest by pixels", "nearest oracle")
    }
    assert all(row.error is None and row.located for row in rows)


def test_rows_hold_the_scores_of_the_prediction(matcher, episodes, tmp_path):
    """The distance is that of the spherical law of cosines, in double precision."""
    rows = as_rows(evaluate([(matcher, episodes[0])], folder=tmp_path, shots=(4,), baselines=False))
    predictions = matcher.locate([q.photo for q in episodes[0].queries], episodes[0].examples)
    for row, found in zip(rows, predictions, strict=True):
        lat, to = math.radians(row.lat), math.radians(row.true_lat)
        turn = math.radians(row.lon - row.true_lon)
        cosine = math.sin(lat) * math.sin(to) + math.cos(lat) * math.cos(to) * math.cos(turn)
        assert row.distance_km == pytest.approx(6371 * math.acos(cosine), abs=0.01)
        truth = [row.true_lat, row.true_lon]
        assert row.nll == -found.density.log_prob(truth).item()
        assert row.level == found.density.credible_level(truth).item()
        assert row.area_90_km2 == found.density.credible_area_km2(0.9)
        assert row.searched_area_km2 == score_density(found.density, truth).searched_area_km2
        assert (row.lat, row.lon) == (found.lat, found.lon)


def test_a_finished_run_is_not_run_again(matcher, episodes, tmp_path):
    runs = [(matcher, e) for e in episodes]
    first = evaluate(runs, folder=tmp_path, shots=(1, 2), batch_size=2)
    asked = sum(matcher.asked)
    content = (tmp_path / "predictions.jsonl").read_bytes()
    assert evaluate(runs, folder=tmp_path, shots=(1, 2), batch_size=5).equals(first)
    assert sum(matcher.asked) == asked
    assert (tmp_path / "predictions.jsonl").read_bytes() == content


@pytest.mark.slow
def test_a_run_killed_at_any_byte_ends_with_the_same_rows(matcher, episodes, tmp_path):
    runs = [(matcher, e) for e in episodes]
    path = tmp_path / "predictions.jsonl"
    whole = without_times(evaluate(runs, folder=tmp_path, shots=(0, 2), batch_size=3))
    content = path.read_bytes()
    for share in (0.0, 0.37, 0.62, 0.999):
        path.write_bytes(content[: int(share * len(content))])
        again = evaluate(runs, folder=tmp_path, shots=(0, 2), batch_size=3)
        assert without_times(again) == whole


def test_only_what_is_missing_is_located(matcher, episodes, tmp_path):
    evaluate([(matcher, episodes[0])], folder=tmp_path, shots=(1,))
    matcher.asked.clear()
    rows = evaluate([(matcher, e) for e in episodes], folder=tmp_path, shots=(1, 2))
    assert sum(matcher.asked) == 5 + 2 * 5
    assert len(rows) == 2 * 2 * 5 * 4


@pytest.fixture
def photos(tmp_path, episodes):
    """Files of which one is empty, and one whose place is not known."""
    Image.fromarray(episodes[0].queries[0].photo).save(tmp_path / "good.png")
    (tmp_path / "empty.jpg").touch()
    places = {"good.png": (1.0, 2.0), "empty.jpg": (3.0, 4.0), "unknown.png": None}
    Image.fromarray(episodes[0].queries[1].photo).save(tmp_path / "unknown.png")
    paths = {name: str(tmp_path / name) for name in places}
    queries = [Query(name, paths[name], place, paths[name]) for name, place in places.items()]
    return Episode("photos", "photos", episodes[0].examples, queries)


def test_a_photo_that_cannot_be_read_is_a_row_and_no_crash(matcher, photos, tmp_path):
    rows = as_rows(evaluate([(matcher, photos)], folder=tmp_path / "run", shots=(2,)))
    own = {row.id: row for row in rows if row.locator == "matcher"}
    assert own["empty.jpg"].error.endswith("fetch it again or leave it out")
    assert own["empty.jpg"].lat is None
    assert own["good.png"].distance_km is not None
    assert own["unknown.png"].lat is not None
    assert own["unknown.png"].distance_km is own["unknown.png"].nll is None
    assert {row.id for row in rows if row.locator in BASELINES} == {"good.png"}
    assert own["good.png"].source.endswith("good.png")


class Silent(NearestPixels):
    """Never answers, but has a density."""

    def locate(self, photos, examples):
        return [
            Prediction(p.density, math.nan, math.nan, legibility=0.0, located=False, seconds=0.0)
            for p in super().locate(photos, examples)
        ]


def test_no_answer_is_no_point_but_has_a_likelihood(episodes, tmp_path):
    rows = as_rows(
        evaluate([(Silent(), episodes[0])], folder=tmp_path, shots=(1,), baselines=False)
    )
    assert all(row.located is False and row.lat is row.distance_km is None for row in rows)
    assert all(math.isfinite(row.nll) for row in rows)
    (score,) = json.loads((tmp_path / "summary.json").read_text())["scores"]
    assert score["located"] == 0
    assert score["median_km"] == pytest.approx(math.pi / 2 * 6371)
    assert score["geoscore"] < 7


def test_the_folder_holds_table_and_summary(matcher, episodes, tmp_path):
    rows = evaluate([(matcher, e) for e in episodes], folder=tmp_path, shots=(4,))
    table = pandas.read_parquet(tmp_path / "predictions.parquet")
    assert len(table) == len(rows)
    own = table[table.locator == "matcher"]
    scores = json.loads((tmp_path / "summary.json").read_text())["scores"]
    (score,) = (one for one in scores if one["locator"] == "matcher")
    assert score["median_km"] == pytest.approx(own.distance_km.median())
    assert score["nll"] == pytest.approx(own.nll.mean())
    assert score["covered"] == pytest.approx((own.level <= 0.9).mean())
    assert score["median_km_low"] <= score["median_km"] <= score["median_km_high"]
    assert not torch.tensor(own.seconds.to_numpy()).isnan().any()
