"""Coordinates in the forms that cameras write, from the EXIF standard (CIPA DC-008)."""

import logging
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL.ExifTags import GPS
from PIL.TiffImagePlugin import IFDRational

from icgeo.data.places import parse_location

PARIS = (48 + 51 / 60 + 24 / 3600, 2 + 21 / 60 + 7 / 3600)


def gps(lat: object = 1.0, lon: object = 2.0, **tags: object) -> dict[int, object]:
    written = {"GPSLatitude": lat, "GPSLatitudeRef": "N", "GPSLongitude": lon} | {
        "GPSLongitudeRef": "E"
    }
    return {GPS[name]: value for name, value in (written | tags).items() if value is not None}


def rationals(*pairs: tuple[int, int]) -> tuple[IFDRational, ...]:
    return tuple(IFDRational(*pair) for pair in pairs)


@pytest.mark.parametrize(
    ("lat", "lon"),
    [
        (rationals((48, 1), (51, 1), (24, 1)), rationals((2, 1), (21, 1), (7, 1))),
        (rationals((48, 1), (5140, 100), (0, 1)), rationals((2, 1), (21 * 60 + 7, 60), (0, 1))),
        (rationals((48, 1), (5140, 100)), rationals((2, 1), (21 * 60 + 7, 60))),
        (rationals((175884, 3600)), rationals((8467, 3600))),
        (IFDRational(175884, 3600), IFDRational(8467, 3600)),
        (((48, 1), (51, 1), (24, 1)), ((2, 1), (21, 1), (7, 1))),
        ([48, 51, 24], [2, 21, 7]),
        ((48.0, 51.4), (2.0, 21 + 7 / 60)),
        (PARIS[0], PARIS[1]),
    ],
    ids=["dms", "decimal-minutes", "two", "one", "scalar", "pairs", "integers", "floats", "float"],
)
def test_legal_forms_mean_the_same_place(lat: object, lon: object):
    assert parse_location(gps(lat, lon)) == pytest.approx(PARIS, abs=1e-9)


@pytest.mark.parametrize(
    ("lat_ref", "lon_ref", "signs"),
    [
        ("N", "E", (1, 1)),
        ("S", "W", (-1, -1)),
        ("s", "w", (-1, -1)),
        (b"S\0", b"e\0", (-1, 1)),
        ("South", " West", (-1, -1)),
    ],
)
def test_references_give_the_sign(lat_ref: object, lon_ref: object, signs: tuple[int, int]):
    tags = gps(GPSLatitudeRef=lat_ref, GPSLongitudeRef=lon_ref)
    assert parse_location(tags) == (signs[0] * 1.0, signs[1] * 2.0)


@pytest.mark.parametrize("reference", ["N", "S", None])
def test_a_negative_coordinate_is_south_whatever_the_reference(reference: str | None):
    tags = gps(rationals((-33, 1), (30, 1)), GPSLatitudeRef=reference)
    assert parse_location(tags) == (-33.5, 2.0)


def test_a_missing_reference_is_positive_and_logged(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        assert parse_location(gps(GPSLatitudeRef=None, GPSLongitudeRef="")) == (1.0, 2.0)
    assert "GPSLatitude without GPSLatitudeRef; took it as N" in caplog.text
    assert "GPSLongitude without GPSLongitudeRef; took it as E" in caplog.text


@pytest.mark.parametrize(
    "tags",
    [
        {},
        gps(lat=None),
        gps(lon=None),
        gps(rationals((48, 0), (51, 1), (24, 1))),
        gps(rationals((48, 1), (51, 1), (0, 0))),
        gps(((48, 0), (51, 1), (24, 1))),
        gps(math.nan),
        gps(math.inf),
        gps(90.001),
        gps(lon=180.001),
        gps((48, 61, 0)),
        gps((48, 51, 61)),
        gps((48, 51, 24, 0)),
        gps(()),
        gps("north"),
        gps(b"\x30\x33\x18"),
        gps(((1, 2, 3), 4)),
        gps(GPSLatitudeRef="E"),
        gps(GPSLongitudeRef="?"),
        gps(0.0, 0.0),
        gps(0.0, 0.0, GPSStatus="V"),
    ],
)
def test_what_is_no_location_is_none(tags: dict[int, object]):
    assert parse_location(tags) is None


def test_null_island_counts_only_if_measured():
    assert parse_location(gps(0.0, 0.0, GPSStatus=b"A\0")) == (0.0, 0.0)
    assert parse_location(gps(0.0, 1.0, GPSStatus="V")) == (0.0, 1.0)


def test_bounds_are_inclusive_and_the_antimeridian_is_west():
    assert parse_location(gps(90.0, 180.0)) == (90.0, -180.0)
    assert parse_location(gps(90.0, 180.0, GPSLatitudeRef="S", GPSLongitudeRef="W")) == (-90, -180)


@given(
    st.dictionaries(
        st.sampled_from(list(GPS)[:12]),
        st.recursive(
            st.none() | st.integers() | st.floats() | st.text(max_size=3) | st.binary(max_size=3),
            lambda inner: st.lists(inner, max_size=4).map(tuple),
            max_leaves=6,
        ),
    )
)
def test_any_tags_give_a_valid_location_or_none(tags: dict[int, object]):
    location = parse_location(tags)
    assert location is None or (-90 <= location[0] <= 90 and -180 <= location[1] < 180)
