"""Zoom on examples alone: where the photo lies among them, on a planet that the model never saw."""

import math

import pytest
import torch

import icgeo
from icgeo import sphere
from icgeo.data import orbit
from icgeo.data.base_maps import open_map
from icgeo.data.poses import Poses, similarities
from icgeo.data.worlds import procedural_world
from icgeo.models import load
from icgeo.zoom.bank import Aligned, resect

pytest.importorskip("cv2", reason="needs the extra [map]")
PLACE, FIELD = (12.0, 40.0), 38.0


@pytest.fixture(scope="module")
def world():
    return procedural_world("craters", generator=3, height=256)


@pytest.fixture(scope="module")
def examples(world):
    """Views of 30 to 50 degrees, some 4 to 14 degrees away from the place."""
    generator = torch.Generator().manual_seed(0)
    away = torch.rand(10, 2, generator=generator).double() * 18 - 9
    places = torch.tensor(PLACE).double() + away
    fields = 30 + 20 * torch.rand(10, generator=generator).double()
    views, _ = open_map(world).views(places, fields, 0 * fields, size=64)
    photos = [view.movedim(0, -1).numpy() for view in views]
    pairs = zip(photos, places.tolist(), strict=True)
    return [icgeo.Example(photo, *place) for photo, place in pairs]


def photo_at(world, place, field, heading=0.0):
    one = torch.tensor([field]), torch.tensor([heading])
    clear, _ = open_map(world).views(torch.tensor([place]), *one, size=64)
    haze = {"haze": torch.tensor([0.2]), "exposure_stops": torch.tensor([0.3])}
    return orbit.to_uint8(orbit.develop(clear / 255, **haze))[0].permute(1, 2, 0).numpy()


def test_a_photo_lies_where_its_examples_say(world, examples):
    photo = photo_at(world, PLACE, FIELD)
    (flat,), (found,) = (
        icgeo.Geolocator(zoom=zoom).locate(photo, examples) for zoom in (None, True)
    )
    pixel_km = 111.2 * FIELD / 64
    assert sphere.distance_km((found.lat, found.lon), PLACE).item() < pixel_km / 2
    assert found.field_of_view_deg == pytest.approx(FIELD, rel=0.05)
    assert abs((found.heading_deg + 180) % 360 - 180) < 3
    assert flat.levels == ()
    assert [level.name for level in found.levels] == ["alike", "place"]
    assert found.density.log_prob(PLACE) > flat.density.log_prob(PLACE) + 1
    assert found.density.mass.sum().item() == pytest.approx(1)
    kinds = set(found.to_geodataframe()["kind"])
    assert kinds == {"point", "region", "footprint"}


def test_a_photo_of_elsewhere_keeps_the_answer_of_the_examples(world, examples):
    photo = photo_at(world, (-50.0, -100.0), FIELD)
    (flat,), (found,) = (
        icgeo.Geolocator(zoom=zoom).locate(photo, examples) for zoom in (None, True)
    )
    assert found.levels == ()
    assert (found.lat, found.lon) == (flat.lat, flat.lon)
    assert torch.equal(found.density.mass, flat.density.mass)


@pytest.mark.parametrize("point", ["best", "mode"])
def test_chosen_examples_are_zoomed_on_too(world, examples, point):
    locator = icgeo.Geolocator(zoom=True, shots=6, select="nearest", features="pixels", point=point)
    (found,) = locator.locate(photo_at(world, PLACE, FIELD), examples)
    probability = found.levels[0].probability
    assert len(probability) <= 6
    assert torch.equal(probability, probability.sort(descending=True).values)
    answer = found.density.best_point() if point == "best" else found.density.mode()
    assert (found.lat, found.lon) == pytest.approx(answer.tolist())


def test_a_zoom_on_examples_needs_a_model_that_compares_parts():
    with pytest.raises(ValueError, match="model that compares parts with zoom=True"):
        icgeo.Geolocator(matching=False, zoom=True)
    assert icgeo.Geolocator(load("tiny"), zoom=True).locate([]) == []


def test_resection_finds_a_pose_in_spite_of_an_outlier():
    """Middles of examples are projected by the definition of a gnomonic view."""
    pose = Poses(
        sphere.to_xyz(torch.tensor([PLACE]).double()),
        torch.tensor([33.0]).double(),
        torch.tensor([4.0]).double(),
    )
    away = torch.tensor([[3.0, 2.0], [-4.0, 5.0], [1.0, -6.0], [-2.0, -3.0]]).double()
    lat_lon = torch.tensor(PLACE).double() + away
    middles = pose.places(sphere.to_xyz(lat_lon)[None])[0]
    middles[3] += 0.8
    one = torch.ones(4)
    warps = similarities(-middles.float(), one, 0 * one).double()
    views = torch.zeros(4, 3, 64, 64, dtype=torch.uint8)
    found, sigma_deg, agrees = resect(Aligned(lat_lon, warps, views, 0.9 * one))
    assert agrees.tolist() == [True, True, True, False]
    off = sphere.distance_km(found.lat_lon[0], torch.tensor(PLACE).double()).item()
    assert off < 3 * 111.2 * sigma_deg
    assert off < 30
    assert float(found.field_of_view_deg) == pytest.approx(33, rel=0.03)
    assert math.isfinite(sigma_deg)
