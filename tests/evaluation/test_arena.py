"""Tests of the arena: ratings recover what votes were simulated from."""

import math

import numpy as np
import pytest
from pandas import DataFrame
from sklearn.linear_model import LogisticRegression

from icgeo.evaluation.arena import (
    Vote,
    add_vote,
    automatic_votes,
    bradley_terry,
    ratings,
    ratings_table,
    read_runs,
    read_votes,
)
from icgeo.evaluation.rows import Row, to_frame, write_rows

STRENGTHS = {"strong": 1200.0, "good": 1080.0, "fair": 960.0, "weak": 760.0}
"""Mean 1000; adjacent ones win with odds of 2 to 1 and of 3.2 to 1."""


def simulated(votes, seed):
    """Draw votes by the model itself, two on each photo."""
    generator = np.random.default_rng(seed)
    names = list(STRENGTHS)
    for number in range(votes):
        first, second = generator.choice(names, 2, replace=False)
        wins = 1 / (1 + 10 ** ((STRENGTHS[second] - STRENGTHS[first]) / 400))
        score = float(generator.random() < wins)
        yield Vote(f"photo {number % (votes // 2)}", str(first), str(second), score)


def test_ratings_recover_known_strengths_within_their_intervals():
    """Of 20 arenas with 4 locators each, 95 % intervals hold about 76 of 80 strengths."""
    held, orders = 0, 0
    for seed in range(20):
        table = ratings([*simulated(600, seed)], resamples=200).set_index("locator")
        orders += [*table.index] == list(STRENGTHS)
        for name, strength in STRENGTHS.items():
            held += table.loc[name, "low"] <= strength <= table.loc[name, "high"]
        assert table["rating"].mean() == pytest.approx(1000)
        assert (table["low"] < table["rating"]).all()
    assert 70 <= held <= 80
    assert orders == 20


def test_two_locators_have_a_closed_form():
    """Wins 30 to 10 are odds of 3, log10(3) times 400 points; ties add a half to both."""
    points = bradley_terry(np.array([[0.0, 30.0], [10.0, 0.0]]))
    assert points[0] - points[1] == pytest.approx(400 * math.log10(3), rel=1e-3)
    votes = [Vote(str(i), "a", "b", score) for i, score in enumerate(20 * [1.0] + 20 * [0.5])]
    table = ratings(votes, resamples=50)
    assert [*table["wins"]] == [30, 10]
    assert [*table["votes"]] == [40, 40]
    assert table["rating"].max() == pytest.approx(1000 + 200 * math.log10(3), abs=0.1)


def test_ratings_equal_a_logistic_regression():
    """As Chatbot Arena fits them: +1 and -1 for the two, no intercept (Chiang et al. 2024)."""
    votes, names = [*simulated(300, 5)], sorted(STRENGTHS)
    design = np.zeros((len(votes), 4))
    for row, vote in zip(design, votes, strict=True):
        row[names.index(vote.first)], row[names.index(vote.second)] = 1, -1
    model = LogisticRegression(fit_intercept=False, C=1e6, tol=1e-8)
    model.fit(design, [vote.score for vote in votes])
    other = 400 / math.log(10) * model.coef_[0]
    own = ratings(votes, resamples=1).sort_values("locator")["rating"].to_numpy()
    np.testing.assert_allclose(own - own.mean(), other - other.mean(), atol=0.3)


def test_one_that_never_loses_has_a_finite_rating():
    table = ratings([Vote(str(i), "a", "b", 1.0) for i in range(30)], resamples=20)
    assert np.isfinite(table[["rating", "low", "high"]].to_numpy()).all()
    assert table.loc[0, "locator"] == "a"


