"""Test of the script that evaluates on Ray."""

import os
import subprocess
import sys
from pathlib import Path

import pandas
import pytest
from script_runs import SCRIPTS, untrained


@pytest.mark.slow
def test_views_are_located_on_ray(tmp_path):
    pytest.importorskip("ray")
    options = ("--model", untrained(), "--count", 4, "--shots", "[0,2]", "--batch_size", 3)
    command = [str(part) for part in (sys.executable, SCRIPTS / "evaluate_ray.py", *options)]
    env = os.environ | {"PYTHONPATH": str(SCRIPTS.parent), "RAY_worker_niceness": "0"}
    out = subprocess.run(
        command, cwd=tmp_path, env=env, check=True, capture_output=True, text=True, timeout=600
    )
    assert "blue-marble" in out.stdout
    table = pandas.read_parquet(Path(tmp_path, "runs", "ray", "predictions.parquet"))
    assert len(table) == 4 * 2 * 4
    assert table.error.isna().all()
