"""Photos of every kind, made here, with pixels known beforehand."""

import struct
import zlib
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ExifTags import GPS, IFD
from PIL.TiffImagePlugin import IFDRational

JPEG_TOLERANCE = 4  # of smooth colours at quality 95, without chroma subsampling
COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (200, 100, 50)]


@cache
def smooth(width: int = 96, height: int = 64) -> Image.Image:
    """A picture whose corners differ, without detail that JPEG would lose."""
    y, x = np.mgrid[:height, :width]
    channels = (x * 255 // width, y * 255 // height, (x + y) * 255 // (width + height))
    return Image.fromarray(np.stack(channels, -1).astype(np.uint8))


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    stream = BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def jpeg(image: Image.Image, **options: Any) -> bytes:
    return encoded(image, "JPEG", **{"quality": 95, "subsampling": 0} | options)


def pixels(photo: Image.Image) -> NDArray[np.int64]:
    assert photo.mode == "RGB"
    return np.asarray(photo).astype(np.int64)


def assert_same(photo: Image.Image, expected: Image.Image, tolerance: int = 0) -> None:
    assert photo.size == expected.size
    assert np.abs(pixels(photo) - pixels(expected.convert("RGB"))).max() <= tolerance


def strip(*colours: Any, mode: str = "RGB") -> Image.Image:
    image = Image.new(mode, (len(colours), 1))
    for x, colour in enumerate(colours):
        image.putpixel((x, 0), colour)
    return image


def row(photo: Image.Image) -> list[tuple[int, ...]]:
    return [tuple(colour) for colour in pixels(photo)[0].tolist()]


def png(width: int, height: int, depth: int, colour_type: int, data: bytes) -> bytes:
    """Write a PNG by hand (RFC 2083), for what Pillow cannot write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def tiff(width: int, bits: int, photometric: int, data: bytes) -> bytes:
    """Write a grey TIFF of one row by hand (TIFF 6.0, section 4)."""
    tags = [
        (256, width), (257, 1), (258, bits), (259, 1), (262, photometric),
        (273, 8), (277, 1), (278, 1), (279, len(data)),
    ]  # fmt: skip
    padded = data + b"\0" * (len(data) % 2)
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(padded)) + padded + directory


def located(lat: float, lon: float, **tags: Any) -> bytes:
    """EXIF tags of a place, in degrees, minutes and seconds."""

    def parts(value: float) -> tuple[IFDRational, ...]:
        seconds = round(abs(value) * 3_600_000)
        degrees, rest = divmod(seconds, 3_600_000)
        return (IFDRational(degrees), IFDRational(rest // 60_000), IFDRational(rest % 60_000, 1000))

    exif = Image.Exif()
    place = {
        GPS.GPSLatitudeRef: "N" if lat >= 0 else "S",
        GPS.GPSLatitude: parts(lat),
        GPS.GPSLongitudeRef: "E" if lon >= 0 else "W",
        GPS.GPSLongitude: parts(lon),
    }
    exif[IFD.GPSInfo] = place | {GPS[name]: value for name, value in tags.items()}
    return exif.tobytes()
