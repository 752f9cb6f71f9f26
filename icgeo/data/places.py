"""Where a photo was taken, as cameras and programs write it: EXIF tags, XMP, files beside it.

None is what is missing, illegal, out of range, or exactly (0, 0), which receivers without a fix
write.
"""

import json
import logging
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from PIL.ExifTags import GPS

TAKEOUT = ".supplemental-metadata"
TAKEOUT_LENGTH = 46
"""Characters that Google Takeout leaves of a name before `.json`."""

Place = tuple[float, float] | None
logger = logging.getLogger(__name__)


def parse_location(tags: Mapping[int, object]) -> Place:
    """Read (latitude, longitude) from the tags of an EXIF GPS directory (CIPA DC-008, 4.6.6).

    Coordinates are degrees, with or without minutes and seconds: rationals, pairs of numerator and
    denominator, integers or floats, with decimals in any. A reference is N, S, E or W, as text or
    bytes, in either case; a missing one means north or east, and is logged. A negative coordinate
    is south or west whatever its reference says. None is what is missing, illegal or out of range,
    and exactly (0, 0), unless the tag GPSStatus says "A" (measured). A void status ("V") beside
    other coordinates is the last known place, and counts.
    """
    lat = _signed(tags, GPS.GPSLatitude, GPS.GPSLatitudeRef, letters="NS")
    lon = _signed(tags, GPS.GPSLongitude, GPS.GPSLongitudeRef, letters="EW")
    return _legal(lat, lon, is_measured=_text(tags.get(GPS.GPSStatus)) == "A")


def parse_xmp(xmp: str | bytes) -> Place:
    """Read (latitude, longitude) from XMP: `exif:GPSLatitude` ("48,51.5N") or `drone-dji:` degrees.

    So do the files that programs write beside photos.
    """
    text = xmp.decode("utf-8", "replace") if isinstance(xmp, bytes) else xmp
    cells = {(side + ref).lower(): value for side, ref, value in _XMP.findall(text)}
    lat, lon = (
        _xmp_degrees(cells.get(side), cells.get(f"{side}ref", ""), letters)
        for side, letters in (("lat", "NS"), ("lon", "EW"))
    )
    return _legal(lat, lon)


_XMP = re.compile(
    r"""(?<!/)\b(?:exif|drone-dji):gps(lat|lon)\w*tude(ref)?(?:\s*=\s*["']|\s*>)"""
    r"""\s*([^\s"'<][^"'<]*)""",
    re.IGNORECASE,
)
_PANORAMA = re.compile(r"GPano:ProjectionType(?:\s*=\s*[\"']|>)\s*equirectangular", re.IGNORECASE)


def is_panorama(xmp: str | bytes) -> bool:
    """Say whether XMP calls a photo an equirectangular panorama (Google's GPano)."""
    text = xmp.decode("utf-8", "replace") if isinstance(xmp, bytes) else xmp
    return _PANORAMA.search(text) is not None


def read_beside(photo: Path) -> Place:
    """Read the location in a file beside a photo: `.xmp`, or the JSON of Google Takeout.

    XMP counts first; of the JSON `geoData`, then `geoDataExif`. A broken file is told in the log.
    """
    xmp = (f"{stem}{suffix}" for stem in (photo.name, photo.stem) for suffix in (".xmp", ".XMP"))
    for name in dict.fromkeys((*xmp, *takeout_names(photo.name))):
        path = photo.with_name(name)
        try:
            if not path.is_file():
                continue
            data = path.read_bytes()
            is_json = path.suffix == ".json"
            if place := _parse_takeout(data, photo.name) if is_json else parse_xmp(data):
                return place
        except (OSError, ValueError, RecursionError) as error:
            logger.warning("ignored %s, which cannot be read: %s", path, error)
    return None


