"""Whole figures against pictures that were looked at when they were made."""

import numpy as np
import pytest
import torch
from pictures import BASELINE, difference, saved

from icgeo import maps, plots
from icgeo.prediction import Prediction
from icgeo.sphere.density import Density

STYLE = maps.MapStyle(height=32, width=64)
PHOTO = np.indices((24, 32)).sum(axis=0)[..., None].repeat(3, axis=-1).astype(np.uint8) * 4


def predicted(lat=65.0, lon=179.0):
    density = Density.from_mixture([[lat, lon], [-20, 20]], [300.0, 20.0], [0.7, 0.3], nside=32)
    drawn = maps.draw([lat, lon], STYLE)
    return Prediction(density, lat, lon, legibility=0.9, located=True, seconds=0.1, map=drawn)


def prediction_figure(lat=65.0):
    return plots.plot_prediction(predicted(lat), PHOTO, (66.0, -170.0))


def errors_figure(shift=0.0):
    guesses = [[shift, 170], [60, -100], [-80, 0], [35 + shift, 140], [10, 20], [np.nan, np.nan]]
    truths = [[40, -150], [60, 100], [-80, 170], [30, 150], [8, 22], [5, 5]]
    return plots.plot_errors(guesses, truths, on_earth=False)


def denoising_figure(noise=0.4):
    places = maps.draw([[10.0, 20.0], [-50.0, -100.0]], STYLE)
    wave = torch.linspace(0, 60, 64).sin()
    steps = [
        ((places + t * noise * wave)[:, None].expand(-1, 2, -1, -1, -1), t)
        for t in (1.0, 0.75, 0.5, 0.25, 0.1)
    ]
    return plots.plot_denoising(steps, query=1)


FIGURES = {
    "prediction": (prediction_figure, {"lat": 61.0}),
    "errors": (errors_figure, {"shift": 25.0}),
    "denoising": (denoising_figure, {"noise": 0.1}),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_look_as_they_did(name, tmp_path):
    make, _ = FIGURES[name]
    assert (BASELINE / f"{name}.png").stat().st_size < 40_000
    assert difference(make(), name, tmp_path) is None


@pytest.mark.parametrize("name", FIGURES)
def test_a_small_change_would_be_seen(name, tmp_path):
    """Four degrees of one place, two arcs of five, less noise: all beyond the tolerance."""
    make, other = FIGURES[name]
    assert "RMS" in difference(make(**other), name, tmp_path)


if __name__ == "__main__":
    for name, (make, _) in FIGURES.items():
        saved(make(), BASELINE / f"{name}.png")
