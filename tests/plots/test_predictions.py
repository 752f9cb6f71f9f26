"""Figures of predictions, errors and steps: what they say, and where they may be drawn."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from pictures import assert_nothing_clipped

from icgeo import maps, plots
from icgeo.plots.theme import ERROR_MAP
from icgeo.prediction import Prediction
from icgeo.sphere import distance_km
from icgeo.sphere.density import Density

STYLE = maps.MapStyle(height=16, width=32)
PHOTO = np.random.default_rng(0).integers(256, size=(16, 16, 3), dtype=np.uint8)
STEPS = [(torch.rand(2, 3, 3, 16, 32) + t, t) for t in (1.0, 0.7, 0.5, 0.2, 0.1)]


def predicted(lat=48.9, lon=2.4, *, kappa=2000.0, located=True):
    place = (lat, lon) if located else (math.nan, math.nan)
    drawn = maps.draw([lat, lon], STYLE)
    density = Density.from_mixture([lat, lon], kappa, nside=32)
    return Prediction(density, *place, legibility=0.9, located=located, seconds=0.01, map=drawn)


def titles(figure):
    return [ax.get_title() for ax in figure.axes if ax.get_title()]


def test_a_prediction_is_told_whole():
    figure = plots.plot_prediction(predicted(), PHOTO, (48.9, 5.0), title="x" * 60)
    photo, drawn, world, zoom = titles(figure)
    assert len(photo) == 26
    assert drawn == "map drawn"
    assert world.startswith("49° N, 2° E, 190 km off, 90 % region of ")
    assert zoom == "around the mode, 48° N, 2° E"  # the middle of a cell
    labels = [text.get_text() for text in figure.axes[2].get_legend().get_texts()]
    assert labels == [
        "truth",
        "answer",
        "50 % region",
        "90 % region (grey: outside)",
        "window on the right",
    ]
    assert_nothing_clipped(figure)


def test_an_answer_that_is_none_has_no_window():
    figure = plots.plot_prediction(replace(predicted(located=False), map=None), PHOTO)
    assert titles(figure) == ["photo", "not located, legibility 0.90"]
    labels = [text.get_text() for text in figure.axes[2].get_legend().get_texts()]
    assert labels == ["50 % region", "90 % region (grey: outside)"]
    assert len(figure.axes) == 4  # the last is of the colours
    assert_nothing_clipped(figure)


@pytest.mark.parametrize("truth", [None, (48.9, 5.0)])
def test_of_a_flat_density_nothing_is_named_that_is_not_drawn(truth):
    blank = replace(predicted(located=False), density=Density.uniform(8))
    figure = plots.plot_prediction(blank, PHOTO, truth)
    assert titles(figure)[2] == "not located, legibility 0.90: all places are as likely"
    legend = figure.axes[2].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["truth"] if truth else not legend
    assert_nothing_clipped(figure)


@pytest.mark.parametrize(("kappa", "least", "most"), [(1e5, 800, 1000), (20.0, 2900, 3000)])
def test_the_window_fits_what_is_around_the_mode(kappa, least, most):
    """Five cells of 204 km at least, 3000 km at most."""
    zoom = plots.plot_prediction(predicted(kappa=kappa), PHOTO, on_earth=False).axes[3]
    assert least <= zoom.get_xlim()[1] * (1 if kappa < 100 else 0.9) <= most


def test_a_truth_near_by_is_in_the_window():
    place = (48.9, 20.0)
    zoom = plots.plot_prediction(predicted(kappa=1e5), PHOTO, place).axes[3]
    assert zoom.get_xlim()[1] > distance_km(place, (48.9, 2.4)).item() * 0.99


def test_figures_take_a_place_in_a_grid():
    figure = Figure(figsize=(16, 8), layout="constrained")
    axes = figure.subplots(2, 2)
    assert plots.plot_prediction(predicted(), PHOTO, ax=axes[0, 0]) is figure
    assert plots.plot_errors([[0, 0]], [[1, 1]], ax=axes[0, 1]) is figure
    assert_nothing_clipped(figure)
    with pytest.raises(ValueError, match=r"axes of a grid.*Figure\.subplots"):
        plots.plot_prediction(predicted(), PHOTO, ax=figure.add_axes((0, 0, 1, 1)))


def test_errors_are_coloured_by_their_length():
    guesses, truths = [[0, 170], [10, 10], [math.nan, math.nan]], [[0, -170], [10, 10], [5, 5]]
    figure = plots.plot_errors(guesses, torch.tensor(truths), on_earth=False)
    arcs = figure.axes[0].collections[-1]
    assert isinstance(arcs, LineCollection)
    # 20 degrees in two parts, and none
    np.testing.assert_allclose(arcs.get_array(), [2223.9, 2223.9, 0], atol=0.1)
    assert arcs.get_clim() == pytest.approx((0, 2223.9), abs=0.1)
    assert titles(figure) == ["2 of 3 located, median error of the located 1,112 km"]
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["guess", "truth", "truth, not located"]
    assert_nothing_clipped(figure)


def test_a_short_arc_is_seen_on_white():
    """A contrast of 3 at least, which WCAG 2.2 (1.4.11) asks of lines."""
    rgb = ERROR_MAP(np.arange(256))[:, :3]
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    assert (1.05 / (luminance + 0.05)).min() >= 3
    assert (np.diff(luminance) <= 0).all()


def test_all_located_needs_no_word_on_the_others():
    figure = plots.plot_errors([[0, 0]], [[0, 1]], on_earth=False)
    assert titles(figure) == ["1 of 1 located, median error 111 km"]


def test_none_located_is_no_error():
    figure = plots.plot_errors([[math.nan] * 2], [[5, 5]])
    assert titles(figure) == ["0 of 1 located"]
    figure.canvas.draw()


@pytest.mark.parametrize(
    ("guesses", "truths", "message"),
    [
        ([[0, 0]], [[0, 0], [1, 1]], r"shapes \(1, 2\) and \(2, 2\)"),
        ([0, 0], [0, 0], r"\[n, 2\]"),
        (np.zeros((0, 2)), np.zeros((0, 2)), "at least one query"),
        ([[139.7, 35.7]], [[0, 0]], "swapped"),
    ],
)
def test_wrong_pairs_are_refused(guesses, truths, message):
    with pytest.raises(ValueError, match=message):
        plots.plot_errors(guesses, truths)


def test_steps_are_shown_in_order_and_averaged_over_samples():
    figure = plots.plot_denoising(STEPS, query=1)
    assert titles(figure)[::4] == ["step 1, from t = 1.00", "step 5, from t = 0.10"]
    (image,) = figure.axes[3].images
    expected = STEPS[3][0][1].mean(dim=0).clamp(0, 1)
    np.testing.assert_allclose(np.moveaxis(image.get_array(), -1, 0), expected, atol=1e-6)
    assert_nothing_clipped(figure)


@pytest.mark.parametrize(
    ("steps", "query", "message"),
    [([], 0, "at least one step, got none"), (STEPS, 2, "from 0 to 1, got 2")],
)
def test_wrong_steps_are_refused(steps, query, message):
    with pytest.raises(ValueError, match=message):
        plots.plot_denoising(steps, query=query)
