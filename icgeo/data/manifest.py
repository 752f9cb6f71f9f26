"""Lists of photos with locations: a table, or a folder of photos with EXIF tags.

Longitudes are wrapped to [-180, 180) degrees; paths are relative to the manifest's folder; rows are
counted as a spreadsheet shows them, the header being row 1.
"""

import logging
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

from icgeo.config import UsageError
from icgeo.data.photos import RAW_SUFFIXES, read_location, why_missing
from icgeo.data.places import Place
from icgeo.data.table_files import (
    ID_COLUMNS,
    IMAGE_COLUMNS,
    LATITUDE_COLUMNS,
    LONGEST_QUOTE,
    LONGITUDE_COLUMNS,
    place_columns,
    plain,
    quoted,
    read_rows,
)

PHOTO_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".tif", ".tiff", ".gif", ".bmp"),
    *(".ppm", ".jp2", ".avif", ".heic", ".heif"),
)
MAX_REPORTED = 5
_MISSING = ("", "nan", "na", "n/a", "null", "none", "<na>", "-", "\\n")

logger = logging.getLogger(__name__)


class ManifestError(UsageError):
    """A manifest that cannot be used; the message names file, row, value and remedy."""


@dataclass(frozen=True)
class Record:
    """A photo and where it was taken, as far as that is known."""

    id: str
    """Unique in its manifest."""
    path: Path
    lat: float | None = None
    lon: float | None = None

    @property
    def lat_lon(self) -> tuple[float, float] | None:
        """Its location, if that is known."""
        return None if self.lat is None or self.lon is None else (self.lat, self.lon)


def read_manifest(
    path: str | Path,
    *,
    allow_outside: bool = False,
    require_location: bool = False,
    errors: Literal["raise", "skip"] = "raise",
) -> list[Record]:
    """Read photos and their locations from a table, or from a folder of photos.

    A table is CSV in UTF-8 (commas, semicolons or tabs; decimal commas are understood), Parquet,
    JSON, JSON lines, or of places: GeoJSON, KML, waypoints of GPX. Columns go by name, as
    `icgeo.data.table_files` has them. The id is the id column's, or else the
    image as written; an id alone finds its photo without an ending. A row without a location
    leaves both cells empty, or says exactly 0, 0, as receivers without a fix do; the log counts
    these. Whether the photos exist is left to `read_photo`. In a folder all photos below it count
    but for hidden ones and those of `@eaDir`, in order; locations come from the tags and ids are
    the relative paths.

    Args:
        path: a table or a folder.
        allow_outside: accept photos outside the manifest's folder, by whatever path or link.
        require_location: leave out photos without a location, which are counted in the log.
        errors: raise one error for all bad rows, or skip each with a warning in the log.

    Raises:
        ManifestError: missing or unreadable file, no image column, bad rows, or no rows at all.
    """
    source = Path(path)
    if not os.path.exists(source):  # noqa: PTH110  # of a name that is too long it says no
        raise ManifestError(
            f"{source}: expected a manifest, found no such file; {why_missing(source)}"
        )
    try:
        records, problems = _collect(source, allow_outside, require_location)
    except (OSError, ValueError) as error:
        raise ManifestError(f"{source}: {error}") from error
    lines = [f"{source}, {problem}" for problem in problems[:MAX_REPORTED]]
    if len(problems) > MAX_REPORTED:
        lines.append(f"{source}: {len(problems)} rows or photos in all, the others likewise")
    if lines and errors == "raise":
        raise ManifestError("\n".join(lines))
    for line in lines:
        logger.warning("%s; skipped", line)
    records = _placed(records, source, require_location)
    if not records:
        kind = "photos with locations" if require_location else "photos"
        remedy = "put some there" if source.is_dir() else "add a row for each photo"
        raise ManifestError(f"{source}: expected {kind}, found none; {remedy}")
    return records


