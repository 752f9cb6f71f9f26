import numpy as np
import pytest
import torch
from photo_samples import encoded, smooth
from PIL import Image

from icgeo.data.photos import PhotoError
from icgeo.data.pixels import augment, shaped_pixels, square_pixels


def test_the_middle_square_is_scaled():
    middle = smooth().crop((16, 0, 80, 64)).resize((32, 32), Image.Resampling.BOX)
    pixels = square_pixels([smooth(), encoded(smooth(), "PNG")], 32)
    assert pixels.shape == (2, 3, 32, 32)
    for photo in pixels:
        assert np.array_equal(photo.movedim(0, -1), np.asarray(middle))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1920, 1080), (336, 192)),  # width, height: 2 % is lost, by the middle square 44 %
        ((1080, 1920), (192, 336)),
        ((1600, 1200), (288, 208)),
        ((512, 512), (256, 256)),
        ((100, 60), (96, 48)),  # not made larger
        ((5, 5), (16, 16)),
        ((4000, 20), (3616, 16)),
        ((40000, 20), (4096, 16)),
    ],
)
def test_a_photo_in_its_own_shape_has_whole_tokens_and_at_most_the_area(size, expected):
    (pixels,) = shaped_pixels([Image.new("RGB", size, (9, 99, 200))], 256, patch=16)
    assert tuple(pixels.shape) == (3, *expected[::-1])
    assert pixels.flatten(1).unique(dim=1).flatten().tolist() == [9, 99, 200]
    again = Image.fromarray(pixels.movedim(0, -1).numpy())
    assert torch.equal(shaped_pixels([again], 256, patch=16)[0], pixels)  # as it is saved and read


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
    assert augment(photos[..., :16, :], "0/1/").shape == (2, 3, 16, 32)
