"""Test of comparing choices of examples end to end, on a few views.

The nearest example by pixels answers in place of a model, whose maps take long to read.
"""

from functools import partial

import pandas
import pytest
import torch
from script_runs import load_script

import icgeo
from icgeo import config, features
from icgeo.baselines import NearestPixels
from icgeo.data.worlds import procedural_world
from icgeo.evaluation import BASELINES, episodes
from icgeo.evaluation.episodes import EARTH, HELD_OUT
from icgeo.sphere import distance_km, fibonacci_grid, to_lat_lon

module = load_script("experiments/selections")


@pytest.fixture(autouse=True)
def _low(monkeypatch):
    low = partial(procedural_world, height=64)
    monkeypatch.setattr(episodes.worlds, "procedural_world", low)
    monkeypatch.setattr(episodes.orbit, "open_world", lambda name: low("terrain", generator=1))
    monkeypatch.setattr(module, "VIEWS_AT_ONCE", 8)


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run the experiment; give its folder."""

    def run(*options):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(icgeo, "Geolocator", lambda *model, **more: NearestPixels())
        words = [str(word) for word in ("--features", "[pixels]", *options)]
        module.main(config.parse(module.Options, words))
        return tmp_path / "runs" / "selections"

    return run


def test_choices_are_compared(monkeypatch, run, capsys):
    monkeypatch.setattr(module, "VIEWS_AT_ONCE", 4)
    few = ("--queries", 1, "--shots", "[1,2]", "--bank", 4, "--held_out", 1, "--earth", 0)
    more = ("--banks", "[16]", "--bank_queries", 1, "--bank_worlds", 1)
    folder = run(*few, *more)
    tables = [(folder / f"{name}.md").read_text() for name in ("strategies", "banks")]
    printed = capsys.readouterr().out
    assert all(table in printed for table in tables)
    for name in ("strategies", "banks"):
        assert (folder / f"{name}.png").stat().st_size > 10_000
    sizes = pandas.read_parquet(folder / "banks.parquet")
    assert set(sizes.shots) == {16}
    assert set(sizes.world) == {
        f"{world}, {how}"
        for world in ("held-out families", "blue-marble")
        for how in ("drawn", "grid")
    }


def places(bank):
    return [(example.lat, example.lon) for example in bank]


@pytest.mark.parametrize("world", ["cells", EARTH])
def test_banks_share_a_world_and_queries(world):
    asked, found = module.world_with_banks(world, queries=3, sizes=(5, 20))
    assert set(found) == {("drawn", 5), ("drawn", 20), ("grid", 5), ("grid", 20)}
    assert [len(bank) for bank in found.values()] == [5, 5, 20, 20]
    assert places(found["drawn", 20])[:5] == places(found["drawn", 5])
    assert len(set(places(found["drawn", 20]))) == 20
    grid = torch.tensor(places(found["grid", 20]), dtype=torch.float64)
    torch.testing.assert_close(grid, to_lat_lon(fibonacci_grid(20)))
    again, _ = module.world_with_banks(world, queries=3, sizes=(5,))
    assert [q.lat_lon for q in again.queries] == [q.lat_lon for q in asked.queries]
    assert asked.examples == ()


def test_photos_of_a_bank_show_its_places():
    """The nearest photo of a dense grid lies near: half of them within 15 degrees."""
    asked, found = module.world_with_banks("cells", queries=12, sizes=(300,))
    *_, retrieval = module.ways(
        NearestPixels(), found["grid", 300], {"pixels": features.open("pixels")}
    )
    predictions = retrieval.locate([query.photo for query in asked.queries])
    answers = torch.tensor([[p.lat, p.lon] for p in predictions]).double()
    truth = torch.tensor([query.lat_lon for query in asked.queries]).double()
    assert distance_km(answers, truth).median() < 1700


def test_families_take_turns():
    assert [*module.worlds(3, 1)] == [("craters", 0), ("cells", 1), ("craters", 2), (EARTH, 0)]


@pytest.mark.slow
def test_ways_are_compared_with_chance_choices(run, capsys):
    few = ("--queries", 2, "--shots", "[1,4]", "--bank", 12, "--held_out", 2, "--earth", 0)
    folder = run(*few, "--bank_worlds", 0)
    names = [
        "random", "stratified", "nearest in pixels", "diverse in pixels", "two-stage",
        "retrieval in pixels",
    ]  # fmt: skip
    rows = pandas.read_parquet(folder / "predictions.parquet")
    assert sorted(rows.locator.unique()) == sorted(names)
    assert not set(names) & set(BASELINES)  # which other tables set apart by their names
    assert len(rows) == 2 * 2 * 2 * len(names)
    text = (folder / "strategies.md").read_text()
    assert text.startswith(HELD_OUT)
    assert text in capsys.readouterr().out
    table = pandas.read_parquet(folder / "strategies.parquet")
    assert set(table.world) == {HELD_OUT}
    assert table["locator"].tolist() == 2 * names
    assert (table[table.locator == module.BASE].median_km_difference == 0).all()
    of = table.set_index(["locator", "shots"]).median_km
    # the nearest example answers for NearestPixels, whatever else it is shown
    assert of["nearest in pixels", 4] == of["retrieval in pixels", 4] == of["nearest in pixels", 1]


@pytest.mark.slow
def test_banks_are_compared_by_size_and_places(run):
    few = ("--banks", "[16,19]", "--bank_queries", 2, "--bank_worlds", 1)
    folder = run("--held_out", 0, "--earth", 0, *few)
    sizes = pandas.read_parquet(folder / "banks.parquet")
    assert {*zip(sizes.world, sizes.shots, strict=True)} == {
        (f"{world}, {how}", size)
        for world in (HELD_OUT, EARTH)
        for how in ("drawn", "grid")
        for size in (16, 19)
    }
    assert (folder / "banks" / "grid-19" / "predictions.jsonl").is_file()
