"""Photos of another kind than views from orbit are noticed, by the tiny model of the package."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Generator

import icgeo
from icgeo import drawing
from icgeo.data.orbit import open_world, random_views
from icgeo.data.photos import Photo
from icgeo.data.pixels import square_pixels
from icgeo.data.worlds import HELD_OUT_FAMILIES, procedural_world
from icgeo.models.map_model import MapModel
from icgeo.models.settings import Origin

PHOTOS = Path(__file__).parents[1] / "assets" / "photos"
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def tiny() -> MapModel:
    return icgeo.load("tiny")


def test_real_photos_are_told_from_views_of_orbit(tiny: MapModel) -> None:
    """Of the half that the rule was not fitted on (`scripts/assets/domain.py`), 95 % at least."""
    paths = sorted(PHOTOS.glob("*.jpg"))
    held_out = torch.randperm(len(paths), generator=Generator().manual_seed(0))[1::2].tolist()
    told = tiny.in_domain(square_pixels([paths[number] for number in held_out], 64))
    assert told is not None
    assert told.float().mean() <= 0.05
    noise = torch.rand(64, 3, 64, 64, generator=Generator().manual_seed(3)).mul(255).byte()
    told = tiny.in_domain(noise)
    assert told is not None
    assert told.float().mean() <= 0.05


@pytest.mark.parametrize("name", ["blue-marble", *HELD_OUT_FAMILIES])
def test_views_from_orbit_do_not_warn(tiny: MapModel, name: str) -> None:
    is_made = name in HELD_OUT_FAMILIES
    world = procedural_world(name, generator=5, height=256) if is_made else open_world(name)
    views = random_views(world, 100, generator=Generator().manual_seed(4))
    told = tiny.in_domain(views.images)
    assert told is not None
    assert told.float().mean() >= 0.95


def test_a_prediction_says_so_and_python_warns_once(
    tiny: MapModel, caplog: pytest.LogCaptureFixture
) -> None:
    drawing._warn_once.cache_clear()
    locator = icgeo.Geolocator(tiny)
    generator = Generator().manual_seed(4)
    view = random_views(open_world("blue-marble"), 1, generator=generator).images[0]
    photo = view.permute(1, 2, 0).numpy()
    with caplog.at_level(logging.WARNING, logger="icgeo"):
        assert locator.locate(photo)[0].in_domain is True
        assert not caplog.records
        assert [one.in_domain for one in locator.locate([NOISE, photo])] == [False, True]
        locator.locate(NOISE)
    (warning,) = caplog.messages
    assert "in_domain=False" in warning


def test_a_clip_is_in_the_domain_if_a_frame_is(tiny: MapModel) -> None:
    view = random_views(open_world("blue-marble"), 1, generator=Generator().manual_seed(4))
    frames: list[Photo] = [NOISE, view.images[0].permute(1, 2, 0).numpy()]
    clip = icgeo.Geolocator(tiny).locate_sequence(frames, speed_kmh=0)
    assert [frame.in_domain for frame in clip.frames] == [False, True]
    assert clip.whole.in_domain is True
    assert icgeo.Geolocator(tiny).locate_sequence([NOISE], speed_kmh=0).whole.in_domain is False


def test_who_does_not_know_says_nothing(tiny: MapModel, tmp_path: Path) -> None:
    """What a LoRA has learned to see is another domain, and an old checkpoint has no rule."""
    adapted = replace(tiny, origin=Origin("tiny", adapter="lora"))
    assert icgeo.Geolocator(adapted).locate(NOISE)[0].in_domain is None
    tiny.save(tmp_path)
    pixels = square_pixels([NOISE], 64)
    again = icgeo.load(tmp_path).in_domain(pixels)
    assert again is not None
    assert not again.any()
    (tmp_path / "domain.safetensors").unlink()
    assert icgeo.load(tmp_path).in_domain(pixels) is None
