"""Photos that are damaged, hostile or too large."""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from photo_samples import (
    COLOURS,
    JPEG_TOLERANCE,
    assert_same,
    encoded,
    jpeg,
    located,
    pixels,
    png,
    smooth,
    strip,
)
from PIL import Image, ImageFile

from icgeo.data.photos import PhotoError, read_location, read_photo


class TestDamage:
    @pytest.mark.parametrize("progressive", [False, True])
    def test_a_truncated_jpeg_keeps_what_is_there(
        self, progressive: bool, caplog: pytest.LogCaptureFixture
    ):
        data = jpeg(smooth(320, 240), progressive=progressive)
        with caplog.at_level(logging.WARNING):
            photo = read_photo(data[: len(data) * 4 // 5])
        difference = np.abs(pixels(photo) - pixels(smooth(320, 240)))
        assert difference[:120].max() <= 3 * JPEG_TOLERANCE
        assert "breaks off: read" in caplog.text
        assert progressive or np.isin(pixels(photo)[-1], (127, 128)).all()

    def test_a_truncated_cmyk_jpeg(self):
        data = jpeg(smooth(320, 240).convert("CMYK"))
        photo = read_photo(data[: len(data) * 4 // 5])
        difference = np.abs(pixels(photo) - pixels(smooth(320, 240)))
        assert difference[:120].max() <= 3 * JPEG_TOLERANCE

    def test_a_small_part_is_refused(self):
        data = jpeg(smooth(320, 240))
        with pytest.raises(PhotoError, match=r"expected a whole JPEG, got the first \d+%.*again"):
            read_photo(data[: len(data) // 3])

    @given(st.integers(0, 10_000))
    def test_a_progressive_jpeg_may_break_off_anywhere(self, position: int):
        data = jpeg(smooth(), progressive=True)
        start = data.rindex(b"\xff\xda", 0, len(data) // 2)
        photo = read_photo(data[: start + position % (len(data) - start)])
        assert photo.size == smooth().size

    def test_the_process_is_left_alone(self):
        before = ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS
        data = jpeg(smooth(320, 240))[:-500]
        with ThreadPoolExecutor(4) as pool:
            photos = list(pool.map(read_photo, [data] * 8))
        assert all(np.array_equal(pixels(photo), pixels(photos[0])) for photo in photos)
        assert (
            (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS)
            == before
            == (False, 89_478_485)
        )

    @pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP", "GIF"])
    def test_other_truncated_formats_are_refused(self, format: str):
        data = encoded(smooth(), format)
        with pytest.raises(PhotoError, match="leave it out"):
            read_photo(data[: len(data) // 2])

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda path: path.touch(), "found an empty file; fetch it again"),
            (lambda path: path.mkdir(), "found a folder or a device; give a file"),
            (lambda path: path.write_text("hello, world!"), "starts with b'hello, world!'"),
            (lambda path: path.write_bytes(b"\0\0\0\x18ftypheic"), "HEIC.*pillow-heif"),
            (lambda path: path.write_text("%!PS-Adobe-3.0 EPSF-3.0"), "convert it to JPEG"),
            (lambda path: None, "found no such file; check the path"),
        ],
        ids=["empty", "folder", "text", "heic", "eps", "missing"],
    )
    def test_errors_name_file_finding_and_remedy(
        self, make: Callable[[Path], object], message: str, tmp_path: Path
    ):
        path = tmp_path / "beach.jpg"
        make(path)
        for read in (read_photo, read_location):
            with pytest.raises(PhotoError, match=rf"photo .*beach\.jpg: expected .*{message}"):
                read(path)

    @pytest.mark.parametrize("path", ["a\0b", "x" * 5000])
    def test_impossible_paths(self, path: str):
        with pytest.raises(PhotoError, match=r"^photo "):
            read_photo(path)

    def test_a_broken_pillow_image(self):
        image = Image.open(BytesIO(encoded(smooth(), "PNG")[:300]))
        with pytest.raises(PhotoError, match=r"photo <PIL.*: expected a readable photo"):
            read_photo(image)

    @given(st.binary(max_size=300), st.sampled_from(["", "JPEG", "PNG", "TIFF", "GIF", "WEBP"]))
    def test_any_bytes_give_a_photo_or_a_photo_error(self, data: bytes, format: str):
        head = encoded(strip(*COLOURS), format)[:40] if format else b""
        for read in (read_photo, read_location):
            try:
                result = read(head + data)
            except PhotoError as error:
                assert str(error).startswith("photo of ")  # noqa: PT017
            else:
                assert result is None or isinstance(result, tuple | Image.Image)

    @given(
        st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 7)), min_size=1, max_size=20),
        st.sampled_from(["baseline", "progressive", "cmyk", "located"]),
    )
    def test_flipped_bits_give_a_photo_or_a_photo_error(
        self, flips: list[tuple[int, int]], kind: str
    ):
        data = bytearray(self.samples()[kind])
        for position, bit in flips:
            data[position % len(data)] ^= 1 << bit
        try:
            photo = read_photo(bytes(data), max_pixels=1_000_000)
        except PhotoError as error:
            assert str(error).startswith("photo of ")  # noqa: PT017
        else:
            assert photo.mode == "RGB"

    @staticmethod
    @cache
    def samples() -> dict[str, bytes]:
        return {
            "baseline": jpeg(smooth()),
            "progressive": jpeg(smooth(), progressive=True),
            "cmyk": jpeg(smooth().convert("CMYK")),
            "located": jpeg(smooth(32, 32), exif=located(48.5, 2.25)),
        }


class TestSize:
    def test_limit_holds_before_decoding(self):
        """2^31 - 1 pixels squared would be 16 EiB; the file has no pixels at all."""
        bomb = png(2**31 - 1, 2**31 - 1, 8, 2, b"")
        for read in (read_photo, read_location):
            with pytest.raises(PhotoError, match=r"at most 200000000 pixels, found 2147483647 x"):
                read(bomb)

    def test_limit_is_an_option(self):
        data = encoded(smooth(), "PNG")
        assert read_photo(data, max_pixels=96 * 64).size == (96, 64)
        for source in (data, smooth()):
            with pytest.raises(PhotoError, match="96 x 64; make it smaller or raise max_pixels"):
                read_photo(source, max_pixels=96 * 64 - 1)

    def test_limit_may_exceed_that_of_pillow(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
        assert_same(read_photo(encoded(smooth(), "PNG")), smooth())

    @pytest.mark.parametrize(
        ("hint", "size"), [(64, (96, 64)), (65, (192, 128)), (400, (384, 256))]
    )
    def test_hint_reduces_a_jpeg_but_never_below_it(self, hint: int, size: tuple[int, int]):
        photo = read_photo(jpeg(smooth(384, 256)), size_hint=hint)
        assert photo.size == size
        assert_same(photo, smooth(384, 256).resize(size, Image.Resampling.BOX), JPEG_TOLERANCE)

    def test_hint_leaves_other_formats(self):
        assert_same(read_photo(encoded(smooth(), "PNG"), size_hint=8), smooth())
