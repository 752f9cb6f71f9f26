"""Tests of the pairs of answers that the arena shows."""

from itertools import pairwise

import numpy as np
import pytest
from pandas import concat
from PIL import Image

from icgeo.app.duels import describe, left_to_vote, make_duels, reveal, standings
from icgeo.evaluation.arena import add_vote
from icgeo.evaluation.rows import Row, to_frame

ANSWERS = {"one": (48.86, 2.35), "two": (-33.9, 151.2), "same": (48.86, 2.35), "none": (None, None)}


@pytest.fixture
def rows(tmp_path):
    """Ten photos, of which the last has no file, and four locators."""
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    rows = []
    for number in range(10):
        source = tmp_path / ("photo.png" if number < 9 else "gone.png")
        known = {"source": str(source), "true_lat": 48.86, "true_lon": 2.35}
        for name, (lat, lon) in ANSWERS.items():
            rows.append(Row(name, "e", "w", f"q{number}", 0, lat=lat, lon=lon, **known))
    rows.append(Row("broken", "e", "w", "q0", 0, source=str(tmp_path / "photo.png"), error="no"))
    return to_frame(rows)


def test_each_two_that_differ_meet_once_on_each_photo(rows):
    duels = make_duels(rows)
    assert len(duels) == 9 * 5, "of six pairs one answers alike"
    assert len({duel.key for duel in duels}) == len(duels)
    assert {duel.photo.name for duel in duels} == {"photo.png"}


def test_a_photo_at_several_shots_is_one_photo(rows, tmp_path):
    """Its votes are not independent; a duel at each number of shots is voted on."""
    duels = make_duels(concat([rows, rows.assign(shots=4)]))
    assert len({duel.key for duel in duels}) == len(duels) == 2 * 9 * 5
    assert len({duel.vote(1.0).photo for duel in duels}) == 9
    add_vote(tmp_path / "votes.jsonl", duels[0].vote(0.0))
    assert left_to_vote(duels, tmp_path / "votes.jsonl") == duels[1:]


def test_sides_and_order_are_drawn(rows):
    duels = make_duels(rows)
    pair = frozenset(("one", "two"))
    sides = [duel.a.locator for duel in duels if duel.key[1] == pair]
    assert {*sides} == {"one", "two"}
    assert duels == make_duels(rows)
    assert [one.key for one in duels] != [one.key for one in make_duels(rows, seed=1)]
    queries = [duel.query for duel in duels]
    assert np.mean([a == b for a, b in pairwise(queries)]) < 0.5


def test_nothing_tells_whose_answers_they_are(rows):
    duels = make_duels(rows)
    for place, duel in enumerate(duels):
        told = describe(duel)
        assert not any(f"{name} " in told for name in ("one", "two", "same"))
        after = reveal(duel, "Tie", duels[place + 1 :])
        is_last = all(other.photo != duel.photo for other in duels[place + 1 :])
        assert (duel.a.locator in after) == is_last
        assert ("The truth: 48.86° N, 2.35° E" in after) == is_last


def test_what_was_voted_on_is_not_shown_again(rows, tmp_path):
    votes, duels = tmp_path / "votes.jsonl", make_duels(rows)
    assert left_to_vote(duels, votes) == duels
    assert standings(votes).startswith("No ratings yet")
    for duel in duels[:30]:
        add_vote(votes, duel.vote(1.0 if duel.a.locator in ("one", "same") else 0.5))
    left = left_to_vote(make_duels(rows, seed=5), votes)
    assert {duel.key for duel in left} == {duel.key for duel in duels[30:]}
    assert "| one |" in standings(votes)
