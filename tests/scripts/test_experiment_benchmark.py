"""Tests of the benchmark: every way runs on the same latents, and shared work is not repeated."""

from dataclasses import replace

import pytest
import torch
from script_runs import load_script

from icgeo.maps import MapStyle

benchmark = load_script("experiments/benchmark")


def test_three_ways_are_timed_on_the_same_case():
    model = benchmark.build("small", 32, device="cpu", dtype=torch.float32)
    options = benchmark.Options(steps=1, queries=2, stock_queries=1, repeats=1)
    row = benchmark.compare(model, 1, 1, options)
    assert (row["shots"], row["samples"]) == (1, 1)
    for way in ("shared", "key-value", "stock"):
        assert row[f"{way} s"] > 0
    assert row["times faster than stock"] == row["stock s"] / row["shared s"]
    assert row["by operations, than key-value"] > 1


@pytest.mark.parametrize(
    "preset", ["qwen-small", pytest.param("wan-small", marks=pytest.mark.slow)]
)
def test_other_architectures_are_timed_too(preset):
    model = benchmark.build(preset, 32, device="cpu", dtype=torch.float32)
    options = benchmark.Options(preset, steps=2, queries=2, stock_queries=1, repeats=1)
    options = replace(options, text_tokens=32)
    row = benchmark.compare(model, 1, 2, options)
    assert row["times faster than stock"] == row["stock s"] / row["shared s"] > 0


def test_the_small_model_has_about_ten_million_parameters():
    model = benchmark.build("small", 32, device="cpu", dtype=torch.float32)
    assert 9e6 < model.backbone.pipeline.transformer.num_parameters() < 11e6


def test_reading_is_timed():
    assert benchmark.reading_rate(32, 64, count=2) > 0


@pytest.mark.slow
def test_memory_is_flat_over_many_queries():
    model = benchmark.build("small", 32, device="cpu", dtype=torch.float32)
    style = MapStyle.marker(height=32, width=64, sigma_deg=15.0)
    assert benchmark.memory_growth(model.choosing(style=style, photo_size=32), queries=100) < 1.05
