"""Test of the benchmark of metrics end to end, on few points and densities."""

import tracemalloc

import pytest
import torch
from script_runs import load_script, run

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


def test_memory_does_not_grow_with_the_stream():
    """Of 60 densities of 1.5 kB each, 81 kB together, none is kept."""
    stream = load_script("experiments/metrics").score_densities(
        60, 4, generator=torch.Generator().manual_seed(0)
    )
    scores = next(stream)
    tracemalloc.start()
    for _ in stream:
        pass
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(scores) == 60
    assert held < 60_000
