"""The main job killed and divided among processes, as an operator would see it."""

import pytest
from kill_runs import difference, finished, killed
from script_runs import untrained


@pytest.mark.slow
def test_killed_and_divided_the_main_script_ends_with_the_same_table(tmp_path):
    """With SIGKILL at random, then gone on by two processes; 200 queries."""
    options = ("--model", untrained(), "--world", "craters", "--count", 100, "--shots", "[2]")
    options = (*options, "--batch_size", 16)
    whole = finished(tmp_path / "whole", options)
    assert len(whole) == 200 * 4
    table, at = killed(tmp_path / "killed", options, rows=len(whole), processes=[1, 2])
    assert 0 < at[0] < len(whole)
    assert difference(whole, table)["equal to the bit"]
