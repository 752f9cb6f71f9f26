"""Tests of the tiny model's codec."""

import pytest
import torch

from icgeo import maps, sphere
from icgeo.models.backbones.tiny import PatchCodec
from icgeo.training.pretrain import STYLE


def drawn(count, seed):
    xyz = sphere.sample_uniform(count, generator=torch.Generator().manual_seed(seed))
    return maps.draw(sphere.to_lat_lon(xyz), STYLE).float()


@pytest.fixture(scope="module")
def codec():
    torch.manual_seed(0)
    fitted = PatchCodec()
    fitted.fit_maps(drawn(2000, 0))
    return fitted.eval()


def test_maps_survive_the_codec(codec):
    """Each channel keeps its energy: wide heatmaps nearly all of it, the narrowest 90 %."""
    clean = drawn(300, 1)
    lost = (codec.decode_maps(codec.encode_maps(clean)) - clean).square().sum((0, 2, 3))
    assert (lost / clean.square().sum((0, 2, 3)) < torch.tensor([0.001, 0.005, 0.1])).all()


def test_latents_have_unit_mean_square_and_fall_with_fineness(codec):
    latents = codec.encode_maps(drawn(1000, 2))
    assert latents.shape == (1000, 8, 36)
    assert latents.var(dim=(0, 1)).mean().item() == pytest.approx(1, rel=0.1)
    spread = latents.std(dim=(0, 1))
    assert spread[0] > 2 * spread[-1]


def test_the_codec_is_linear_so_means_commute_with_it(codec):
    clean = drawn(5, 3)
    latents = codec.encode_maps(clean)
    torch.testing.assert_close(
        codec.decode_maps(latents.mean(0)), codec.decode_maps(latents).mean(0), atol=1e-5, rtol=0
    )


def test_maps_have_no_seams(codec):
    """Across the edge of two patches a decoded map bends as the map drawn does."""
    clean = drawn(300, 1)
    decoded = codec.decode_maps(codec.encode_maps(clean))
    edges = torch.tensor([15, 31, 47])
    steps, expected = (m[..., edges + 1] - m[..., edges] for m in (decoded, clean))
    assert (steps - expected).square().mean() < 0.08 * expected.square().mean()


def test_turning_a_map_by_a_patch_turns_what_is_decoded(codec):
    clean = drawn(5, 6)
    decoded, turned = (codec.decode_maps(codec.encode_maps(m)) for m in (clean, clean.roll(16, -1)))
    torch.testing.assert_close(turned, decoded.roll(16, -1), atol=1e-5, rtol=0)


@torch.no_grad()
def test_photo_features_and_descriptor(codec):
    photos = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    features, descriptor = codec.encode_photos(photos)
    assert features.shape == (3, 8, 144)
    torch.testing.assert_close(descriptor.norm(dim=-1), torch.ones(3))
    alone, _ = codec.encode_photos(photos[1:2])
    torch.testing.assert_close(alone, features[1:2], atol=1e-5, rtol=0)


def test_the_codec_survives_disk(codec, tmp_path):
    codec.save_pretrained(tmp_path)
    again = PatchCodec.from_pretrained(tmp_path)
    clean = drawn(4, 5)
    assert torch.equal(again.encode_maps(clean), codec.encode_maps(clean))
    assert [path.suffix for path in tmp_path.iterdir() if path.suffix != ".json"] == [
        ".safetensors"
    ]