def test_votes_of_one_photo_are_drawn_together():
    """The same votes on few photos say less than on many."""
    votes = [*simulated(200, 3)]
    few = [Vote(str(i % 10), v.first, v.second, v.score) for i, v in enumerate(votes)]
    copied = [Vote(v.photo, v.first, v.second, v.score) for v in votes for _ in range(5)]
    width = [
        (table["high"] - table["low"]).mean()
        for table in (ratings(votes, resamples=200), ratings(copied, resamples=200))
    ]
    assert width[1] == pytest.approx(width[0], rel=0.2), "five copies of a vote are one vote"
    assert ratings(few, resamples=50)["rating"].tolist() == pytest.approx(
        ratings(votes, resamples=50)["rating"].tolist()
    )


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="expected votes to rate locators by, got none"):
        ratings([])
    with pytest.raises(
        ValueError, match=r"got 2 groups that meet in none: \[\['a', 'b'\], \['c', 'd'\]\]"
    ):
        ratings([Vote("1", "a", "b", 1.0), Vote("1", "c", "d", 0.0)])
    with pytest.raises(ValueError, match=r"expected a score of 0, 0\.5 or 1, got 2"):
        Vote("1", "a", "b", 2.0)
    with pytest.raises(ValueError, match="got 'a' twice"):
        Vote("1", "a", "a", 1.0)


def row(locator, distance, query="q", **options):
    lat = None if distance is None else 0.0
    known = {"lat": lat, "lon": lat, "true_lat": 0.0, "true_lon": 0.0}
    return Row(locator, "e", "w", query, 4, **known | {"distance_km": distance} | options)


def test_the_nearer_answer_wins():
    rows = to_frame(
        [
            *(row("near", 10.0), row("nearly", 10.5), row("far", 900.0), row("none", None)),
            *(row("near", 12000.0, "other"), row("none", None, "other")),
            *(row("near", 5.0, "broken"), row("far", None, "broken", error="no photo")),
            row("far", 3.0, "untold", true_lat=None),
        ]
    )
    votes = {(v.photo, v.first, v.second): v.score for v in automatic_votes(rows)}
    assert votes == {
        ("e/q", "near", "nearly"): 0.5,
        ("e/q", "near", "far"): 1.0,
        ("e/q", "near", "none"): 1.0,
        ("e/q", "nearly", "far"): 1.0,
        ("e/q", "nearly", "none"): 1.0,
        ("e/q", "far", "none"): 1.0,
        ("e/other", "near", "none"): 0.0,
    }


def test_runs_of_the_same_locator_are_told_apart(tmp_path):
    for name, distance in (("old", 100.0), ("new", 50.0)):
        (tmp_path / name).mkdir()
        write_rows(tmp_path / name, [row("icgeo", distance), row(f"only {name}", 1.0)])
    frame = read_runs([tmp_path / "old", tmp_path / "new"])
    assert {*frame["locator"]} == {"old: icgeo", "new: icgeo", "only old", "only new"}
    assert isinstance(frame, DataFrame)
    for above in ("a", "b"):
        (tmp_path / above / "run").mkdir(parents=True)
        write_rows(tmp_path / above / "run", [row("icgeo", 1.0)])
    paths = [tmp_path / "a" / "run", tmp_path / "b" / "run"]
    assert {*read_runs(paths)["locator"]} == {f"{path.as_posix()}: icgeo" for path in paths}
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"expected predictions.* got none"):
        read_runs([tmp_path / "empty"])


def test_votes_survive_a_kill(tmp_path):
    path = tmp_path / "votes.jsonl"
    votes = [Vote("1", "a", "b", 1.0), Vote("2", "b", "a", 0.5)]
    for vote in votes:
        add_vote(path, vote)
    with path.open("a") as stream:
        stream.write('{"photo": "3", "fir')
    assert read_votes(path) == votes
    add_vote(path, Vote("4", "a", "b", 0.0))
    assert read_votes(path) == [*votes, Vote("4", "a", "b", 0.0)]
    path.write_text('{"photo": "3"}\n')
    with pytest.raises(ValueError, match="line 1: expected a vote"):
        read_votes(path)


def test_the_table_is_read_by_people():
    table = ratings([Vote(str(i), "a", "b", i % 3 / 2) for i in range(6)], resamples=20)
    first, _, line, _ = ratings_table(table).split("\n")
    assert first == "| | locator | rating | 95 % interval | wins | votes |"
    assert line.startswith("| 1 | a | 1000 | ")