def _placed(records: list[Record], source: Path, require_location: bool) -> list[Record]:
    """Take 0, 0 in a table for no location, and leave out those without, as the log counts."""
    zero_count = sum(one.lat_lon == (0, 0) for one in records)
    if zero_count and not source.is_dir():
        logger.warning("%s: took %d rows at 0, 0 as without a location", source, zero_count)
        records = [Record(x.id, x.path) if x.lat_lon == (0, 0) else x for x in records]
    kept_records = [one for one in records if one.lat_lon or not require_location]
    if missing_count := len(records) - len(kept_records):
        logger.warning("%s: left out %d photos without a location", source, missing_count)
    return kept_records


def _collect(
    source: Path, allow_outside: bool, require_location: bool
) -> tuple[list[Record], list[str]]:
    """Return the records, and what is wrong with the other rows."""
    is_folder = source.is_dir()
    folder = source if is_folder else source.parent
    root = None if allow_outside else folder.resolve()
    photos = ([path.relative_to(source).as_posix()] for path in photos_in(source))
    rows = chain([["image"]], photos) if is_folder else read_rows(source)
    header = next(rows, [])
    columns = _find_columns(header, source, needs_places=require_location and not is_folder)
    records: list[Record] = []
    problems: list[str] = []
    places: dict[str, str] = {}
    for number, cells in enumerate(rows, start=2):
        if not any(cells):
            continue
        place = cells[0] if is_folder else f"row {number}"
        try:
            if any(cells[len(header) :]):
                raise ManifestError(
                    f"expected {len(header)} cells as in the header, got {len(cells)}; quote cells "
                    "with a comma, or delimit by semicolons"
                )
            padded_cells = cells + [""] * len(header)
            id, image, lat, lon, *references = (
                "" if i is None else padded_cells[i] for i in columns
            )
            photo = _photo_path(image, folder, root)
            location = read_location(photo) if is_folder else to_location(lat, lon, references)
            if (first_place := places.setdefault(id or image, place)) != place:
                raise ManifestError(
                    f"expected a new id, got {id or image!r} of {first_place} again; remove the "
                    "row, or tell them apart in a column 'id'"
                )
            records.append(Record(id or image, photo, *(location or (None, None))))
        except ValueError as error:
            problems.append(f"{place}: {error}"[: 3 * LONGEST_QUOTE])
    return records, problems


def _photo_path(text: str, folder: Path, root: Path | None) -> Path:
    """Return the path of a photo, which has to lie below `root` if there is one."""
    if not text:
        raise ManifestError("expected the path of a photo, got an empty cell; fill it")
    if text.startswith(("{'", '{"')):
        raise ManifestError(f"expected the path of a photo, got an object: {quoted(text)}")
    path = folder / text
    try:
        if not path.suffix and not path.exists():  # an id, as in OSV-5M
            endings = (path.with_suffix(suffix) for suffix in PHOTO_SUFFIXES)
            path = next((one for one in endings if one.is_file()), path)
        is_inside = root is None or path.resolve().is_relative_to(root)
    except (OSError, RuntimeError, ValueError) as error:  # loops of links, null bytes, long names
        reason = error.strerror if isinstance(error, OSError) else error
        raise ManifestError(
            f"expected the path of a photo, got {quoted(text)}: {reason}"
        ) from error
    if not is_inside:
        raise ManifestError(
            f"expected a photo in the manifest's folder, got {text!r}, which leaves it; move it "
            "there, or allow it (allow_outside) if you trust the manifest"
        )
    return path


def photos_in(folder: str | Path) -> Iterator[Path]:
    """List the photos of a folder and its folders, in order, but for hidden ones.

    Those that are RAW files of a camera are counted in the log.
    """
    raw_count = 0
    for path in sorted(Path(folder).rglob("*")):
        parts = path.relative_to(folder).parts
        is_hidden = any(part.startswith(".") or part == "@eaDir" for part in parts)
        if is_hidden or path.is_dir():
            continue
        raw_count += path.suffix.lower() in RAW_SUFFIXES
        if path.suffix.lower() in PHOTO_SUFFIXES:
            yield path
    if raw_count:
        logger.warning("%s: left out %d RAW files of cameras; save them as JPEG", folder, raw_count)


