"""A stage that fails is no stage that was killed."""

import subprocess

import pytest
from script_runs import load_script


@pytest.mark.parametrize("kill_after", [0, 1])
def test_a_stage_that_fails_is_told(tmp_path, monkeypatch, kill_after):
    million = load_script("experiments/million_activations")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(million.sys, "executable", "false")  # ends with 1
    with pytest.raises(subprocess.CalledProcessError, match="exit status 1"):
        million.run_stage(million.Options(), "whole", rows=1, kill_after=kill_after)
