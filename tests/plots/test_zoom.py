"""The figure of a zoom's chain."""

import numpy as np
import pytest
import torch

from icgeo import sphere
from icgeo.data.base_maps import open_map
from icgeo.data.poses import Poses
from icgeo.data.worlds import procedural_world
from icgeo.plots import plot_gallery, plot_zoom
from icgeo.prediction import Prediction, ZoomLevel
from icgeo.sphere.density import Density
from icgeo.sphere.multi_order import MultiOrderDensity


@pytest.mark.parametrize("place", [(12.0, 179.0), (-88.0, 0.0)])
def test_each_level_has_its_view_and_its_map(place):
    base_map = open_map(procedural_world("cells", generator=0, height=64))
    xyz = sphere.to_xyz(torch.tensor([place, (0.0, 0.0)], dtype=torch.float64))
    both = (torch.tensor(values, dtype=torch.float64) for values in ((30.0, 40.0), (10.0, 0.0)))
    poses = Poses(xyz, *both)
    views, _ = base_map.views(poses.lat_lon, poses.field_of_view_deg, poses.heading_deg, size=64)
    share = torch.tensor([0.9, 0.05])
    density = Density.from_mixture([place], 300.0)
    levels = tuple(
        ZoomLevel(name, poses, views, share, 0 * share, density)
        for name in ("planet", "windows", "place")
    )
    alone = Prediction(density, *place, 0.95, True, 0.1)
    found = Prediction(density, *place, 0.95, True, 0.1, levels=levels)
    photo = views[0].permute(1, 2, 0).numpy()
    figure = plot_zoom(found, photo, base_map, truth=place)
    figure.canvas.draw()
    titles = [ax.get_title() for ax in figure.axes]
    assert sum("likeliest of 2: 90%" in title for title in titles) == 3
    _, _, _, _, _, planet, windows, last = figure.axes
    assert planet.get_xlim() == (-180, 180)
    spans = [ax.get_ylim()[1] - ax.get_ylim()[0] for ax in (planet, windows, last)]
    assert spans[0] > spans[1] > spans[2]
    with pytest.raises(ValueError, match="without levels"):
        plot_zoom(alone, photo, base_map)


def test_what_examples_say_weighs_the_poses_and_is_a_level_of_its_own():
    places = torch.tensor([[10.0, 20.0], [-40.0, 100.0]], dtype=torch.float64)
    headings = torch.tensor([5.0, 90.0], dtype=torch.float64)
    poses = Poses(sphere.to_xyz(places), torch.full_like(headings, 30.0), headings)
    share = torch.tensor([0.6, 0.3]).double()
    density = MultiOrderDensity.refined(Density.uniform(), places, 0.2, share)
    views = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    level = ZoomLevel("place", poses, views, share, 0 * share, density)
    found = Prediction(density, 10.0, 20.0, 0.9, True, 0.1, levels=(level,))
    elsewhere = Density.from_mixture([[-40.0, 100.0], [0.0, 0.0]], 200.0, [0.9, 0.1])
    both = found.given(Prediction(elsewhere, -40.0, 100.0, 1.0, True, 0.1))
    assert [one.name for one in both.levels] == ["place", "examples"]
    assert both.heading_deg == 90.0, "the pose at which the answer is"
    assert sphere.distance_km((both.lat, both.lon), (-40.0, 100.0)).item() < 50
    assert both.levels[-1].probability[0] > 0.99
    assert both.levels[-1].density is both.density


def test_a_place_of_a_kilometre_is_drawn_over_a_picture_of_the_world():
    """Far denser than any even cell, it was no opacity that matplotlib knows."""
    place = torch.tensor([[0.45, 0.45]], dtype=torch.float64)  # the middle of a pixel
    density = MultiOrderDensity.refined(Density.uniform(), place, 0.3, torch.ones(1).double())
    poses = Poses(sphere.to_xyz(place), torch.full((1,), 30.0), torch.full((1,), 359.7))
    views, one = torch.full((1, 3, 8, 8), 200, dtype=torch.uint8), torch.ones(1).double()
    level = ZoomLevel("place", poses, views, one, one, density)
    found = Prediction(density, 0.45, 0.45, 0.9, True, 0.1, levels=(level,))
    world, photo = torch.zeros(3, 32, 64), np.zeros((8, 8, 3), np.uint8)
    figure = plot_gallery([found], [photo], bases=[world])
    figure.canvas.draw()
    seen = figure.axes[1].images[0].get_array()
    assert (seen == 200).all(), "no map is drawn, it is looked at"
    told = [text.get_text() for ax in figure.axes for text in ax.texts]
    assert "map, seen from there" in told
    figure = plot_zoom(found, photo, None)
    told = " ".join(text.get_text() for ax in figure.axes for text in ax.texts)
    assert "towards 0 degrees" in told, "not 360"
