"""Lines across the globe against pyproj's geodesics, windows against its projections."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Geod, Proj

from icgeo.plots import world
from icgeo.plots.world import great_circle
from icgeo.sphere import EARTH_RADIUS_KM, distance_km

places = st.tuples(st.floats(-89.9, 89.9), st.floats(-180, 179.99))
SPHERE = Geod(a=1000 * EARTH_RADIUS_KM, b=1000 * EARTH_RADIUS_KM)


def tensor(place):
    return torch.tensor(place, dtype=torch.float64)


@given(places, places)
@settings(max_examples=60)
def test_great_circles_are_pyprojs_and_parted_at_the_antimeridian(start, end):
    """Their parts add up to its distance; none jumps across the map, and all of it is on the map.

    A part that ends on the antimeridian is straight for its last degree: a thousandth at most of a
    circle that is not within half a degree of a pole, half a degree there.
    """
    away, _, length = SPHERE.inv(start[1], start[0], end[1], end[0])
    line = great_circle(tensor(start), tensor(end))
    parts = world.parted(line)
    total = sum(distance_km(part[1:], part[:-1]).sum().item() for part in parts)
    from_pole = abs(math.sin(math.radians(away))) * math.cos(math.radians(start[0]))  # Clairaut
    most_off = 1e-3 if from_pole > math.sin(math.radians(0.5)) else 56.0
    assert total == pytest.approx(length / 1000, rel=1e-3, abs=most_off)
    flat = np.concatenate(parts)
    assert np.abs(flat[:, 1]).max() <= 180
    assert len(parts) <= 2
    for part in parts:
        steps = np.abs(np.diff(part[:, 1]))
        assert steps.max() < 180 + 1e-6
    if length < 1.9e7:  # next to the antipode no two agree on the way
        lon, lat, _ = SPHERE.fwd(start[1], start[0], away, 0.5 * length)
        assert distance_km(line[~np.isnan(line[:, 0])], (lat, lon)).min() < 0.3 * length / 1e5 + 1


def test_a_line_is_drawn_up_to_the_antimeridian_on_both_sides():
    """Half of the way in longitude tan(lat) is (tan 10 + tan 20) / (2 cos 10) (Napier): 15.34."""
    first, second = world.parted(great_circle(tensor((10.0, 170.0)), tensor((20.0, -170.0))))
    assert first[-1, 1] == 180
    assert second[0, 1] == -180
    assert first[-1, 0] == second[0, 0] == pytest.approx(15.34, abs=0.005)


def test_a_line_that_stays_is_one_and_one_over_the_pole_reaches_it():
    (line,) = world.parted(great_circle(tensor((60.0, 0.0)), tensor((50.0, 40.0))))
    assert len(line) == 181
    over = np.concatenate(world.parted(great_circle(tensor((80.0, 30.0)), tensor((80.0, -150.0)))))
    assert over[:, 0].max() == pytest.approx(90)


@pytest.mark.parametrize("place", [(48.0, 2.0), (0.0, 179.9), (90.0, 0.0), (-89.0, 10.0)])
def test_a_window_is_a_true_map_of_its_surroundings(place):
    """Distances to the middle by pyproj; its pixels are where it says; areas are kept."""
    view = world.window(*place, 1000.0)
    x, y = view.project(np.array(place))
    assert math.hypot(x, y) < 1e-6
    assert view.inside.all()
    corner = view.lat_lon[0, 0]
    expected = Proj(view.projection)(corner[1], corner[0])
    half = 1000 * (1 - 1 / view.inside.shape[0])
    assert expected == pytest.approx((-half, half))
    # a chord of the sphere is the radius in Lambert's projection
    chord = 2 * EARTH_RADIUS_KM * np.sin(distance_km(corner, place).item() / EARTH_RADIUS_KM / 2)
    assert chord == pytest.approx(math.hypot(half, half))


def test_windows_show_nothing_from_the_other_side():
    view = world.window(0.0, 0.0, 500.0)
    assert np.isnan(view.project(np.array([[0.0, 180.0], [0.0, 90.0], [np.nan, np.nan]]))).all()
    assert view.lines(np.array([[0.0, 90.0], [1.0, 91.0]])) == []


def test_coasts_do_not_run_along_the_seam():
    """Chukotka, Fiji and Antarctica are cut there, which no coast is."""
    for line in world.parted(world.shapes("land")):
        seam = (np.abs(line[:, 1]) > 180 - 1e-6) | (line[:, 0] < -90 + 1e-6)
        assert not (seam[1:] & seam[:-1]).any()


def test_the_frame_of_a_window_over_the_antimeridian_is_parted():
    parts = world.parted(world.edge(world.window(10.0, 180.0, 800.0)))
    assert len(parts) >= 2
    assert all(np.ptp(part[:, 1]) < 20 for part in parts)
