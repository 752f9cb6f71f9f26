"""The location in a photo's EXIF tags, in every form that cameras write."""

import logging
import math
from collections.abc import Mapping

from PIL.ExifTags import GPS

logger = logging.getLogger(__name__)


def parse_location(tags: Mapping[int, object]) -> tuple[float, float] | None:
    """Read (latitude, longitude) from the tags of an EXIF GPS directory (CIPA DC-008, 4.6.6).

    - A coordinate is degrees; degrees and minutes; or degrees, minutes and seconds. Each is a
      rational, a pair (numerator, denominator), an integer or a float; any may have decimals.
    - A reference is N, S, E or W, as text or bytes, in either case. A missing one means north or
      east, and is logged. A negative coordinate is south or west whatever its reference says.
    - None, never an exception: a coordinate missing, not a number or out of range, a denominator
      of zero, minutes or seconds outside [0, 60], an unknown reference, and exactly (0, 0), which
      receivers without a fix write, unless the tag GPSStatus says "A" (measured). A void status
      ("V") beside other coordinates is the last known place, and counts.
    """
    lat = _signed(tags, GPS.GPSLatitude, GPS.GPSLatitudeRef, letters="NS")
    lon = _signed(tags, GPS.GPSLongitude, GPS.GPSLongitudeRef, letters="EW")
    if lat is None or lon is None or abs(lat) > 90 or abs(lon) > 180:
        return None
    if lat == lon == 0 and _text(tags.get(GPS.GPSStatus)) != "A":
        return None
    return lat, lon if lon < 180 else -180.0


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
        return float(value)  # type: ignore[arg-type]
    except (ArithmeticError, TypeError, ValueError):
        return math.nan


def _text(value: object) -> str:
    text = value.decode("latin-1") if isinstance(value, bytes) else str(value or "")
    return text.strip("\0 ").upper()
