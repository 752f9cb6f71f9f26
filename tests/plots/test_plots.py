"""Tests of figures: nothing clipped, coastlines where they belong, the numbers that were given."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from pictures import assert_nothing_clipped
from pyproj import Proj

from icgeo import maps, plots
from icgeo.baselines import Chance
from icgeo.evaluation import BASELINES, Row, score, to_frame
from icgeo.metrics.densities import calibration_error
from icgeo.plots.curves import calibration_band
from icgeo.prediction import Example, Prediction
from icgeo.sphere.density import Density

STYLE = maps.MapStyle(height=16, width=32)
PHOTO = np.random.default_rng(0).integers(256, size=(16, 16, 3), dtype=np.uint8)


def prediction(lat=48.9, lon=2.4, *, kappa=200.0, located=True):
    return Prediction(
        Density.from_mixture([lat, lon], kappa, nside=32),
        lat if located else math.nan,
        lon if located else math.nan,
        legibility=0.9,
        located=located,
        seconds=0.01,
        map=maps.draw([lat, lon], STYLE),
    )


@pytest.mark.parametrize("count", [1, 3, pytest.param(16, marks=pytest.mark.slow)])
def test_the_context_shows_pairs_in_order(count):
    places = [(80.0 - 10 * i, -170.0 + 20 * i) for i in range(count)]
    examples = [Example(PHOTO, *place) for place in places]
    figure = plots.plot_context(examples, maps.draw(places, STYLE))
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    assert len(titles) == 2 * count
    assert titles[0] == "photo 1"
    assert titles[1] == "map 1: 80° N, 170° W"
    assert_nothing_clipped(figure)


def test_the_context_draws_its_maps_itself():
    places = [(48.9, 2.4), (-33.9, 151.2)]
    examples = [Example(PHOTO, *place) for place in places]
    for style in (None, STYLE):
        figure = plots.plot_context(examples, style=style)
        expected = maps.draw(places, style or maps.MapStyle())[1].clamp(0, 1)
        (image,) = figure.axes[3].images
        np.testing.assert_allclose(np.moveaxis(image.get_array(), -1, 0), expected, atol=1e-6)
    with pytest.raises(ValueError, match="got 0 examples"):
        plots.plot_context([])


def test_the_context_needs_a_map_for_each_example():
    with pytest.raises(ValueError, match="got 1 examples and 2 maps"):
        plots.plot_context([Example(PHOTO, 0, 0)], torch.zeros(2, 3, 16, 32))


@pytest.mark.slow
def test_the_gallery_says_how_far_off_each_answer_is():
    predictions = [prediction(), prediction(located=False), prediction(-75, 179.9, kappa=20.0)]
    figure = plots.plot_gallery(
        predictions,
        3 * [PHOTO],
        [(48.9, 2.4), (0.0, 0.0), None],
        titles=["a", "b" * 60, "c"],
        on_earth=[True, False, True],
    )
    titles = [ax.get_title() for ax in figure.axes]
    assert titles[2::3] == ["0 km off", "not located", "75° S, 180° E"]
    heads = [text.get_text() for ax in figure.axes for text in ax.texts]
    assert heads == ["photo", "map drawn", "density on the world"]
    assert titles[0] == "a"
    assert len(titles[3]) == 26
    assert_nothing_clipped(figure)


def test_the_gallery_does_without_maps_and_truth():
    figure = plots.plot_gallery([replace(prediction(), map=None)], [PHOTO])
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["answer", "90 % region (grey: outside)", "bluer: denser"]
    assert [text.get_text() for ax in figure.axes for text in ax.texts][1:] == [
        "density on the world"
    ]


def test_the_gallery_refuses_other_lengths():
    with pytest.raises(ValueError, match=r"got \[1, 2, 1, 1, 1, 1\]"):
        plots.plot_gallery([prediction()], 2 * [PHOTO])
    with pytest.raises(ValueError, match="at least one prediction"):
        plots.plot_gallery([], [])


def test_a_density_alone_says_what_it_shows():
    figure = plots.plot_density(prediction(), (48.9, 5.0))
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["truth", "answer", "90 % region (grey: outside)", "bluer: denser"]
    assert figure.axes[0].get_title().startswith("49° N, 2° E, 190 km off, 90 % region of")
    assert_nothing_clipped(figure)


def lines_of(figure):
    return [c for c in figure.axes[0].collections if type(c) is LineCollection]


def test_coastlines_are_where_they_belong_and_only_on_earth():
    """Cape Agulhas and Cape Comorin, known points of the coast, within a degree."""
    coast = lines_of(plots.plot_density(prediction()))[1]
    points = np.concatenate([path.vertices for path in coast.get_paths()])
    for lat, lon in ((-34.83, 20.0), (8.08, 77.55)):
        place = np.array(Proj("+proj=eqearth +R=1")(lon, lat))
        assert np.linalg.norm(points - place, axis=1).min() < math.radians(1)
    assert len(lines_of(plots.plot_density(prediction(), on_earth=False))) == 1


@pytest.mark.parametrize("place", [(48.9, 2.4), (-60.0, 150.0), (5.0, -179.0), (65.0, -30.0)])
def test_the_density_is_drawn_where_it_is(place):
    """The darkest pixel is at the point, as pyproj projects it, within a cell and a pixel."""
    ax = plots.plot_density(prediction(*place, kappa=3000.0), place).axes[0]
    (image,) = ax.images
    values = np.ma.filled(image.get_array(), np.nan)
    row, column = np.unravel_index(np.nanargmax(values), values.shape)
    west, east, south, north = image.get_extent()
    x = west + (column + 0.5) / values.shape[1] * (east - west)
    y = north - (row + 0.5) / values.shape[0] * (north - south)
    expected = Proj("+proj=eqearth +R=1")(place[1], place[0])
    assert (x, y) == pytest.approx(expected, abs=math.radians(2))


def test_a_uniform_density_has_no_edge():
    uniform = Prediction(Density.uniform(8), 0.0, 0.0, legibility=0.0, located=True, seconds=0.0)
    figure = plots.plot_density(uniform)
    figure.canvas.draw()
    assert len(figure.axes[0].collections) == len(lines_of(figure))


def rows(world, *, scale=1.0, unanswered=False):
    return [
        Row(
            locator=locator,
            episode=f"e{number % 2}",
            world=world,
            id=str(number),
            shots=shots,
            true_lat=0.0,
            true_lon=0.0,
            distance_km=None if unanswered and not shots else scale * 9000 / (1 + shots) + number,
            nll=1.0,
            level=number / 8,
            area_90_km2=1e6,
            seconds=0.01,
        )
        for locator in (Chance.name, "icgeo")
        for shots in (0, 1, 16)
        for number in range(8)
    ]


def scores(some_rows):
    return score(to_frame(some_rows))


def test_shots_have_a_panel_for_each_world():
    figure = plots.plot_shots(
        scores(rows("moon") + rows("mars", scale=2.0) + rows("io", unanswered=True))
    )
    assert [ax.get_title() for ax in figure.axes] == ["moon", "mars", "io"]
    (own,) = (line for line in figure.axes[0].lines if line.get_label() == "icgeo")
    np.testing.assert_allclose(own.get_ydata(), [9003.5, 4503.5, 9000 / 17 + 3.5])
    for ax in figure.axes:
        assert ax.get_yscale() == "log"
        high = ax.get_ylim()[1]
        assert all(np.ma.masked_invalid(line.get_ydata()).max() <= high for line in ax.lines)
    assert_nothing_clipped(figure)


def test_methods_are_told_apart_and_shots_may_be_something_else():
    both = rows("moon") + [replace(row, locator="other") for row in rows("moon")]
    figure = plots.plot_shots(scores(both), label="examples in the bank", log=True)
    (ax,) = figure.axes
    assert ax.get_yscale() == "log"
    assert ax.get_xlabel() == "examples in the bank"
    looks = {line.get_label(): (line.get_color(), line.get_marker()) for line in ax.lines}
    assert len(set(looks.values())) == len(looks) > 2
    assert_nothing_clipped(figure)


def test_errors_of_a_linear_scale_start_at_0_and_those_of_a_log_scale_lie_between_ticks():
    some = scores(rows("moon"))
    (linear,) = plots.plot_shots(some, log=False).axes
    assert linear.get_ylim()[0] == 0
    some[["median_km", "median_km_low", "median_km_high"]] = [700.0, 650.0, 800.0]
    (ax,) = plots.plot_shots(some).axes
    assert ax.get_ylim() == (500, 1000)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["500", "1,000"]


@pytest.mark.parametrize(
    "worlds",
    [("moon",), pytest.param(("moon", "mars"), marks=pytest.mark.slow), ("moon", "mars", "io")],
)
def test_the_legend_fits_and_tells_what_the_band_is(worlds):
    some = [row for world in worlds for row in rows(world)]
    some += [replace(row, locator=name) for name in BASELINES[1:] for row in some]
    figure = plots.plot_shots(scores(some))
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(labels) == sorted(["icgeo", "95 % interval", *BASELINES])
    assert_nothing_clipped(figure)


def test_figures_draw_into_given_axes():
    figure = Figure(figsize=(9, 4), layout="constrained")
    first, second, third = figure.subplots(1, 3)
    assert plots.plot_shots(scores(rows("moon")), ax=first) is figure
    assert plots.plot_calibration({"moon": [0.1, 0.5]}, ax=second) is figure
    assert plots.plot_density(prediction(), ax=third) is figure
    assert all(ax.lines for ax in figure.axes)
    with pytest.raises(ValueError, match="one world for each panel"):
        plots.plot_shots(scores(rows("moon") + rows("mars")), ax=first)


def test_calibration_is_the_share_of_truths_inside():
    levels = np.random.default_rng(0).uniform(size=200) ** 2
    figure = plots.plot_calibration({"moon, 16 shots": torch.from_numpy(levels), "mars": [0.2]})
    curve = figure.axes[0].lines[1]
    at = np.asarray(curve.get_xdata())
    shares = [(levels <= p).mean() for p in at]
    np.testing.assert_allclose(curve.get_ydata(), shares)
    assert_nothing_clipped(figure)


def test_of_20_calibrated_curves_19_stay_within_the_band():
    """The exact bound for n = 6 is 0.519 (Massey 1951, table 1); Massart's is a little wider."""
    levels = np.random.default_rng(0).uniform(size=(2000, 6))
    inside = np.mean([calibration_error(row) <= calibration_band(6) for row in levels])
    assert 0.95 <= inside <= 0.98


def test_the_band_is_named_once():
    figure = plots.plot_calibration({"photos": [0.1, 0.5, 0.9], "mars": [0.2, 0.3]})
    texts = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert texts[2:] == ["95 % of calibrated curves, n = 2 to 3"]
    assert len(figure.axes[0].collections) == 2
    assert_nothing_clipped(figure)
