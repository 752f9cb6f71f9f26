"""Tests of steering: directions that were built are found, and exchanged photos exchange maps."""

import numpy as np
import pytest
import torch

from icgeo import load, sphere
from icgeo.data.pixels import square_pixels
from icgeo.evaluation.episodes import world_episode
from icgeo.latents.steering import PlaceDirections, changes, compare_changes, cycle, project, steer
from icgeo.models.blocks import Taps, walk

TOKENS, CHANNELS = 2, 6


@pytest.fixture(scope="module")
def built():
    """Activations that hold places along known axes, and noise that is strong across them."""
    generator = torch.Generator().manual_seed(0)
    xyz = sphere.sample_uniform(500, generator=generator)
    normal = torch.randn(12, 12, generator=generator, dtype=torch.float64)
    axes = torch.linalg.qr(normal).Q.reshape(12, TOKENS, CHANNELS)
    noise = torch.randn(500, 9, generator=generator, dtype=torch.float64)
    x = torch.einsum("ni,itc->ntc", 2 * xyz, axes[:3])
    return xyz, axes, x + torch.einsum("ni,itc->ntc", noise, axes[3:])


def test_the_axes_of_places_are_found(built):
    xyz, axes, x = built
    found = PlaceDirections.fit(x, sphere.to_lat_lon(xyz))
    torch.testing.assert_close(
        found.pattern.flatten(1) @ axes[:3].flatten(1).T,
        2 * torch.eye(3).double(),
        atol=0.2,
        rtol=0,
    )
    torch.testing.assert_close(
        found.weights.flatten(1) @ axes[:3].flatten(1).T,
        torch.eye(3).double() / 2,
        atol=0.02,
        rtol=0,
    )
    way = xyz[:4] - xyz[4:8]
    moved = torch.einsum("itc,ntc->ni", found.weights, found.along_weights(way))
    torch.testing.assert_close(moved, way, atol=1e-6, rtol=0)
    part = project(x, found.pattern)
    torch.testing.assert_close(project(part, found.pattern), part)
    assert torch.einsum("ntc,itc->ni", x - part, found.pattern).abs().max() < 1e-8


def test_controls_have_the_norm_of_what_they_are_compared_with(built):
    xyz, _, x = built
    found = PlaceDirections.fit(x[100:], sphere.to_lat_lon(xyz[100:]))
    generator = torch.Generator().manual_seed(1)
    partner = cycle(30, generator)
    assert sorted(partner.tolist()) == list(range(30))
    assert not (partner == torch.arange(30)).any()
    ways = {
        way.name: way
        for way in changes(x[:30], xyz[:30], partner, found, strength=0.5, generator=generator)
    }
    norms = {n: (way.activations - x[:30]).flatten(1).norm(dim=1) for n, way in ways.items()}
    for name, way in ways.items():
        if way.against not in (None, "mean photo"):
            torch.testing.assert_close(norms[name], norms[way.against])
    assert torch.equal(ways["all exchanged"].activations, x[:30][partner])
    apart = 0.5 * 2 * (xyz[:30][partner] - xyz[:30]).norm(dim=1)
    torch.testing.assert_close(norms["probe pattern"], apart, rtol=0.15, atol=0)


@pytest.fixture(scope="module")
def steered():
    model, episode = load("tiny"), world_episode("blue-marble", queries=72, shots=0)
    pixels = square_pixels([query.photo for query in episode.queries], 64)
    places = torch.tensor([query.lat_lon for query in episode.queries], dtype=torch.float64)
    nothing = model.encode_context([], torch.empty(0, 2))
    taps = Taps((2,), same_noise=True)
    (step,) = walk(model, nothing, pixels, prompt="earth", taps=taps)
    found = PlaceDirections.fit(step.activations[2][12:], places[12:])
    how = {"directions": found, "edit": (2, 1.0, 1.0), "prompt": "earth"}
    return steer(model, nothing, pixels[:12], places[:12], **how)


def test_exchanged_photos_exchange_their_maps(steered):
    """What follows a block depends on it and on the words, whose tokens have seen the own photo."""
    rows = steered[steered.change == "all exchanged"]
    np.testing.assert_allclose(rows.lat, rows.goal_lat, atol=0.5)
    before = steered[steered.change == "none"].set_index("photo")
    assert (before.moved_km == 0).all()
    assert len(steered) == 12 * 11
    assert (rows.cosine > 0.99).all()
    np.testing.assert_allclose(rows.nearer_km, rows.moved_km, atol=100)


def test_a_probe_s_direction_moves_maps_there_and_random_ones_do_not(steered):
    table = compare_changes(steered).set_index("change")
    assert table.nearer_km["probe pattern"] > 1000
    assert table.nearer_km_low["probe pattern"] > 0
    assert table.cosine["probe pattern"] > 0.7
    assert abs(table.cosine["random direction"]) < 0.5
    assert table.nll_goal_high["probe pattern"] < 0


def test_projection_on_a_span():
    basis = torch.eye(4)[:2].reshape(2, 1, 4).double()
    x = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]]).double()
    assert project(x, basis).flatten().tolist() == pytest.approx([1, 2, 0, 0])
