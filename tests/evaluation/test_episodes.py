"""Tests of episodes: reproducible, nested, and robust to a user's files."""

from itertools import islice

import numpy as np
import pandas
import pytest
import torch
from PIL import Image

import icgeo.data
from icgeo.baselines import Chance
from icgeo.data.leakage import LeakageGuard
from icgeo.data.orbit import land_mask
from icgeo.data.worlds import pixel_xyz
from icgeo.evaluation import (
    Episode,
    Query,
    benchmark_episodes,
    evaluate,
    photo_episode,
    read_examples,
    world_episode,
)
from icgeo.evaluation.episodes import (
    EARTH,
    SEEN,
    TURNED_EARTH,
    benchmark_queries,
    group_episodes,
    turned,
)


def same(a, b):
    return all(
        np.array_equal(x.photo, y.photo) and x.lat_lon == y.lat_lon
        for x, y in zip(a.queries, b.queries, strict=True)
    )


def test_a_name_and_a_seed_give_the_same_episode_always():
    first, again, other = (
        world_episode("terrain", number, queries=3, shots=2, seed=1) for number in (0, 0, 1)
    )
    assert same(first, again)
    assert not same(first, other)
    assert [e.lat for e in first.examples] == [e.lat for e in again.examples]
    assert len({query.id for one in (first, other) for query in one.queries}) == 6


def test_views_of_the_earth_show_land():
    episode = world_episode(EARTH, queries=40, shots=2)
    land = land_mask(180)[0]
    for query in episode.queries:
        lat, lon = query.lat_lon
        row, column = int(90 - lat), int(lon + 180)
        near = land[max(row - 30, 0) : row + 30].roll(180 - column, dims=1)
        wide = 30 if abs(lat) < 50 else 180
        assert near[:, 180 - wide : 180 + wide].mean() > 0.05
    assert episode.is_earth
    assert episode.prompt == "earth"


def test_other_worlds_are_unknown():
    episode = world_episode(TURNED_EARTH, queries=1, shots=0)
    assert not episode.is_earth
    assert episode.prompt == "unknown world"


def test_turning_is_rigid():
    """Colours linear in the direction stay so under rotation and mixing, at poles and seam too."""
    xyz = pixel_xyz(64)
    world = (0.5 + 0.15 * xyz).movedim(-1, 0).contiguous()
    found = turned(world, generator=torch.Generator().manual_seed(0))
    design = torch.cat((xyz, torch.ones(64, 128, 1)), dim=-1).reshape(-1, 4).double()
    values = found.reshape(3, -1).T.double()
    fit = torch.linalg.lstsq(design, values).solution
    assert (design @ fit - values).abs().max() < 0.004  # of bilinear sampling
    torch.testing.assert_close(fit[3], torch.full((3,), 0.5).double(), atol=1e-3, rtol=0)
    assert (fit[:3] - 0.15 * torch.eye(3)).abs().max() > 0.02


def test_shots_are_nested_and_at_most_the_examples_at_hand():
    episode = world_episode("terrain", queries=1, shots=3)
    assert episode.shots((16, 0, 1, 2)) == [0, 1, 2, 3]


def test_without_truth_only_most_shots_count():
    episode = Episode("a", "b", [], [Query("c", np.zeros((4, 4, 3), np.uint8))])
    assert episode.shots((0, 4, 16)) == [0]


def test_an_unknown_world_is_refused():
    with pytest.raises(ValueError, match="expected a world"):
        world_episode("nowhere.jpg")


