"""Tests of GeoCLIP: against the package of its authors, pyproj, and brute force."""

import importlib
import sys
import types

import numpy as np
import pytest
import torch
from pyproj import Proj
from torch.nn.functional import normalize

from icgeo.baselines import geoclip
from icgeo.baselines.geoclip import Gallery, GeoClip, GeoClipSettings, LocationEncoder, jitter
from icgeo.sphere import EARTH_RADIUS_KM, angle, sample_uniform, to_lat_lon


def places(count):
    return to_lat_lon(sample_uniform(count, generator=torch.Generator().manual_seed(0)))


@pytest.fixture
def authors(monkeypatch):
    """Return the module of the authors' location encoder, without the rest of their package."""
    try:
        folder = geoclip.package_file("geoclip/model/location_encoder.py").parent
    except ValueError:
        pytest.skip("needs the package geoclip")
    package = types.ModuleType("geoclip_model")
    package.__path__ = [str(folder)]
    monkeypatch.setitem(sys.modules, "geoclip_model", package)
    return importlib.import_module("geoclip_model.location_encoder")


@pytest.mark.no_deps
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_embeddings_are_those_of_the_authors_package(authors):
    """To the last digit, at 300 places and at the corners of the map."""
    where = torch.cat((places(300), torch.tensor([[90.0, 0], [-90, 10], [0, -180]])))
    with torch.inference_mode():
        own = LocationEncoder.pretrained()(where.float())
        theirs = authors.LocationEncoder().eval()(where.float())
    torch.testing.assert_close(own, theirs, rtol=0, atol=1e-7)


def test_the_image_side_and_the_gallery_come_with_the_package(authors):
    assert geoclip.image_encoder()(torch.zeros(2, 768)).shape == (2, 512)
    gallery = geoclip.gallery_places()
    assert gallery.shape == (100_000, 2)
    assert gallery[0].tolist() == pytest.approx([-50.943392, -72.935664])


def test_the_projection_is_that_of_proj():
    where = places(200)
    x, y = Proj(proj="eqearth", R=1)(where[:, 1].numpy(), where[:, 0].numpy())
    np.testing.assert_allclose(geoclip.equal_earth(where).numpy(), np.stack((x, y), -1), atol=1e-6)


class Waves(torch.nn.Module):
    """Embeds places so that all differ."""

    def forward(self, lat_lon):
        turns = torch.randn(2, 32, generator=torch.Generator().manual_seed(4))
        return torch.sin(lat_lon @ turns)


@pytest.mark.parametrize("quick", [False, True])
def test_a_gallery_finds_what_brute_force_finds(quick):
    generator = torch.Generator().manual_seed(1)
    where, encoder = places(10_001), Waves()
    gallery = Gallery(encoder, where, quick=quick, at_once=500)
    photos = torch.randn(20, 32, generator=generator)
    cosines, found = gallery.top(photos, 5)
    with torch.inference_mode():
        exact = normalize(photos, dim=-1) @ normalize(encoder(where.float()), dim=-1).T
    expected = exact.topk(5)
    torch.testing.assert_close(cosines, expected.values)
    assert torch.equal(found, where.float()[expected.indices])


def test_the_queue_takes_the_newest_places_and_forgets_the_oldest():
    features, xyz = (
        torch.eye(6),
        sample_uniform(6, generator=torch.Generator().manual_seed(2)).float(),
    )
    settings = GeoClipSettings(width=8, embedded=8, queue=16, queue_noise_km=0.0)
    head = GeoClip(features, xyz, settings)
    before = head.queue.clone()
    head.loss(features, xyz, torch.Generator().manual_seed(0)).backward()
    assert torch.equal(head.queue, torch.cat((xyz, before))[:16])
    assert head.log_scale.grad != 0
    assert head.scale.item() == pytest.approx(1 / 0.07)


def test_noise_has_the_sigma_it_is_asked_for():
    """Along each axis: the mean square of the distance is twice its square."""
    xyz = sample_uniform(4000, generator=torch.Generator().manual_seed(0))
    moved = jitter(xyz, 100.0, torch.Generator().manual_seed(1))
    km = EARTH_RADIUS_KM * angle(xyz, moved)
    assert km.square().mean().sqrt().item() == pytest.approx(100 * 2**0.5, rel=0.03)
