"""Where a photo was taken, as cameras and programs write it: EXIF tags, XMP, files beside it.

None is what is missing, illegal, out of range, or exactly (0, 0), which receivers without a fix
write.
"""

import json
import logging
import math
import re
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import suppress
from html import unescape
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers.expat import ExpatError, ParserCreate

from PIL.ExifTags import GPS

TAKEOUT = ".supplemental-metadata"
TAKEOUT_LENGTH = 46
"""Characters that Google Takeout leaves of a name before `.json`."""
EDITED = (
    *("edited", "bearbeitet", "modifié", "ha editado", "editat", "modificato", "bewerkt"),
    *("edytowane", "編集済み", "effects"),
)
"""What Google Photos puts behind the names of edited photos."""

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

    So do the files that programs write beside photos. What the photo itself has counts, else
    IPTC's place where it was made; what ingredients and texts in it have does not.
    """
    for values in _xmp_properties(xmp):
        for name in ("exif:gps", "drone-dji:gps"):
            lat = _xmp_degrees(values, f"{name}latitude", letters="NS")
            lon = _xmp_degrees(values, f"{name}longitude", letters="EW")
            if place := _legal(lat, lon):
                return place
    return None


def is_panorama(xmp: str | bytes, width: int, height: int) -> bool | None:
    """Say whether a photo is an equirectangular panorama (Google's GPano), None of a part."""
    values = {name: value for level in _xmp_properties(xmp)[::-1] for name, value in level.items()}
    if values.get("gpano:projectiontype", "").lower() != "equirectangular":
        return False
    sizes = (
        (values.get(f"gpano:{kind}{side}pixels") for kind in ("fullpano", "croppedareaimage"))
        for side in ("width", "height")
    )
    is_cut = any(_number(full_size) > 1.02 * _number(crop_size) for full_size, crop_size in sizes)
    return None if is_cut or abs(width - 2 * height) > 0.04 * height else True


_NAMESPACES = {
    "http://ns.adobe.com/exif/1.0/": "exif",
    "http://www.dji.com/drone-dji/1.0/": "drone-dji",
    "http://ns.google.com/photos/1.0/panorama/": "gpano",
}
_OWN = ("xmpmeta", "xapmeta", "RDF", "Description", "LocationCreated", "Bag", "Seq", "li")
"""Elements that hold what is said of the photo itself; any root does."""


_NO_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufeff]")


def _xmp_properties(xmp: str | bytes) -> list[dict[str, str]]:
    """Read the properties of a photo, names in lower case, level by level of the elements.

    What breaks off is read as far as it goes, without characters that XML has not and with signs
    that it wants escaped; a prefix that is not declared is the usual one.
    """
    if isinstance(xmp, bytes):
        is_wide = xmp.startswith((b"\xff\xfe", b"\xfe\xff"))
        xmp = xmp.decode("utf-16" if is_wide else "utf-8", "replace")
    text = re.sub(r"&(?!#?\w+;)", "&amp;", _NO_XML.sub("", xmp[max(xmp.find("<"), 0) :]))
    builder, parser, all_elements = TreeBuilder(), ParserCreate("utf-8"), list[Element]()
    parser.StartElementHandler = lambda *tag: all_elements.append(builder.start(*tag))
    parser.EndElementHandler, parser.CharacterDataHandler = builder.end, builder.data
    with suppress(ExpatError):
        parser.Parse(text.strip().encode("utf-8", "replace"), True)
    prefixes = {
        name.removeprefix("xmlns:"): _NAMESPACES[uri]
        for element in all_elements
        for name, uri in element.items()
        if uri in _NAMESPACES
    }
    levels, elements = list[dict[str, str]](), all_elements[:1]
    while elements:
        levels.append({})
        children = [child for element in elements for child in element]
        attributes = (pair for element in elements for pair in element.items())
        for name, value in (*attributes, *((child.tag, child.text or "") for child in children)):
            prefix, _, local_name = name.rpartition(":")
            key = f"{prefixes.get(prefix, prefix)}:{local_name}".lower()
            levels[-1].setdefault(key.replace("longtitude", "longitude"), value.strip())  # DJI
        elements = [child for child in children if child.tag.rpartition(":")[2] in _OWN]
    return levels


