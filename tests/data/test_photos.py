"""Photos that are whole: formats, orientations, modes, profiles, arrays and locations."""

import logging
import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from photo_samples import (
    COLOURS,
    JPEG_TOLERANCE,
    assert_same,
    encoded,
    jpeg,
    located,
    pixels,
    png,
    row,
    smooth,
    strip,
    tiff,
)
from PIL import Image, ImageCms
from PIL.ExifTags import Base
from PIL.TiffImagePlugin import IFDRational

from icgeo.data.photos import BACKGROUND, PhotoError, content_key, read_location, read_photo


class TestFormats:
    @pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP", "PPM"])
    def test_lossless_formats_are_exact(self, format: str):
        assert_same(read_photo(encoded(smooth(), format)), smooth())

    def test_lossless_webp_is_exact(self):
        assert_same(read_photo(encoded(smooth(), "WEBP", lossless=True)), smooth())

    @pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}])
    def test_jpeg_within_its_tolerance(self, options: dict[str, bool]):
        assert_same(read_photo(jpeg(smooth(), **options)), smooth(), JPEG_TOLERANCE)

    def test_first_frame_of_an_animation(self):
        frames = [Image.new("RGB", (4, 3), colour) for colour in COLOURS[:3]]
        data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
        assert_same(read_photo(data), frames[0])

    def test_first_page_of_a_tiff(self):
        pages = [Image.new("RGB", (4, 3), colour) for colour in COLOURS[:2]]
        data = encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:])
        assert_same(read_photo(data), pages[0])

    def test_first_picture_of_a_multi_picture_jpeg_even_if_the_second_is_cut(self):
        data = encoded(smooth(), "MPO", save_all=True, append_images=[smooth().rotate(180)])
        assert_same(read_photo(data), smooth(), 8)
        assert_same(read_photo(data[: len(data) * 3 // 5]), smooth(), 8)

    def test_paths_bytes_and_images_are_the_same(self, tmp_path: Path):
        path = tmp_path / "photo.png"
        smooth().save(path)
        for source in (path, str(path), path.read_bytes(), smooth()):
            assert_same(read_photo(source), smooth())

    def test_the_name_does_not_tell_the_format(self, tmp_path: Path):
        path = tmp_path / "photo.jpg"
        path.write_bytes(encoded(smooth(), "PNG"))
        assert_same(read_photo(path), smooth())


STORED = {  # what a camera stores so that the tag brings `upright` back, in numpy
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: upright.transpose(1, 0, 2)[::-1],
    7: lambda upright: upright.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda upright: upright.transpose(1, 0, 2)[:, ::-1],
}


class TestOrientation:
    """The eight orientations of EXIF: where row 0 and column 0 of the stored picture belong."""

    @pytest.mark.parametrize("orientation", STORED)
    @pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
    def test_photo_is_upright(self, orientation: int, format: str):
        stored = Image.fromarray(
            np.ascontiguousarray(STORED[orientation](pixels(smooth())).astype(np.uint8))
        )
        exif = Image.Exif()
        exif[Base.Orientation] = orientation
        options = {"lossless": True} if format == "WEBP" else {}
        photo = read_photo(encoded(stored, format, exif=exif, **options))
        assert_same(photo, smooth())
        assert Base.Orientation not in photo.getexif()

    def test_a_wrong_orientation_is_ignored(self):
        exif = Image.Exif()
        exif[Base.Orientation] = 9
        assert_same(read_photo(encoded(smooth(), "PNG", exif=exif)), smooth())

    def test_damaged_tags_are_ignored(self, caplog: pytest.LogCaptureFixture):
        data = encoded(smooth(), "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\0\0")
        assert_same(read_photo(data), smooth())
        assert read_location(data) is None


class TestModes:
    def test_cmyk_is_inverted_only_in_jpeg(self):
        cmyk = strip((0, 255, 255, 0), (255, 0, 255, 0), (0, 0, 0, 0), (0, 0, 0, 255), mode="CMYK")
        expected = [(255, 0, 0), (0, 255, 0), (255, 255, 255), (0, 0, 0)]
        assert row(read_photo(encoded(cmyk, "TIFF"))) == expected
        wide = cmyk.resize((64, 16), Image.Resampling.NEAREST)
        data = jpeg(wide)
        assert b"Adobe" in data
        assert_same(read_photo(data), wide, JPEG_TOLERANCE)

    def test_palette(self):
        palette = strip(*COLOURS).convert("P", palette=Image.Palette.ADAPTIVE)
        assert row(read_photo(encoded(palette, "PNG"))) == COLOURS

    @pytest.mark.parametrize("transparency", [0, b"\x00\xff"], ids=["index", "bytes"])
    def test_palette_with_transparency(self, transparency: int | bytes):
        image = Image.new("P", (2, 1))
        image.putpalette([10, 20, 30, 200, 100, 50])
        image.putpixel((1, 0), 1)
        data = encoded(image, "PNG", transparency=transparency)
        assert row(read_photo(data)) == [BACKGROUND, (200, 100, 50)]

    def test_alpha_lies_on_the_background(self):
        """Over white, c at alpha a is a c + (1 - a) 255."""
        image = strip((200, 100, 50, 255), (200, 100, 50, 0), (200, 100, 50, 51), mode="RGBA")
        expected = [(200, 100, 50), BACKGROUND, (244, 224, 214)]
        assert row(read_photo(encoded(image, "PNG"))) == expected
        assert row(read_photo(image)) == expected
        assert row(read_photo(np.asarray(image))) == expected

    def test_grey_with_alpha(self):
        image = strip((100, 255), (100, 0), (100, 51), mode="LA")
        assert row(read_photo(encoded(image, "PNG"))) == [(100,) * 3, BACKGROUND, (224,) * 3]

    def test_transparent_colour(self):
        image = strip((1, 2, 3), (200, 100, 50))
        data = encoded(image, "PNG", transparency=(1, 2, 3))
        assert row(read_photo(data)) == [BACKGROUND, (200, 100, 50)]

    def test_one_bit(self):
        image = strip(0, 255, mode="1")
        assert row(read_photo(encoded(image, "PNG"))) == [(0, 0, 0), (255, 255, 255)]

    @pytest.mark.parametrize("format", ["PNG", "TIFF"])
    def test_16_bit_grey_is_scaled(self, format: str):
        values = np.array([[0, 100 * 257, 1000, 40000, 65535]], np.uint16)
        photo = read_photo(encoded(Image.fromarray(values), format))
        assert row(photo) == [(grey,) * 3 for grey in (0, 100, 4, 156, 255)]

    def test_16_bit_grey_in_pgm(self):
        values = np.array([0, 100 * 257, 65535], ">u2")
        photo = read_photo(b"P5 3 1 65535\n" + values.tobytes())
        assert row(photo) == [(grey,) * 3 for grey in (0, 100, 255)]

    def test_12_bit_grey_is_scaled(self):
        """Two samples of 12 bits in three bytes: 0xFFF and 0x800 (2048 / 4095 is 127.53)."""
        assert row(read_photo(tiff(2, 12, 1, b"\xff\xf8\x00"))) == [(255,) * 3, (128,) * 3]

    def test_16_bit_grey_where_zero_is_white(self):
        values = np.array([0, 100 * 257, 65535], "<u2")
        photo = read_photo(tiff(3, 16, 0, values.tobytes()))
        assert row(photo) == [(grey,) * 3 for grey in (255, 155, 0)]

    def test_16_bit_colour_is_scaled(self):
        """Pillow keeps the high byte, at most one level from the nearest."""
        values = np.array([65535, 0, 100 * 257, 40000, 1000, 257], ">u2")
        photo = read_photo(png(2, 1, 16, 2, b"\0" + values.tobytes()))
        assert row(photo)[0] == (255, 0, 100)
        assert np.abs(np.array(row(photo)[1]) - np.array([156, 4, 1])).max() <= 1

    def test_floating_point_tiff(self):
        values = np.array([[0.0, 0.2, 1.0]], np.float32)
        photo = read_photo(encoded(Image.fromarray(values), "TIFF"))
        assert row(photo) == [(grey,) * 3 for grey in (0, 51, 255)]

    @pytest.mark.parametrize("value", [-0.1, 1.1, 250.0, np.nan])
    def test_data_that_are_no_photo_are_refused(self, value: float):
        data = encoded(Image.fromarray(np.full((2, 2), value, np.float32)), "TIFF")
        with pytest.raises(PhotoError, match=r"expected values in \[0, 1\], got .*scale them"):
            read_photo(data)

    def test_metadata_do_not_stay(self):
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        image = smooth().copy()
        image.info["icc_profile"] = srgb
        assert read_photo(image).info == {}
        assert image.info == {"icc_profile": srgb}


class TestProfile:
    SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    # the same profile with red and blue exchanged: what is stored as red is blue light
    EXCHANGED = SRGB.replace(b"rXYZ", b"----").replace(b"bXYZ", b"rXYZ").replace(b"----", b"bXYZ")

    @pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
    def test_colours_become_srgb(self, format: str):
        options = {"lossless": True} if format == "WEBP" else {}
        data = encoded(smooth(), format, icc_profile=self.EXCHANGED, **options)
        swapped = Image.merge("RGB", smooth().split()[::-1])
        assert_same(read_photo(data), swapped, 1)

    def test_alpha_survives_the_profile(self):
        image = strip((200, 100, 50, 255), (200, 100, 50, 0), mode="RGBA")
        photo = read_photo(encoded(image, "PNG", icc_profile=self.EXCHANGED))
        assert row(photo) == [(50, 100, 200), BACKGROUND]

    def test_srgb_changes_nothing(self):
        assert_same(read_photo(encoded(smooth(), "PNG", icc_profile=self.SRGB)), smooth(), 1)

    @pytest.mark.parametrize("profile", [b"garbage" * 40, SRGB[:200], SRGB[:-300]])
    def test_a_broken_profile_is_ignored(self, profile: bytes, caplog: pytest.LogCaptureFixture):
        with caplog.at_level(logging.WARNING):
            assert_same(read_photo(encoded(smooth(), "PNG", icc_profile=profile)), smooth())
        assert "broken colour profile" in caplog.text

    def test_a_profile_of_another_colour_space_is_ignored(self):
        grey = smooth().convert("L")
        assert_same(read_photo(encoded(grey, "PNG", icc_profile=self.SRGB)), grey)


class TestArrays:
    def test_grey_and_colour(self):
        colours = np.asarray(smooth())
        assert_same(read_photo(colours), smooth())
        assert_same(read_photo(colours[..., 0]), smooth().getchannel("R"))
        assert_same(read_photo(colours[:, ::-1]), smooth().transpose(Image.Transpose(0)))

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_floating_point_is_rounded(self, dtype: type):
        values = np.array([[[0, 0.2, 1], [0.5, 0.25, 0.75]]], dtype)
        assert row(read_photo(values)) == [(0, 51, 255), (128, 64, 191)]

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            (np.zeros((3, 8, 8), np.uint8), "move the channels last"),
            (np.zeros((8, 8, 2), np.uint8), "expected shape"),
            (np.zeros(8, np.uint8), "expected shape"),
            (np.zeros((1, 8, 8, 3), np.uint8), "expected shape"),
            (np.zeros((0, 8, 3), np.uint8), "expected shape"),
            (np.zeros((8, 8, 3), np.int64), "expected uint8 or floating point"),
            (np.zeros((8, 8), bool), "expected uint8 or floating point"),
            (np.full((8, 8), 255.0), r"expected values in \[0, 1\], got \[255, 255\]"),
            (np.full((8, 8), -0.1), r"expected values in \[0, 1\]"),
            (np.full((8, 8), np.nan), r"expected values in \[0, 1\]"),
        ],
    )
    def test_others_are_refused(self, values: NDArray[Any], message: str):
        with pytest.raises(PhotoError, match=rf"photo in an array of \w+ \(.*: .*{message}"):
            read_photo(values)


class TestLocation:
    @pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "MPO"])
    def test_every_format_that_holds_exif(self, format: str, tmp_path: Path):
        path = tmp_path / "photo"
        path.write_bytes(encoded(smooth(), format, exif=located(-33.8688, 151.2093)))
        for source in (path, str(path), path.read_bytes()):
            assert read_location(source) == pytest.approx((-33.8688, 151.2093), abs=1e-6)
        with Image.open(path) as image:
            assert read_location(image) == pytest.approx((-33.8688, 151.2093), abs=1e-6)

    @given(st.floats(-90, 90), st.floats(-180, 179.99))
    def test_round_trip_within_a_thousandth_of_a_second(self, lat: float, lon: float):
        written = located(lat, lon, GPSStatus="A")
        assert read_location(jpeg(smooth(8, 8), exif=written)) == pytest.approx(
            (lat, lon), abs=0.51e-3 / 3600
        )

    def test_zero_denominators_in_a_file(self):
        data = jpeg(smooth(), exif=located(1, 2, GPSLatitude=(IFDRational(40_000, 7919),)))
        assert read_location(data) == pytest.approx((40_000 / 7919, 2))
        for order in "<>":
            data = data.replace(struct.pack(order + "I", 7919), bytes(4))
        assert read_location(data) is None

    def test_no_location(self):
        exif = Image.Exif()
        exif[Base.Orientation] = 6
        for source in (jpeg(smooth()), jpeg(smooth(), exif=exif), smooth(), np.asarray(smooth())):
            assert read_location(source) is None

    def test_a_photo_that_breaks_off_still_tells_its_place(self):
        data = jpeg(smooth(), exif=located(48.5, 2.25))
        assert read_location(data[: len(data) // 2]) == (48.5, 2.25)


def test_keys_of_pictures_tell_apart_how_their_bytes_look():
    grey = np.arange(24, dtype=np.uint8).reshape(4, 6)
    plain, turned = Image.fromarray(grey), Image.fromarray(grey)
    turned.getexif()[Base.Orientation] = 6
    indexed = plain.convert("P")
    other = indexed.copy()
    other.putpalette([255 - n // 3 for n in range(768)])
    wide = np.zeros((4, 8, 3), np.uint8)
    pictures = [plain, turned, indexed, other, wide, wide.reshape(8, 4, 3), b"x"]
    assert len({content_key(one) for one in pictures}) == len(pictures)
    assert content_key(plain.copy()) == content_key(plain)
    clear = plain.copy()
    clear.info["transparency"] = 3
    assert content_key(clear) != content_key(plain)
    with pytest.raises(PhotoError):
        content_key(Image.open(BytesIO(encoded(smooth(), "PNG")[:200])))
