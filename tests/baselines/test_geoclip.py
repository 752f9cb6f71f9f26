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


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
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


def test_a_short_list_is_proven_but_where_many_places_are_alike():
    """Of 20 photos half look like one of 1,001 places within some 100 m; all are found."""
    near = 0.001 * torch.rand(1001, 2, generator=torch.Generator().manual_seed(5))
    gallery = Gallery(Waves(), torch.cat((near, places(9000))), quick=True)
    photos = gallery.embeddings[[*range(10), *range(5000, 5010)]]
    *_, unsure = gallery._quick_top(photos, 5)
    assert unsure.tolist() == [True] * 10 + [False] * 10
    expected = (photos @ gallery.embeddings.T).topk(5).values
    torch.testing.assert_close(gallery.top(photos, 5)[0], expected)


class Signs(torch.nn.Module):
    """Embeds places as vectors of plus and minus 1/64, with one minus fewer at latitude 1."""

    def forward(self, lat_lon):
        minus = torch.arange(4096) < 1021 - lat_lon[:, :1]
        return torch.where(minus, -1 / 64, 1 / 64)


def test_a_short_list_is_not_proven_where_the_product_alone_is_rounded():
    """All vectors are exact in bfloat16; cosines, 0.5 + 6/4096 and 0.5 + 8/4096, become 0.5."""
    where = torch.zeros(8192, 2)
    where[::100, 0] = 1
    gallery = Gallery(Signs(), where, quick=True)
    assert gallery._off == 0
    cosines, found = gallery.top(torch.ones(1, 4096), 5)
    assert cosines.tolist() == [[0.5 + 8 / 4096] * 5]
    assert (found[..., 0] == 1).all()


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
