"""Lists of photos with locations: CSV, Parquet, or a folder of photos with EXIF tags.

Conventions: locations are (latitude, longitude) in degrees, longitudes wrapped to [-180, 180);
paths are relative to the manifest's folder; rows are counted as a spreadsheet shows them, the
header being row 1.
"""

import csv
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from icgeo.config import UsageError
from icgeo.data.photos import read_location

IMAGE_COLUMNS = (
    "image", "image_path", "path", "filepath", "file", "filename", "file_name", "photo", "name",
    "img_id", "id",
)  # fmt: skip
ID_COLUMNS = ("id", "img_id")
LATITUDE_COLUMNS = ("latitude", "lat")
LONGITUDE_COLUMNS = ("longitude", "lon", "lng", "long")
"""Names of columns, in any case; the first of them that a manifest has is taken."""

PHOTO_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".tif", ".tiff", ".gif", ".bmp",
    ".ppm", ".jp2", ".avif", ".heic", ".heif",
)  # fmt: skip
MAX_REPORTED = 5
_MISSING = ("", "nan", "na", "n/a", "null", "none")

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


_Rows = Iterator[tuple[str, Callable[[], Record]]]
"""Where a row stands, and the call that makes it a record or raises ValueError."""


def read_manifest(
    path: str | Path,
    *,
    allow_outside: bool = False,
    require_location: bool = False,
    errors: Literal["raise", "skip"] = "raise",
) -> list[Record]:
    """Read photos and their locations from a CSV or Parquet file, or from a folder of photos.

    A CSV file is UTF-8, delimited by commas, semicolons or tabs; decimal commas are understood.
    Columns go by name (`IMAGE_COLUMNS` and the others). The id is the id column's, or else the
    image as written; the same id twice is an error. A row without a location leaves both cells
    empty; one alone is an error. Whether the photos exist is left to `read_photo`.

    A folder is searched with its subfolders, in sorted order, without hidden files; locations come
    from the EXIF tags and ids are the relative paths.

    Args:
        path: a CSV or Parquet file or a folder.
        allow_outside: accept photos that lie outside the manifest's folder, by an absolute path,
            by ".." or by a symbolic link.
        require_location: refuse photos without a location.
        errors: raise one error for all bad rows, or skip each with a warning in the log.

    Raises:
        ManifestError: missing or unreadable file, no image column, bad rows, or no rows at all.
    """
    source = Path(path)
    if not source.exists():
        raise ManifestError(f"{source}: expected a manifest, found no such file; check the path")
    folder = source if source.is_dir() else source.parent
    inside = partial(_inside, folder=folder, root=None if allow_outside else folder.resolve())
    try:
        rows = (_photo_rows if source.is_dir() else _table_rows)(source, inside)
        records, problems = _collect(rows, require_location)
    except (OSError, ValueError) as error:
        raise ManifestError(f"{source}: {error}") from error
    if errors == "skip":
        for problem in problems:
            logger.warning("%s, %s; skipped it", source, problem)
    elif problems:
        lines = [f"{source}, {problem}" for problem in problems[:MAX_REPORTED]]
        if (more := len(problems) - MAX_REPORTED) > 0:
            lines.append(f"and {more} more; errors='skip' leaves them all out")
        raise ManifestError("\n".join(lines))
    if not records:
        raise ManifestError(f"{source}: expected photos, found none; add a row for each photo")
    return records


def _collect(rows: _Rows, require_location: bool) -> tuple[list[Record], list[str]]:
    """Return the records, and what is wrong with the other rows."""
    records: list[Record] = []
    problems: list[str] = []
    places: dict[str, str] = {}
    for place, to_record in rows:
        try:
            record = to_record()
            if require_location and record.lat is None:
                raise ManifestError("expected a location, found none; give latitude and longitude")
            if (first := places.setdefault(record.id, place)) != place:
                raise ManifestError(
                    f"expected a new id, got {record.id!r} of {first} again; remove the row, or "
                    "tell them apart in a column 'id'"
                )
            records.append(record)
        except ValueError as error:
            problems.append(f"{place}: {error}")
    return records, problems


def _inside(text: str, *, folder: Path, root: Path | None) -> Path:
    """Return the path of a photo, which has to lie below `root` if there is one."""
    path = folder / text
    try:
        is_inside = root is None or path.resolve().is_relative_to(root)
    except (OSError, RuntimeError, ValueError) as error:  # loops of links, null bytes
        raise ManifestError(f"expected the path of a photo, got {text!r}: {error}") from error
    if not is_inside:
        raise ManifestError(
            f"expected a photo in the manifest's folder, got {text!r}, which leaves it; move it "
            "there, or allow it (allow_outside) if you trust the manifest"
        )
    return path


def photos_in(folder: str | Path) -> Iterator[Path]:
    """List the photos of a folder and its folders, in order, but for hidden ones."""
    for path in sorted(Path(folder).rglob("*")):
        is_hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in PHOTO_SUFFIXES and not is_hidden and not path.is_dir():
            yield path