@pytest.fixture
def folder(tmp_path):
    for number in range(4):
        Image.new("RGB", (16, 16), (60 * number, 0, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / "broken.jpg").write_bytes(b"")
    rows = [f"{number}.png,{10 * number},{20 * number + 5}" for number in range(4)]
    (tmp_path / "examples.csv").write_text(
        "\n".join(["image,lat,lon", *rows, "broken.jpg,1,2", "0.png,139.7,35.7"]) + "\n"
    )
    (tmp_path / "queries.csv").write_text("image\n0.png\nbroken.jpg\n")
    return tmp_path


def test_examples_that_cannot_be_used_are_skipped_and_named(folder, caplog):
    episode = photo_episode(folder / "queries.csv", read_examples(folder / "examples.csv"))
    assert sorted(example.lat for example in episode.examples) == [0, 10, 20, 30]
    assert [query.lat_lon for query in episode.queries] == [None, None]
    assert [query.source for query in episode.queries] == [
        str(folder / name) for name in ("0.png", "broken.jpg")
    ]
    messages = [record.getMessage() for record in caplog.records]
    assert any("row 7" in message and "swapped" in message for message in messages)
    assert any("broken.jpg" in message and "skipped" in message for message in messages)
    assert episode.is_earth


def test_of_many_examples_some_are_drawn_by_seed(folder):
    def places(seed):
        return [one.lat for one in read_examples(folder / "examples.csv", shots=2, seed=seed)]

    assert places(0) == places(0)
    assert len(places(0)) == 2
    assert len({tuple(places(seed)) for seed in range(8)}) > 1


def test_photos_need_no_examples(folder):
    assert photo_episode(folder / "queries.csv").examples == ()


@pytest.fixture
def benchmark(tmp_path):
    """Im2GPS with five photos, of which one is broken and one is lost."""
    rows = ["IMG_ID,LAT,LON"]
    (tmp_path / "images").mkdir()
    for number in range(5):
        rows.append(f"{number}.png,{10 * number},{20 * number}")
        Image.new("RGB", (16, 16), (40 * number, 0, 0)).save(tmp_path / "images" / f"{number}.png")
    (tmp_path / "images" / "2.png").write_bytes(b"broken")
    (tmp_path / "images" / "4.png").unlink()
    (tmp_path / "im2gps_places365.csv").write_text("\n".join(rows))
    return icgeo.data.open("im2gps", tmp_path)


def test_a_benchmark_gives_queries_as_they_are_asked_for(benchmark):
    first, second = islice(benchmark_queries(benchmark), 2)
    assert (first.id, first.lat_lon, second.lat_lon) == ("0.png", (0, 0), (10, 20))
    assert first.source == str(first.photo)


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_rows_of_a_benchmark_do_not_depend_on_the_chunk(benchmark, folder, tmp_path, chunk):
    examples = read_examples(folder / "examples.csv", shots=2)
    runs = [(Chance(), one) for one in benchmark_episodes(benchmark, examples, chunk=chunk)]
    assert {episode.prompt for _, episode in runs} == {"earth"}
    rows = evaluate(runs, folder=tmp_path / "run", shots=(0, 2), baselines=False)
    assert {
        (row.id, row.shots, row.true_lat, pandas.isna(row.error)) for row in rows.itertuples()
    } == {(f"{n}.png", shots, 10 * n, n != 2) for n in range(4) for shots in (0, 2)}
    assert {*zip(rows.episode, rows.world, strict=True)} == {("im2gps-test", "im2gps")}


def test_examples_that_give_a_query_away_are_left_out_and_named(benchmark, folder, caplog):
    """One at the place of a query, one that is the picture of another, one that is neither."""
    noise = np.random.default_rng(0).integers(256, size=(3, 32, 32, 3), dtype=np.uint8)
    for name, pixels in zip(("near.png", "copy.png", "other.png"), noise, strict=True):
        Image.fromarray(pixels).save(folder / name)
    Image.fromarray(noise[1]).save(folder / "images" / "3.png")
    rows = ("near.png,0.001,0.001", "copy.png,-40,5", "other.png,-50,5")
    (folder / "bank.csv").write_text("\n".join(["image,lat,lon", *rows]) + "\n")
    guard = LeakageGuard(benchmark, within_km=1)
    examples = read_examples(folder / "bank.csv", guard=guard)
    assert [example.lat for example in examples] == [-50]
    messages = [record.getMessage() for record in caplog.records]
    assert sum("away; skipped it" in message for message in messages) == 2
    assert len(read_examples(folder / "bank.csv")) == 3


def test_each_episode_of_a_group_has_a_world_of_its_own():
    first, second = group_episodes(SEEN, 2, queries=1)
    assert first.world != second.world
    assert len(first.examples) == 16
