import numpy as np
import pytest
import torch
from photo_samples import encoded, smooth
from PIL import Image

from icgeo.data.photos import PhotoError
from icgeo.data.pixels import augment, square_pixels


def test_the_middle_square_is_scaled():
    middle = smooth().crop((16, 0, 80, 64)).resize((32, 32), Image.Resampling.BOX)
    pixels = square_pixels([smooth(), encoded(smooth(), "PNG")], 32)
    assert pixels.shape == (2, 3, 32, 32)
    for photo in pixels:
        assert np.array_equal(photo.movedim(0, -1), np.asarray(middle))


def test_what_cannot_be_read_is_named():
    with pytest.raises(PhotoError, match="photo of 3 bytes"):
        square_pixels([smooth(), b"???"], 32)


def test_views_follow_from_content_and_key_alone():
    photos = square_pixels([smooth(), smooth().rotate(180)], 32)
    views = augment(photos, "0/1/")
    assert views.shape == photos.shape
    assert not torch.equal(views, photos)
    assert torch.equal(augment(photos.flip(0), "0/1/").flip(0), views)
    assert not torch.equal(augment(photos, "0/2/"), views)
