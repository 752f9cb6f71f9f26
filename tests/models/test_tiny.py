"""Tests of the stacked FLUX.2 model and of loading it."""

import math

import pytest
import torch

from icgeo import maps, models, sphere
from icgeo.models.backbones.tiny import grid_ids, text_ids
from icgeo.models.map_model import MapModel
from icgeo.models.settings import Settings
from icgeo.training.episodes import PROMPTS
from icgeo.training.pretrain import STYLE, build_learner


@pytest.fixture(scope="module")
def model():
    learner = (
        build_learner(heads=2, single_layers=1, photo_channels=8, codec_places=400)
        .eval()
        .requires_grad_(False)
    )
    settings = Settings(
        STYLE,
        PROMPTS,
        default_prompt=PROMPTS[0],
        noise=maps.Noise(0.1, 0.2, 0.05),
        calibration={PROMPTS[0]: {"0": 2.0, "16": 1.0}},
    )
    learner.shift = 2.0
    return MapModel(learner, settings)


@pytest.fixture(scope="module")
def photos():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (6, 3, 64, 64), generator=generator, dtype=torch.uint8)


LAT_LON = torch.tensor([[10.0, 20.0], [-40.0, 179.0], [88.0, -3.0]], dtype=torch.float64)


def test_ids_name_image_row_and_column():
    assert grid_ids(2, 3, image=1).tolist() == [
        [1, 0, 0, 0], [1, 0, 1, 0], [1, 0, 2, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 2, 0],
    ]  # fmt: skip
    assert text_ids(2).tolist() == [[0, 0, 0, 0], [0, 0, 0, 1]]


def test_a_checkpoint_survives_disk(model, photos, tmp_path):
    """Weights are stored in bfloat16, so the first reload rounds and the second changes nothing."""
    model.save(tmp_path / "once")
    once = models.load(tmp_path / "once")
    once.save(tmp_path / "twice")
    twice = models.load(tmp_path / "twice")
    assert once.settings == twice.settings == model.settings
    assert once.backbone.shift == model.backbone.shift
    context = once.encode_context(photos[:3], LAT_LON)
    drawn = once.draw_maps(context, photos[3:], prompt=PROMPTS[1])
    again = twice.draw_maps(
        twice.encode_context(photos[:3], LAT_LON), photos[3:], prompt=PROMPTS[1]
    )
    assert torch.equal(drawn, again)
    suffixes = {path.suffix for path in (tmp_path / "once").rglob("*") if path.is_file()}
    assert suffixes == {".json", ".safetensors"}


def test_drawing_gives_one_map_a_query_and_sample(model, photos):
    context = model.encode_context(photos[:3], LAT_LON)
    drawn = model.draw_maps(context, photos[3:], prompt=PROMPTS[0], samples=2, steps=3)
    assert drawn.shape == (3, 2, 3, 32, 64)
    assert drawn.dtype == torch.float32
    assert not torch.equal(drawn[:, 0], drawn[:, 1])
    alone = model.draw_maps(context, photos[4:5], prompt=PROMPTS[0], samples=2, steps=3)
    torch.testing.assert_close(alone, drawn[1:2], atol=1e-5, rtol=0)


def test_prompt_and_examples_matter(photos):
    tiny = models.load("tiny")
    nothing = tiny.encode_context(photos[:0], LAT_LON[:0])
    something = tiny.encode_context(photos[:3], LAT_LON)
    assert (nothing.shots, something.shots) == (0, 3)
    blind, told, shown = (
        tiny.draw_maps(context, photos[3:], prompt=prompt)
        for context, prompt in (
            (nothing, PROMPTS[0]),
            (nothing, PROMPTS[1]),
            (something, PROMPTS[1]),
        )
    )
    assert (blind - told).abs().max() > 0.1
    assert (told - shown).abs().max() > 0.01


def test_codec_and_ink_alone_cost_little(model):
    """Locations drawn, coded, decoded and read: within a third of a pixel of 5.6 degrees."""
    xyz = sphere.sample_uniform(60, generator=torch.Generator().manual_seed(1))
    lat_lon = sphere.to_lat_lon(xyz)
    readings = maps.read(model.codec_round_trip(lat_lon), STYLE)
    found = torch.stack([reading.point for reading in readings])
    assert sphere.distance_km(found, lat_lon).median() < 210


def test_the_power_of_the_temperature_is_interpolated_and_defaults_to_one(model):
    settings = model.settings
    assert settings.temperature(PROMPTS[0], 0) == 2.0
    assert settings.temperature(PROMPTS[0], 16) == 1.0
    assert 1.0 < settings.temperature(PROMPTS[0], 4) < 2.0
    assert settings.temperature(PROMPTS[0], 100) == 1.0
    assert settings.temperature(PROMPTS[1], 4) == 1.0
    share = math.log(5) / math.log(17)
    assert 1 / settings.temperature(PROMPTS[0], 4) == pytest.approx((1 + share) / 2)
