"""The main job killed and divided among processes, as an operator would see it."""

import pandas
import pytest
import torch
from kill_runs import difference, killed
from script_runs import run, untrained


@pytest.fixture
def _one_thread():
    """As the processes that are killed have it: sums in parallel differ in their last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.usefixtures("_one_thread")
def test_killed_and_divided_the_main_script_ends_with_the_same_table(tmp_path, monkeypatch):
    """With SIGKILL at random, then gone on by two processes; 40 queries."""
    options = ("--model", untrained(), "--world", "craters", "--count", 20, "--shots", "[2]")
    options = (*options, "--batch_size", 8)
    monkeypatch.chdir(tmp_path)
    run("zero_shot", *options)
    whole = pandas.read_parquet(tmp_path / "runs" / "zero-shot" / "predictions.parquet")
    assert len(whole) == 40 * (3 + 6)
    table, at = killed(tmp_path / "killed", options, rows=len(whole), processes=[1, 2])
    assert 0 < at[0] < len(whole)
    assert difference(whole, table)["equal to the bit"]
