"""Tests of evaluation divided: any number of processes, in any order, torn anywhere, one answer."""

from pathlib import Path

import pandas
import pytest
from test_run import Matcher, as_rows, episode, without_times

from icgeo.config import UsageError
from icgeo.evaluation import Shard, evaluate
from icgeo.evaluation.rows import known_rows
from icgeo.evaluation.run import finish, locate_share

FEW = {"shots": (0, 2), "batch_size": 2, "baselines": False}


@pytest.fixture
def runs():
    locator = Matcher()
    return [(locator, episode(name, queries=5, seed=seed)) for seed, name in enumerate("ab")]


def shares(runs, folder, count):
    return [
        locate_share(runs, folder=folder, shard=Shard(i, count), **FEW)
        for i in reversed(range(count))
    ]


def table(folder):
    return pandas.read_parquet(folder / "predictions.parquet").drop(columns="seconds")


def test_any_number_of_shards_gives_the_table_of_one_process(runs, tmp_path):
    evaluate(runs, folder=tmp_path / "one", **FEW)
    asked = sum(runs[0][0].asked)
    for count in (1, 2, 3, 5):
        runs[0][0].asked.clear()
        folder = tmp_path / str(count)
        shares(runs, folder, count)
        files = {path.name for path in folder.glob("*.jsonl")}
        assert files == {Shard(i, count).file_name for i in range(count)}
        evaluate(runs, folder=folder, **FEW)
        assert sum(runs[0][0].asked) == asked, "what shards had located was located again"
        pandas.testing.assert_frame_equal(table(folder), table(tmp_path / "one"))
        assert {path.name for path in folder.glob("*.jsonl")} == {"predictions.jsonl"}


def test_another_number_of_processes_goes_on_with_what_is_there(runs, tmp_path):
    """Two of three processes were killed, one within a line; then two go on, then one."""
    whole = without_times(evaluate(runs, folder=tmp_path / "whole", **FEW))
    folder = tmp_path / "run"
    shares(runs, folder, 3)
    (folder / "predictions-0-of-3.jsonl").unlink()
    torn = folder / "predictions-1-of-3.jsonl"
    torn.write_bytes(torn.read_bytes()[:-20])
    before = torn.read_bytes()
    runs[0][0].asked.clear()
    order, _ = shares(runs, folder, 2)
    # of 6 batches the first process had 0 and 3; the second lost the end of its last, one photo
    assert sum(runs[0][0].asked) == 2 * (2 + 2) + 2
    assert torn.read_bytes() == before, "the file of another process was changed"
    assert without_times(finish(folder, order, ["matcher"])) == whole
    runs[0][0].asked.clear()
    assert without_times(evaluate(runs, folder=folder, **FEW)) == whole
    assert not runs[0][0].asked


def test_killed_while_merging_nothing_is_lost(runs, tmp_path, monkeypatch):
    """All shards but one are still there, and the merged file too."""
    order, _ = shares(runs, tmp_path, 2)
    before = known_rows(tmp_path)

    def killed(path, missing_ok=False):
        if not missing_ok:  # the shards; a partial file may be missing
            raise KeyboardInterrupt

    monkeypatch.setattr(Path, "unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        finish(tmp_path, order, ["matcher"])
    monkeypatch.undo()
    assert len(list(tmp_path.glob("predictions*.jsonl"))) == 3
    assert known_rows(tmp_path) == before
    assert {row.key: row for row in as_rows(finish(tmp_path, order, ["matcher"]))} == before


def test_rows_stand_by_benchmark_shots_locator_and_query(runs, tmp_path):
    rows = evaluate(runs, folder=tmp_path, shots=(2, 0), batch_size=3)
    names = ["chance", "nearest by pixels", "nearest oracle", "matcher"]
    assert [row.key for row in as_rows(rows)] == [
        (name, one.id, query.id, shots)
        for _, one in runs
        for shots in (0, 2)
        for name in names
        for query in one.queries
    ]


@pytest.mark.parametrize(("index", "count"), [(1, 1), (-1, 2), (0, 0)])
def test_a_shard_that_cannot_be_is_refused(index, count):
    with pytest.raises(ValueError, match="expected a shard below their count"):
        Shard(index, count)


def test_alone_a_process_is_the_main_one(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert Shard.here() == Shard(0, 1)
    assert Shard.here().is_main
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UsageError, match="expected 4 processes as launched, Accelerate sees 1"):
        Shard.here()
