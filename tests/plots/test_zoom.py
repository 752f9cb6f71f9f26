"""The figure of a zoom's chain."""

import pytest
import torch

from icgeo import sphere
from icgeo.data.base_maps import open_map
from icgeo.data.poses import Poses
from icgeo.data.worlds import procedural_world
from icgeo.plots import plot_zoom
from icgeo.prediction import Prediction, ZoomLevel
from icgeo.sphere.density import Density


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