def read_beside(photo: Path) -> Place:
    """Read the location in a file beside a photo: `.xmp`, or the JSON of Google Takeout.

    XMP counts first; of the JSON `geoData`, then `geoDataExif`. A broken file is told in the log.
    """
    xmp = (f"{stem}{suffix}" for stem in (photo.name, photo.stem) for suffix in (".xmp", ".XMP"))
    names = (*xmp, *takeout_names(photo.name))
    forms = (unicodedata.normalize(form, name) for form in ("NFC", "NFD") for name in names)
    for name in dict.fromkeys((*names, *forms)):
        path = photo.with_name(name)
        try:
            if not path.is_file():
                continue
            data = path.read_bytes()
            is_json = path.suffix == ".json"
            if is_json and not _is_titled(values := json.loads(data), photo.name, name):
                continue
            if place := _parse_takeout(values) if is_json else parse_xmp(data):
                return place
        except (OSError, ValueError, RecursionError) as error:
            logger.warning("ignored %s, which cannot be read: %s", path, error)
    return None


def takeout_names(name: str) -> Iterator[str]:
    """Name the files in which Google Takeout may tell of a photo, the likely ones first.

    `a.jpg.supplemental-metadata.json` is cut anywhere to keep names short, was `a.jpg.json` before,
    has the number of `a(1).jpg` before its ending, and is that of `a.jpg` for `a-edited.jpg`; it
    may be `a.json`, too.
    """
    original_name, number = _original(name)
    for base, end in ((name, ""), (original_name, number)):
        for length in range(len(TAKEOUT), -1, -1):
            yield f"{(base + TAKEOUT[:length])[:TAKEOUT_LENGTH]}{end}.json"
    yield f"{Path(name).stem}.json"


_EDITED = re.compile(rf"(.*?)(?:-(?:{'|'.join(EDITED)}))?(\(\d+\))?", re.DOTALL)


def _original(name: str) -> tuple[str, str]:
    """Return the name that a photo had before it was edited, without its number, and this."""
    stem, dot, suffix = unicodedata.normalize("NFC", name).rpartition(".")
    parts = _EDITED.fullmatch(stem)
    base, number = parts.groups("") if parts else (stem, "")
    return f"{base}{dot}{suffix}", number


def _parse_takeout(values: Mapping[str, object]) -> Place:
    for name in ("geoData", "geoDataExif"):
        if isinstance(place := values.get(name), dict):
            lat, lon = (_number(place.get(side)) for side in ("latitude", "longitude"))
            if location := _legal(lat, lon):
                return location
    return None


def _is_titled(values: object, photo: str, file_name: str) -> bool:
    """Say whether the title in JSON, the name before it was cut, may be that of a photo."""
    if not isinstance(values, dict):
        return False
    needs_title = file_name == f"{Path(photo).stem}.json" and "." in photo
    if (title := values.get("title")) is None:
        return not needs_title
    names = [Path(_original(name.casefold())[0]) for name in (unescape(str(title)).strip(), photo)]
    title_stem, photo_stem = (re.sub(r"\W", "_", name.stem) for name in names)
    if needs_title and names[0].suffix != names[1].suffix:
        return False
    return (
        title_stem.startswith(photo_stem)
        if len(photo) > TAKEOUT_LENGTH
        else title_stem == photo_stem
    )


def _legal(lat: float | None, lon: float | None, *, is_measured: bool = False) -> Place:
    """Return a location, or None for one that is missing, out of range, or nowhere."""
    if lat is None or lon is None or not (abs(lat) <= 90 and abs(lon) <= 180):  # NaN too
        return None
    if lat == lon == 0 and not is_measured:
        return None
    return lat, lon if lon < 180 else -180.0


def _xmp_degrees(values: Mapping[str, str], name: str, *, letters: str) -> float | None:
    """Return a coordinate of XMP in degrees: a number, or degrees and minutes with a letter.

    A letter beside it, in `name` with "ref", is of a number without its own.
    """
    if name not in values:
        return None
    text = values[name].upper()
    letter = text[-1:] if text[-1:] in tuple(letters) else ""
    parts = [_number(part) for part in text.removesuffix(letter).split(",")]
    letter = letter or values.get(f"{name}ref", "").upper()[:1]
    if not all(abs(part) <= 60 for part in parts[1:]):
        return None
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
