"""Rows of a benchmark as its files have them, made records or skipped with a reason.

Conventions: names of cells are in lower case, and cells are text, empty where a value is missing.
"""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from icgeo.config import UsageError
from icgeo.data.benchmarks.catalogue import Columns
from icgeo.data.manifest import ManifestError, to_location
from icgeo.data.photos import Photo

Kind = Literal[
    "broken file", "bad row", "no id", "id again", "no location", "bad location", "no image"
]
"""Why a row is skipped."""
_MISSING = frozenset(("", "nan", "none", "null"))


class BenchmarkError(UsageError):
    """A benchmark that cannot be opened; the message says what to get and where."""


@dataclass(frozen=True, eq=False)
class BenchmarkRecord:
    """A photo of a benchmark and where it was taken, in degrees."""

    id: str
    """Unique in its split."""
    image: Photo
    """Not read yet: a path, a place in a shard, or from the hub the contents of a file."""
    lat: float
    lon: float
    labels: Mapping[str, str] = field(default_factory=dict)
    """What the files say of the place, such as country, region and city; names in lower case."""


@dataclass(frozen=True)
class Skipped:
    """A row without a record, and why."""

    place: str
    """Where it stands in its file."""
    kind: Kind
    reason: str
    id: str | None = None


@dataclass(frozen=True, eq=False)
class RawRow:
    """A row as its file has it."""

    place: str
    cells: Mapping[str, str]
    image: Photo | None = None
    """If it comes with the row, and is not to be looked for."""


@dataclass(frozen=True)
class Names:
    """The columns that a file has, of those that count."""

    id: str
    image: str | None
    suffix: str
    lat: str
    lon: str
    labels: tuple[str, ...]


def find_names(columns: Columns, row: RawRow, *, place: str, remedy: str) -> Names:
    """Choose the columns of a file by one of its rows.

    `place` and `remedy` say in an error which file it is and where to get another.

    Raises:
        BenchmarkError: one is missing, or latitude and longitude are exchanged.
    """
    found = list(row.cells)

    def find(options: tuple[str, ...]) -> str:
        for option in options:
            if option.lower() in row.cells:
                return option.lower()
        raise BenchmarkError(
            f"expected a column {' or '.join(map(repr, options))} in {place}, found {found}{remedy}"
        )

    names = Names(
        id=find(columns.id),
        image=find(columns.image) if row.image is None else None,
        suffix=columns.suffix,
        lat=find(columns.lat),
        lon=find(columns.lon),
        labels=tuple(name for name in columns.labels if name in row.cells),
    )
    if columns.lat_first and found.index(names.lon) < found.index(names.lat):
        raise BenchmarkError(
            f"expected {names.lat!r} before {names.lon!r}, as in the version whose names are not "
            f"exchanged, in {place}, found {found}{remedy}"
        )
    return names


def skipped(row: RawRow, kind: Kind, reason: str, *, id: str | None = None) -> Skipped:
    """Say why there is no record of a row."""
    return Skipped(row.place, kind, reason, id)


def location(row: RawRow, names: Names) -> tuple[float, float] | Skipped:
    """Read the location of a row."""
    try:
        lat, lon = to_location(row.cells[names.lat], row.cells[names.lon])
    except ManifestError as error:
        return skipped(row, "bad location", str(error))
    if lat is None or lon is None:
        return skipped(row, "no location", "expected latitude and longitude, found empty cells")
    return lat, lon


def labels(row: RawRow, names: Names) -> dict[str, str]:
    """Give the labels that a row has."""
    cells = {name: row.cells[name] for name in names.labels}
    return {name: cell for name, cell in cells.items() if cell.lower() not in _MISSING}


class SeenStrings:
    """Strings seen before, in a temporary file: of millions a set would fill the memory."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("CREATE TABLE seen (id TEXT PRIMARY KEY) WITHOUT ROWID")
        self._database.execute("BEGIN")

    def add(self, text: str) -> bool:
        """Remember a string; whether it is new."""
        insert = "INSERT OR IGNORE INTO seen VALUES (?)"
        return self._database.execute(insert, (text,)).rowcount == 1

    def close(self) -> None:
        """Remove the file."""
        self._database.close()
