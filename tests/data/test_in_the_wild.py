"""Tests of places and photos as other programs write them."""

import io
import struct
import sys
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import icgeo
from icgeo.data.photos import PhotoError, read_location, read_photo
from icgeo.data.places import parse_xmp


def xmp(body):
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-'
        f'syntax-ns#"><rdf:Description rdf:about="" {body}</rdf:RDF></x:xmpmeta>'
    ).encode()


DJI = 'drone-dji:GpsLatitude="+44.5135000" drone-dji:GpsLongitude="-64.3007000"/>'
EXIF = 'exif:GPSLatitude="48,51.5N" exif:GPSLongitude="2,21.1167E"/>'


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (DJI, (44.5135, -64.3007)),
        (DJI.replace("GpsLongitude", "GpsLongtitude"), (44.5135, -64.3007)),  # as older drones say
        (EXIF, (48 + 51.5 / 60, 2 + 21.1167 / 60)),
        (EXIF.replace("N", "S").replace('E"', 'W"'), (-48 - 51.5 / 60, -2 - 21.1167 / 60)),
        (
            "><exif:GPSLatitude>10,30,36N</exif:GPSLatitude><exif:GPSLongitude>9,0,0W</exif:GPSLongitude>",
            (10.51, -9.0),
        ),
        ('exif:GPSLatitude="0" exif:GPSLongitude="0"/>', None),
        ('exif:GPSLatitude="91,0N" exif:GPSLongitude="2,0E"/>', None),
        ('exif:GPSLatitude="north" exif:GPSLongitude="2,0E"/>', None),
        ('exif:GPSLatitude="1,0N"/>', None),
    ],
)
def test_places_in_xmp_are_read(body, expected):
    found = parse_xmp(xmp(body))
    assert found == (expected and pytest.approx(expected))


def test_a_photo_with_xmp_alone_has_a_place():
    stream = io.BytesIO()
    Image.new("RGB", (16, 16)).save(stream, "JPEG", xmp=xmp(DJI))
    assert read_location(stream.getvalue()) == pytest.approx((44.5135, -64.3007))


def chunk(kind, data):
    checksum = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + checksum


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP"])
def test_text_that_is_too_large_costs_no_pixels(kind):
    """Pillow refuses a PNG with a chunk that unpacks to more than a megabyte."""
    pixels = np.random.default_rng(0).integers(256, size=(9, 7, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    data = stream.getvalue()
    large = chunk(kind, b"name\0\0" + zlib.compress(bytes(2_000_000)))
    photo = data[:33] + large + data[33:]  # behind the header
    with pytest.raises(ValueError, match="too large"):
        Image.open(io.BytesIO(photo)).load()
    assert np.array_equal(np.asarray(read_photo(photo)), pixels)


def test_heic_names_the_package_that_reads_it(monkeypatch):
    heic = b"\0\0\0\x18ftypheic" + bytes(64)
    with pytest.raises(PhotoError, match="pip install pillow-heif"):
        read_photo(heic)
    calls = []
    fake = SimpleNamespace(
        register_heif_opener=lambda: calls.append(1), __spec__=SimpleNamespace(name="pillow_heif")
    )
    monkeypatch.setitem(sys.modules, "pillow_heif", fake)
    with pytest.raises(PhotoError):
        read_photo(heic)
    assert calls == [1]


def test_photos_of_a_folder_without_a_place_are_left_out_aloud(tmp_path, caplog):
    Image.new("RGB", (16, 16)).save(tmp_path / "a.jpg", xmp=xmp(DJI))
    Image.new("RGB", (16, 16)).save(tmp_path / "b.jpg")
    (example,) = icgeo.Geolocator()._examples(tmp_path)
    assert example.lat == pytest.approx(44.5135)
    assert "left out 1 photos without a location" in caplog.text


def test_a_sky_map_in_another_frame_is_refused(tmp_path):
    from astropy.io import fits

    path = tmp_path / "map.fits"
    icgeo.Density.uniform(4).save(path)
    with fits.open(path, mode="update") as tables:
        tables[1].header["COORDSYS"] = "G"
    with pytest.raises(ValueError, match=r"expected COORDSYS C .* got 'G'"):
        icgeo.Density.load(path)