def _find_columns(names: list[str], source: Path, *, needs_places: bool) -> list[int | None]:
    """Find the numbers of the columns of id, image, latitude, longitude, and their references.

    Where a table without places has other columns, they are told in the log.
    """
    plain_names = [plain(name) for name in names]

    def find(options: Sequence[str | None]) -> int | None:
        name = next((option for option in options if option in plain_names), None)
        if name is not None and plain_names.count(name) > 1:
            raise ManifestError(f"expected one column {name!r}, got two; rename one")
        return None if name is None else plain_names.index(name)

    image = find(IMAGE_COLUMNS)
    lat, lon, *letters = (find([name]) for name in place_columns(plain_names))
    if image is None:
        raise ManifestError(
            f"expected a header with a column of {IMAGE_COLUMNS[:5]} or others, got "
            f"{quoted(names)}; name the columns"
        )
    if lat is None or lon is None:
        latitudes, longitudes = LATITUDE_COLUMNS[:3], LONGITUDE_COLUMNS[:3]
        columns = f"{latitudes} and of {longitudes}" + (", or neither" if lat != lon else "")
        problem = f"expected columns of {columns}, got {quoted(names)}"
        if needs_places or lat != lon:
            raise ManifestError(f"{problem}; name the columns")
        if not {*plain_names} <= {*IMAGE_COLUMNS, *ID_COLUMNS}:
            logger.warning("%s: %s; took all rows as without a location", source, problem)
    return [find(ID_COLUMNS), image, lat, lon, *letters]


def to_location(lat_text: str, lon_text: str, references: Sequence[str] = ("", "")) -> Place:
    """Read a location from two cells, None of two empty ones, or raise a ManifestError.

    References, such as S and W, are of numbers without sign and letter.
    """
    is_missing = [text.lower() in _MISSING for text in (lat_text, lon_text)]
    if all(is_missing):
        return None
    if any(is_missing):
        raise ManifestError(
            f"expected latitude and longitude, got only one: {lat_text!r}, {lon_text!r}; "
            "give both or neither"
        )
    lat = _degrees(lat_text, references[0], letters="NS")
    lon = _degrees(lon_text, references[1], letters="EW")
    if abs(lat) > 90:
        remedy = "are the columns swapped?" if abs(lon) <= 90 else "give it in degrees"
        raise ManifestError(f"expected latitude in [-90, 90] degrees, got {lat_text}; {remedy}")
    if abs(lon) > 360:
        raise ManifestError(
            f"expected longitude in [-180, 180] degrees, got {lon_text}; give it in degrees"
        )
    return lat, lon if -180 <= lon < 180 else (lon + 180) % 360 - 180


_EXIFTOOL = re.compile(r"""([\d.]+) deg ([\d.]+)' ([\d.]+)" ?([NSEW])?""")


def _degrees(text: str, reference: str, *, letters: str) -> float:
    """Parse a number, or what exiftool writes without -n; a comma is a decimal one.

    `letters` are the positive and the negative one of the axis.
    """
    is_letter = reference[:1].isalpha() and reference.lower() not in _MISSING
    letter = reference[:1].upper() if is_letter else ""
    parts = _EXIFTOOL.fullmatch(text)
    try:
        if parts:
            degrees, minutes, seconds = map(float, parts.groups()[:3])
            value = degrees + minutes / 60 + seconds / 3600
            letter, is_legal = parts[4] or letter, max(minutes, seconds) < 60
        else:
            text_of_number = text if "." in text else text.replace(",", ".")
            value, is_legal = float(text_of_number), "_" not in text
    except ValueError:
        value, is_legal = math.nan, False
    if not is_legal or not math.isfinite(value):
        raise ManifestError(
            f"expected decimal degrees such as -33.86, got {quoted(text)}; convert it"
        )
    if letter and letter not in letters:
        raise ManifestError(
            f"expected {' or '.join(letters)} of {quoted(text)}, got {letter!r}; are the columns "
            "swapped?"
        )
    return -value if letter == letters[1] and value > 0 else value
