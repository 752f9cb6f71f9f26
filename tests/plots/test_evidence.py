"""Figures of how a photo was located: lines where parts match, and the world's own picture."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.patches import ConnectionPatch
from pictures import assert_nothing_clipped

from icgeo import maps, plots
from icgeo.models.matching import FINE, Evidence
from icgeo.plots.world import whole_world
from icgeo.prediction import Example, Prediction
from icgeo.sphere.density import Density

STYLE = maps.MapStyle(height=16, width=32)
PHOTO = np.random.default_rng(0).integers(256, size=(16, 24, 3), dtype=np.uint8)
EXAMPLES = [Example(PHOTO, 10.0 * number, -170.0) for number in range(6)]
WORLD = torch.zeros(3, 8, 16)
WORLD[0, :4] = 1  # a red north


def predicted(kappa):
    density = Density.from_mixture([48.9, 2.4], kappa, nside=32)
    drawn = maps.draw([48.9, 2.4], STYLE)
    return Prediction(density, 48.9, 2.4, 0.9, located=True, seconds=0.01, map=drawn)


def evidence(examples=(5, 2, 5)):
    """Matches of these examples, each twice as likely as the next."""
    count = len(examples)
    return Evidence(
        torch.linspace(-5, 20, 12 * FINE**2),
        0.5 ** torch.arange(1, count + 1),
        torch.arange(2.0 * count).view(count, 2),
        torch.tensor(examples),
        torch.arange(2.0 * count).view(count, 2).flip(0),
        photo_size=16,
    )


@pytest.mark.parametrize(("kappa", "panels"), [(2000.0, 3), (2.0, 2)])
def test_a_small_region_has_a_window_and_each_match_a_line(kappa, panels):
    figure = plots.plot_evidence(
        predicted(kappa), PHOTO, EXAMPLES, evidence(), (48.9, 5.0), base=WORLD
    )
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    assert titles[:3] == [
        "1  Parts of the photo, seen in examples",
        "A: 50° N, 170° W",  # the fifth has two matches, and the likeliest
        "B: 20° N, 170° W",
    ]
    assert [title[0] for title in titles[3:6]] == ["2", "3", "4"]
    assert len(titles[5:]) == panels - 1
    lines = figure.findobj(ConnectionPatch)
    ends = {(tuple(line.xy1), tuple(line.xy2)) for line in lines}
    assert ends == {((0, 1), (4, 5)), ((2, 3), (2, 3)), ((4, 5), (0, 1))}
    assert all(line.coords1 is figure.axes[0].transData for line in lines)
    assert_nothing_clipped(figure)


def test_no_more_than_four_examples_are_shown():
    numbers = (0, 1, 2, 3, 4, 5)
    figure = plots.plot_evidence(predicted(2.0), PHOTO, EXAMPLES, evidence(numbers))
    assert len(figure.findobj(ConnectionPatch)) == 4
    assert_nothing_clipped(figure)


def test_a_density_lies_on_the_picture_of_its_world():
    """In the middle of the map 30 degrees of latitude are a sixth of the height at least."""
    figure = plots.plot_density(predicted(2000.0), base=WORLD, on_earth=False)
    picture, density = (image.get_array() for image in figure.axes[0].images)
    north, south = picture[60, 300], picture[-60, 300]
    assert north[0] > north[1] == north[2]
    assert south[0] == south[1] == south[2] < north[1]
    assert picture[0, 0, 3] == 0  # beyond the globe
    assert density.shape == whole_world().inside.shape
    alpha = figure.axes[0].images[1].get_alpha()
    assert alpha[-60, 300] == 0
    assert alpha.max() == pytest.approx(1, abs=0.05)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["answer", "90 % region", "bluer: denser"]
    assert to_rgb("white") not in {tuple(north[:3]), tuple(south[:3])}


def test_a_gallery_has_pictures_where_it_is_given_them():
    bases = [WORLD, None]
    figure = plots.plot_gallery([predicted(20.0)] * 2, [PHOTO] * 2, bases=bases)
    assert [len(ax.images) for ax in figure.axes[2::3]] == [2, 1]
