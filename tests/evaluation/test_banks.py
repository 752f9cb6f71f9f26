"""Tests of banks of any size, and of comparing the ways to choose from them."""

from dataclasses import replace
from functools import partial

import pandas
import pytest
import torch

from icgeo import features
from icgeo.baselines import NearestPixels
from icgeo.data.worlds import procedural_world
from icgeo.evaluation import BASELINES, banks, benchmarks
from icgeo.evaluation.banks import GROUPS, RANDOM, numbered, ways, world_with_banks
from icgeo.evaluation.benchmarks import EARTH, world_episode
from icgeo.evaluation.evidence import HELD_OUT
from icgeo.evaluation.legacy import RETRIEVAL
from icgeo.sphere import distance_km, fibonacci_grid, to_lat_lon


@pytest.fixture(autouse=True)
def _low(monkeypatch):
    low = partial(procedural_world, height=64)
    monkeypatch.setattr(benchmarks, "procedural_world", low)
    monkeypatch.setattr(benchmarks, "open_world", lambda name: low("terrain", generator=1))
    monkeypatch.setattr(banks, "VIEWS_AT_ONCE", 8)


def places(bank):
    return [(example.lat, example.lon) for example in bank]


@pytest.mark.parametrize("world", ["cells", EARTH])
def test_banks_share_a_world_and_queries(world):
    asked, found = world_with_banks(world, queries=3, sizes=(5, 20))
    assert set(found) == {("drawn", 5), ("drawn", 20), ("grid", 5), ("grid", 20)}
    assert [len(bank) for bank in found.values()] == [5, 5, 20, 20]
    assert places(found["drawn", 20])[:5] == places(found["drawn", 5])
    assert len(set(places(found["drawn", 20]))) == 20
    grid = torch.tensor(places(found["grid", 20]), dtype=torch.float64)
    torch.testing.assert_close(grid, to_lat_lon(fibonacci_grid(20)))
    again, _ = world_with_banks(world, queries=3, sizes=(5,))
    assert [q.lat_lon for q in again.queries] == [q.lat_lon for q in asked.queries]
    assert asked.examples == ()


def test_photos_of_a_bank_show_its_places():
    """The nearest photo of a dense grid lies near: half of them within 15 degrees."""
    asked, found = world_with_banks("cells", queries=12, sizes=(300,))
    *_, retrieval = ways(NearestPixels(), found["grid", 300], {"pixels": features.open("pixels")})
    predictions = retrieval.locate([query.photo for query in asked.queries])
    answers = torch.tensor([[p.lat, p.lon] for p in predictions]).double()
    truth = torch.tensor([query.lat_lon for query in asked.queries]).double()
    assert distance_km(answers, truth).median() < 1700


def test_families_take_turns():
    expected = [("craters", 0), ("cells", 1), ("craters", 2), (EARTH, 0)]
    assert numbered({HELD_OUT: 3, EARTH: 1}) == expected
    assert list(GROUPS) == [HELD_OUT, EARTH]


def test_ways_are_compared_with_chance_choices(tmp_path):
    opened = {"pixels": features.open("pixels")}
    episodes = [world_episode("cells", number, queries=2, shots=12) for number in range(2)]
    rows = banks.compare_ways(NearestPixels(), opened, episodes, folder=tmp_path, shots=(1, 4))
    names = [
        RANDOM, "stratified", "nearest in pixels", "diverse in pixels", "two-stage",
        "retrieval in pixels",
    ]  # fmt: skip
    assert sorted({row.locator for row in rows}) == sorted(names)
    assert not set(names) & set(BASELINES)  # which other tables set apart by their names
    assert len(rows) == 2 * 2 * 2 * len(names)
    assert {row.world for row in rows} == {HELD_OUT}
    text = banks.write_comparison(tmp_path, rows, name="strategies")
    assert text.startswith(HELD_OUT)
    assert (tmp_path / "strategies.md").read_text() == text
    table = pandas.read_parquet(tmp_path / "strategies.parquet")
    assert table["locator"].tolist() == 2 * names
    assert (table[table.locator == RANDOM]["km_above.estimate"] == 0).all()
    of = table.set_index(["locator", "shots"]).median_km
    # the nearest example answers for NearestPixels, whatever else it is shown
    assert of["nearest in pixels", 4] == of["retrieval in pixels", 4] == of["nearest in pixels", 1]


def test_banks_are_compared_by_size_and_places(tmp_path):
    opened = {"pixels": features.open("pixels")}
    worlds = [world_with_banks("cells", queries=2, sizes=(4, 9))]
    rows = banks.compare_banks(NearestPixels(), opened, worlds, folder=tmp_path, shots=3)
    assert {(row.world, row.shots) for row in rows} == {
        (f"{HELD_OUT}, {how}", size) for how in ("drawn", "grid") for size in (4, 9)
    }
    assert (tmp_path / "grid-9" / "predictions.jsonl").is_file()


def test_locators_choose_beside_retrieval_from_the_same_bank():
    episode = world_episode("cells", queries=3, shots=20)
    runs, baselines = banks.choosing(
        [(NearestPixels(), episode), (NearestPixels(), episode)],
        "nearest",
        features.open("pixels"),
        shots=2,
    )
    assert [locator.name for locator, _ in runs] == 2 * [NearestPixels.name]
    assert {locator.name for locator, _ in baselines} == {RETRIEVAL} <= {*BASELINES}
    for locator, shown in (*runs, *baselines):
        assert len(shown.examples) == 2
        assert len(locator.bank) == 20
        assert locator.bank is runs[0][0].bank or locator.name == RETRIEVAL
    photos = [query.photo for query in episode.queries]
    (chooser, shown), (retrieval, _) = runs[0], baselines[0]
    for a, b in zip(
        chooser.locate(photos, shown.examples[:1]), retrieval.locate(photos), strict=True
    ):
        assert (a.lat, a.lon) == (b.lat, b.lon)
    with pytest.raises(ValueError, match="expected select to be one of"):
        banks.choosing([(NearestPixels(), episode)], "best", features.open("pixels"), shots=2)


def test_rivals_answer_for_known_truths_alone():
    episode = world_episode("cells", queries=3, shots=4)
    first, *others = episode.queries
    asked = replace(episode, queries=[replace(first, lat_lon=None), *others])
    told = [(NearestPixels(), asked)], "nearest", features.open("pixels")
    (((_, every),), ((_, known),)) = banks.choosing(*told, shots=2)
    assert [query.id for query in every.queries] == [query.id for query in asked.queries]
    assert [query.id for query in known.queries] == [query.id for query in others]
    runs, baselines = banks.choosing(told[0], "random", None, shots=2)
    assert (len(runs), baselines) == (1, [])


def test_unknown_truths_have_no_rival():
    episode = world_episode("cells", queries=1, shots=2)
    asked = [replace(query, lat_lon=None) for query in episode.queries]
    _, baselines = banks.choosing(
        [(NearestPixels(), replace(episode, queries=asked))],
        "random",
        features.open("pixels"),
        shots=2,
    )
    assert baselines == []
