"""Clips end to end, with the tiny model of the package."""

import math

import pytest
import torch

import icgeo
from icgeo.data.orbit import open_world, track_views
from icgeo.maps import LEGIBLE
from icgeo.sphere import distance_km
from icgeo.travel import mixture, smooth

LIMIT = 40_000.0


@pytest.fixture(scope="module")
def locator():
    return icgeo.Geolocator(icgeo.load("tiny"))


@pytest.fixture(scope="module")
def track():
    generator = torch.Generator().manual_seed(2)
    return track_views(open_world("blue-marble"), 4, generator=generator)


@pytest.fixture(scope="module")
def frames(track):
    return [image.permute(1, 2, 0).numpy() for image in track.images]


def masses(predictions):
    return torch.stack([prediction.density.mass for prediction in predictions])


def silence(monkeypatch, locator, *numbers):
    """Let the maps of some frames show nothing."""
    draw = type(locator.loaded).draw_maps

    def silenced(self, context, photos, **options):
        drawn = draw(self, context, photos, **options).clone()
        drawn[list(numbers)] = 0
        return drawn

    monkeypatch.setattr(type(locator.loaded), "draw_maps", silenced)


def test_a_clip_is_the_smoothed_frames_and_their_mixture(locator, frames, track):
    clip = locator.locate_sequence(frames, speed_kmh=LIMIT, seconds=60)
    alone = [prediction.density for prediction in locator.locate(frames)]
    temperature = locator.loaded.settings.temperature_in_sequence("earth", 4)
    expected = smooth(alone, [0, 60, 120, 180], speed_kmh=LIMIT, temperature=temperature)
    torch.testing.assert_close(masses(clip.frames), torch.stack([d.mass for d in expected]))
    torch.testing.assert_close(clip.whole.density.mass, mixture(expected).mass)
    for prediction, place in zip(clip.frames, track.lat_lon, strict=True):
        assert prediction.map is not None
        assert distance_km((prediction.lat, prediction.lon), place).item() < 1500
    middle = track.lat_lon[1:3].mean(0)
    assert distance_km((clip.whole.lat, clip.whole.lon), middle).item() < 1000
    assert clip.whole.legibility == max(frame.legibility for frame in clip.frames)
    assert clip.whole.seconds == pytest.approx(sum(frame.seconds for frame in clip.frames))


def test_predict_clip_takes_times_and_gaps_alike(locator, frames):
    by_gap, by_times = (
        icgeo.predict_sequence(frames, speed_kmh=LIMIT, seconds=seconds, model=locator.loaded)
        for seconds in (60, [100, 160.0, 220, 280])
    )
    assert torch.equal(masses(by_gap.frames), masses(by_times.frames))


@pytest.mark.parametrize("limit", [None, math.inf])
def test_photos_of_an_album_are_located_alone(locator, frames, limit):
    album = locator.locate_sequence(frames, speed_kmh=limit)
    alone = locator.locate(frames)
    assert torch.equal(masses(album.frames), masses(alone))
    assert [(p.lat, p.lon) for p in album.frames] == [(p.lat, p.lon) for p in alone]
    torch.testing.assert_close(album.whole.density.mass, masses(alone).mean(0))


def test_frames_of_one_place_share_a_density(locator, frames):
    clip = locator.locate_sequence(frames[:2], speed_kmh=0)
    assert torch.equal(clip.frames[0].density.mass, clip.frames[1].density.mass)


def test_an_illegible_frame_is_located_by_the_others(locator, frames, track, monkeypatch):
    silence(monkeypatch, locator, 1)
    assert not locator.locate(frames)[1].located
    found = locator.locate_sequence(frames, speed_kmh=LIMIT, seconds=60).frames[1]
    assert found.legibility < LEGIBLE
    assert found.located
    assert distance_km((found.lat, found.lon), track.lat_lon[1]).item() < 1500
    days = [0, 86_400, 2 * 86_400, 3 * 86_400]
    far = locator.locate_sequence(frames, speed_kmh=LIMIT, seconds=days).frames[1]
    assert not far.located
    assert math.isnan(far.lat)


def test_a_clip_without_a_legible_frame_is_not_located(locator, frames, monkeypatch):
    silence(monkeypatch, locator, 0, 1, 2, 3)
    clip = locator.locate_sequence(frames, speed_kmh=LIMIT, seconds=60)
    for prediction in (*clip.frames, clip.whole):
        assert not prediction.located
        assert math.isnan(prediction.lat)
        assert prediction.density.entropy() == pytest.approx(math.log(4 * math.pi), abs=1e-3)


def test_bad_input_is_refused_in_plain_words(locator, frames):
    with pytest.raises(ValueError, match="expected seconds with a speed_kmh of 5"):
        locator.locate_sequence(frames, speed_kmh=5)
    with pytest.raises(ValueError, match="at least one frame"):
        locator.locate_sequence([], speed_kmh=None)
    with pytest.raises(ValueError, match="got 2 for 4"):
        locator.locate_sequence(frames, speed_kmh=5, seconds=[0, 1])
    with pytest.raises(ValueError, match="speed_kmh of at least 0"):
        locator.locate_sequence(frames, speed_kmh=-5, seconds=1)
    with pytest.raises(ValueError, match="speed_kmh of at least 0"):
        locator.locate_sequence(frames, speed_kmh=math.nan)