def takeout_names(name: str) -> Iterator[str]:
    """Name the files in which Google Takeout may tell of a photo, the likely ones first.

    `a.jpg.supplemental-metadata.json` is cut anywhere to keep names short, was `a.jpg.json` before,
    has the number of `a(1).jpg` before its ending, and is that of `a.jpg` for `a-edited.jpg`.
    """
    stem, dot, suffix = name.rpartition(".")
    parts = re.fullmatch(r"(.*?)(?:-edited)?(\(\d+\))?", stem, re.DOTALL)
    original, number = parts.groups("") if parts else (stem, "")
    for whole, end in ((name, ""), (f"{original}{dot}{suffix}", number)):
        for length in range(len(TAKEOUT), -1, -1):
            yield f"{(whole + TAKEOUT[:length])[:TAKEOUT_LENGTH]}{end}.json"


def _parse_takeout(text: bytes, photo: str) -> Place:
    values = json.loads(text)
    if not isinstance(values, dict) or not _is_titled(values, photo):
        return None
    for name in ("geoData", "geoDataExif"):
        if isinstance(place := values.get(name), dict):
            lat, lon = (_number(place.get(side)) for side in ("latitude", "longitude"))
            if location := _legal(lat, lon):
                return location
    return None


def _is_titled(values: Mapping[str, object], photo: str) -> bool:
    """Say whether the title, the name before it was cut, may be that of a photo."""
    title = values.get("title")
    original = re.sub(r"(-edited)?(\(\d+\))?(\.\w*)?$", "", photo)
    title_plain, original = (re.sub(r"\W", "_", text) for text in (str(title), original))
    is_whole = len(photo) <= TAKEOUT_LENGTH or title is None
    return is_whole or title_plain.startswith(original)


def _legal(lat: float | None, lon: float | None, *, is_measured: bool = False) -> Place:
    """Return a location, or None for one that is missing, out of range, or nowhere."""
    if lat is None or lon is None or not (abs(lat) <= 90 and abs(lon) <= 180):  # NaN too
        return None
    if lat == lon == 0 and not is_measured:
        return None
    return lat, lon if lon < 180 else -180.0


def _xmp_degrees(text: str | None, reference: str, letters: str) -> float | None:
    """Return a coordinate of XMP in degrees: a number, or degrees and minutes with a letter.

    A letter beside it, `reference`, is of a number without its own.
    """
    if text is None:
        return None
    text = text.strip().upper()
    letter = text[-1:] if text[-1:] in tuple(letters) else ""
    parts = [_number(part) for part in text.removesuffix(letter).split(",")]
    letter = letter or reference.strip().upper()[:1]
    size = sum(abs(part) / 60**power for power, part in enumerate(parts))
    return -size if letter == letters[1] or text.startswith("-") else size


def _signed(tags: Mapping[int, object], tag: GPS, ref_tag: GPS, *, letters: str) -> float | None:
    """Return a coordinate in degrees; `letters` are its positive and its negative reference."""
    if tag not in tags:
        return None
    value, reference = tags[tag], _text(tags.get(ref_tag))[:1]
    parts = [_number(part) for part in (value if isinstance(value, tuple | list) else (value,))]
    is_legal = 1 <= len(parts) <= 3 and all(abs(part) <= 60 for part in parts[1:])  # NaN is not
    if not is_legal or not math.isfinite(parts[0]) or (reference and reference not in letters):
        return None
    if not reference:
        logger.warning("EXIF has %s without %s; took it as %s", tag.name, ref_tag.name, letters[0])
    size = sum(abs(part) / 60**power for power, part in enumerate(parts))
    return -size if reference == letters[1] or min(parts) < 0 else size


def _number(value: object) -> float:
    """Return a number, or the quotient of a pair; NaN for anything else."""
    try:
        if isinstance(value, tuple):
            numerator, denominator = value
            return float(numerator) / float(denominator)
        return math.nan if "_" in str(value) else float(value)  # type: ignore[arg-type]
    except (ArithmeticError, TypeError, ValueError):
        return math.nan


def _text(value: object) -> str:
    text = value.decode("latin-1") if isinstance(value, bytes) else str(value or "")
    return text.strip("\0 ").upper()