def _photo_rows(folder: Path, inside: Callable[[str], Path]) -> _Rows:
    def to_record(name: str) -> Record:
        path = inside(name)
        return Record(name, path, *(read_location(path) or (None, None)))

    for path in photos_in(folder):
        name = path.relative_to(folder).as_posix()
        yield name, partial(to_record, name)


def _table_rows(source: Path, inside: Callable[[str], Path]) -> _Rows:
    with source.open("rb") as stream:
        is_parquet = stream.read(4) == b"PAR1"
    table = (_parquet_cells if is_parquet else _csv_cells)(source)
    header = next(table, [])
    columns = _find_columns(header)

    def to_record(cells: list[str]) -> Record:
        if any(cells[len(header) :]):
            raise ManifestError(
                f"expected {len(header)} cells as in the header, got {len(cells)}; quote cells "
                "with a comma, or delimit by semicolons"
            )
        padded = cells + [""] * len(header)
        id, image, lat, lon = ("" if i is None else padded[i] for i in columns)
        if not image:
            raise ManifestError("expected the path of a photo, got an empty cell; fill it")
        return Record(id or image, inside(image), *to_location(lat, lon))

    for number, cells in enumerate(table, start=2):
        if any(cells):
            yield f"row {number}", partial(to_record, cells)


def _csv_cells(source: Path) -> Iterator[list[str]]:
    """Read the header and the rows; the delimiter is the most frequent one in the header."""
    try:
        with source.open(encoding="utf-8-sig", newline="") as stream:
            header = stream.readline()
            stream.seek(0)
            reader = csv.reader(stream, delimiter=max(",;\t", key=header.count), strict=True)
            for cells in reader:
                yield [cell.strip() for cell in cells]
    except UnicodeDecodeError as error:
        raise ManifestError(f"expected text in UTF-8, got {error}; save as CSV UTF-8") from error
    except csv.Error as error:
        raise ManifestError(f"expected CSV, got in line {reader.line_num}: {error}") from error


def _parquet_cells(source: Path) -> Iterator[list[str]]:
    """Read the header and the rows, of columns that do not count as if they were empty."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    known = {*IMAGE_COLUMNS, *ID_COLUMNS, *LATITUDE_COLUMNS, *LONGITUDE_COLUMNS}
    try:
        with ParquetFile(source) as file:
            names = file.schema_arrow.names
            yield names
            table = file.read(columns=[name for name in names if _normal(name) in known])
        texts = {
            name: table[name].cast(pyarrow.string()).to_pylist() for name in table.schema.names
        }
    except pyarrow.ArrowException as error:
        raise ManifestError(f"expected Parquet with text and numbers, got {error}") from error
    empty = [""] * len(table)
    for cells in zip(*(texts.get(name, empty) for name in names), strict=True):
        yield [(cell or "").strip() for cell in cells]


def _normal(name: str) -> str:
    return name.strip().lower()


def _find_columns(names: list[str]) -> list[int | None]:
    """Find the numbers of the columns of id, image, latitude and longitude."""
    known = [_normal(name) for name in names]

    def find(options: tuple[str, ...]) -> int | None:
        name = next((option for option in options if option in known), None)
        if name is not None and known.count(name) > 1:
            raise ManifestError(f"expected one column {name!r}, got two; rename one")
        return None if name is None else known.index(name)

    image, lat, lon = find(IMAGE_COLUMNS), find(LATITUDE_COLUMNS), find(LONGITUDE_COLUMNS)
    if image is None:
        raise ManifestError(
            f"expected a header with a column of {IMAGE_COLUMNS}, got {names}; name the columns"
        )
    if (lat is None) != (lon is None):
        raise ManifestError(
            f"expected columns of {LATITUDE_COLUMNS} and of {LONGITUDE_COLUMNS}, or neither, "
            f"got {names}"
        )
    return [find(ID_COLUMNS), image, lat, lon]


def to_location(lat_text: str, lon_text: str) -> tuple[float, float] | tuple[None, None]:
    """Read a location from two cells, (None, None) of two empty ones.

    Raises:
        ManifestError: one alone, not a number, or outside the globe.
    """
    is_missing = [text.lower() in _MISSING for text in (lat_text, lon_text)]
    if all(is_missing):
        return None, None
    if any(is_missing):
        raise ManifestError(
            f"expected latitude and longitude, got only one: {lat_text!r}, {lon_text!r}; "
            "give both or neither"
        )
    lat, lon = _degrees(lat_text), _degrees(lon_text)
    if abs(lat) > 90:
        remedy = "are the columns swapped?" if abs(lon) <= 90 else "give it in degrees"
        raise ManifestError(f"expected latitude in [-90, 90] degrees, got {lat_text}; {remedy}")
    if abs(lon) > 360:
        raise ManifestError(
            f"expected longitude in [-180, 180] degrees, got {lon_text}; give it in degrees"
        )
    return lat, lon if -180 <= lon < 180 else (lon + 180) % 360 - 180


def _degrees(text: str) -> float:
    """Parse a number; coordinates have no thousands, so that a comma is a decimal one."""
    try:
        value = float(text.replace(",", ".") if "." not in text else text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ManifestError(f"expected decimal degrees such as -33.86, got {text!r}; convert it")
    return value
