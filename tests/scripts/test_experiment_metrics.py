"""Test of the benchmark of metrics end to end, on few points and densities."""

import pytest
from script_runs import run

from icgeo import config


def test_points_and_densities_are_scored(capsys):
    run("experiments/metrics", "--points", 300, "--densities", 10, "--nside", 16)
    out = capsys.readouterr().out
    assert "within 2500 km: Interval(estimate=0.8" in out
    assert "labels: {'continent': 300, 'country': 300" in out
    assert "'sub_region': 0" in out
    assert "10 densities: " in out
    assert "DensitySummary(queries=10" in out


def test_negative_numbers_are_refused():
    with pytest.raises(config.UsageError, match="at least 0"):
        run("experiments/metrics", "--points", -1)
