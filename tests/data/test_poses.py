"""Poses of views: places in them, and poses of views inside of others."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from icgeo import sphere
from icgeo.data.orbit import view_directions
from icgeo.data.poses import Poses, similarities

LATITUDES, LONGITUDES = st.floats(-89, 89), st.floats(-180, 179)
FIELDS, HEADINGS = st.floats(3, 60), st.floats(0, 359)


def _pose(lat, lon, field, heading):
    one = (torch.tensor([value], dtype=torch.float64) for value in (field, heading))
    return Poses(sphere.to_xyz(torch.tensor([[lat, lon]], dtype=torch.float64)), *one)


@given(LATITUDES, LONGITUDES, FIELDS, HEADINGS)
def test_rays_are_those_of_the_pixels(lat, lon, field, heading):
    pose = _pose(lat, lon, field, heading)
    looks = view_directions(pose.xyz, pose.field_of_view_deg, size=6, heading_deg=pose.heading_deg)
    step = (torch.arange(6).double() + 0.5) / 3 - 1
    down, right = torch.meshgrid(step, step, indexing="ij")
    places = torch.stack((right, down), dim=-1).reshape(1, -1, 2)
    assert torch.allclose(pose.rays(places), looks.reshape(1, -1, 3), atol=1e-6)
    assert torch.allclose(pose.places(pose.rays(places)), places, atol=1e-9)


@given(LATITUDES, LONGITUDES, st.floats(0.3, 1.0), st.floats(-40, 40), st.floats(-0.4, 0.4))
def test_a_view_inside_another_is_found_by_its_warp(lat, lon, scale, turn, shift):
    outer = _pose(lat, lon, 24.0, 35.0)
    double = {"dtype": torch.float64}
    warp = similarities(
        torch.tensor([[shift, -shift / 2]], **double),
        torch.tensor([scale], **double),
        torch.tensor([turn], **double),
    )
    inner = outer.warped(warp)
    near = torch.tensor([[[0.0, 0.0], [0.05, 0.0], [0.0, 0.05]]], **double)
    expected = near @ warp[:, :, :2].mT + warp[:, None, :, 2]
    # a plane that touches elsewhere: to second order
    assert torch.allclose(outer.places(inner.rays(near)), expected, atol=2e-3)


def test_a_centred_view_keeps_place_and_turns_clockwise():
    outer = _pose(10.0, 20.0, 40.0, 0.0)
    one = torch.ones(1, dtype=torch.float64)
    inner = outer.warped(similarities(0 * torch.ones(1, 2).double(), one, 30 * one))
    assert inner.lat_lon[0].tolist() == pytest.approx([10, 20])
    assert inner.heading_deg.item() == pytest.approx(30)
    assert inner.field_of_view_deg.item() == pytest.approx(40)


def test_the_outline_starts_at_the_upper_left_corner():
    corners = _pose(0.0, 0.0, 40.0, 0.0).outline(per_side=1)[0]
    lat, lon = sphere.to_lat_lon(corners).unbind(-1)
    assert (lat.sign().tolist(), lon.sign().tolist()) == ([1, 1, -1, -1], [-1, 1, 1, -1])
