"""Tests of locators that choose among the examples of their episodes."""

from dataclasses import replace
from functools import partial

import pytest

from icgeo import features
from icgeo.baselines import RETRIEVAL, NearestPixels
from icgeo.data.worlds import procedural_world
from icgeo.evaluation import BASELINES, choose_examples, episodes, world_episode


@pytest.fixture(autouse=True)
def _low(monkeypatch):
    low = partial(procedural_world, height=64)
    monkeypatch.setattr(episodes.worlds, "procedural_world", low)
    monkeypatch.setattr(episodes.orbit, "open_world", lambda name: low("terrain", generator=1))


def test_locators_choose_beside_retrieval_from_the_same_bank():
    episode = world_episode("cells", queries=3, shots=20)
    runs, baselines = choose_examples(
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
        choose_examples([(NearestPixels(), episode)], "best", features.open("pixels"), shots=2)


def test_rivals_answer_for_known_truths_alone():
    episode = world_episode("cells", queries=3, shots=4)
    first, *others = episode.queries
    asked = replace(episode, queries=[replace(first, lat_lon=None), *others])
    told = [(NearestPixels(), asked)], "nearest", features.open("pixels")
    (((_, every),), ((_, known),)) = choose_examples(*told, shots=2)
    assert [query.id for query in every.queries] == [query.id for query in asked.queries]
    assert [query.id for query in known.queries] == [query.id for query in others]
    runs, baselines = choose_examples(told[0], "random", None, shots=2)
    assert (len(runs), baselines) == (1, [])


def test_unknown_truths_have_no_rival():
    episode = world_episode("cells", queries=1, shots=2)
    asked = [replace(query, lat_lon=None) for query in episode.queries]
    _, baselines = choose_examples(
        [(NearestPixels(), replace(episode, queries=asked))],
        "random",
        features.open("pixels"),
        shots=2,
    )
    assert baselines == []
