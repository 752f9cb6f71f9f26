"""Tests of scripts/arena.py on run folders."""

import importlib.util
from pathlib import Path

import pytest

from icgeo.config import UsageError
from icgeo.evaluation.arena import Vote, add_vote
from icgeo.evaluation.rows import Row, write_rows


@pytest.fixture
def arena():
    path = Path(__file__).parents[2] / "scripts" / "arena.py"
    spec = importlib.util.spec_from_file_location("arena_script", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(tmp_path):
    known = {"lat": 0.0, "lon": 0.0, "true_lat": 0.0, "true_lon": 0.0}
    rows = [
        Row(name, "e", "w", str(i), 4, distance_km=distance + 300.0 * (i % 3), **known)
        for i in range(12)
        for name, distance in (("near", 100.0), ("far", 500.0))
    ]
    write_rows(tmp_path, rows)
    return tmp_path


def test_the_nearer_is_rated_higher(arena, run, capsys):
    arena.main(arena.Options(runs=(run,)))
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| 1 | near | ")
    assert lines[3].endswith("| 0 | 12 |")


def test_votes_alone_are_rated(arena, tmp_path, capsys):
    for i in range(9):
        add_vote(tmp_path / "votes.jsonl", Vote(str(i), "a", "b", float(i % 3 > 0)))
    arena.main(arena.Options(votes=tmp_path / "votes.jsonl"))
    assert "| 1 | a | 1060 |" in capsys.readouterr().out, "odds of two: 400 log10(2) = 120 points"


def test_what_is_missing_is_told(arena, run):
    with pytest.raises(UsageError, match="expected run folders, or --votes"):
        arena.main(arena.Options())
    with pytest.raises(UsageError, match="views from orbit are in no file"):
        arena.main(arena.Options(runs=(run,), page=True))
