"""What is known of each benchmark, from `icgeo/assets/benchmarks.toml`: to add one, add it there.

Conventions: paths are relative to the folder that a benchmark was unpacked to; columns are found by
name in any case, the first of several names that a file has.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Literal

from icgeo.data.manifest import LATITUDE_COLUMNS, LONGITUDE_COLUMNS


@dataclass(frozen=True)
class Columns:
    """Names of the columns that count, each with its alternatives."""

    id: tuple[str, ...] = ("id",)
    image: tuple[str, ...] = ("id",)
    suffix: str = ""
    """Of the photo's file, where the column leaves it out."""
    lat: tuple[str, ...] = LATITUDE_COLUMNS
    lon: tuple[str, ...] = LONGITUDE_COLUMNS
    labels: tuple[str, ...] = ("continent", "country", "region", "sub-region", "area", "city")
    """Taken where the file has them."""
    header: tuple[str, ...] | None = None
    """Names of all columns, of a table that does not name them."""


@dataclass(frozen=True)
class SplitFiles:
    """The files of one split of a benchmark as they lie on disk."""

    split: str
    tables: tuple[str, ...]
    """Files with one row a photo; the first that exists is read."""
    images: tuple[str, ...]
    """Folders that photos may lie in, or in a folder of these; those that exist are searched."""
    columns: Columns
    rows: int | None = None
    """How many its authors count."""
    format: Literal["csv", "coco"] = "csv"
    """Rows of text, or objects in the list `images` of a JSON file (as COCO)."""
    delimiter: str = ","
    lat_first: bool = False
    """Whether a table with the longitude first is one whose names are exchanged."""


@dataclass(frozen=True)
class Benchmark:
    """A published benchmark."""

    title: str
    licence: str
    source: str
    """Where to get it."""
    citation: str
    files: tuple[SplitFiles, ...]
    """The first split is the default; several entries of one split are alternatives."""
    notes: str = ""

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, the default first."""
        return tuple(dict.fromkeys(files.split for files in self.files))


def _read_catalogue() -> Mapping[str, Benchmark]:
    def frozen(table: Mapping[str, Any]) -> dict[str, Any]:
        return {k: tuple(value) if isinstance(value, list) else value for k, value in table.items()}

    text = (files("icgeo") / "assets" / "benchmarks.toml").read_text(encoding="utf-8")
    tables = tomllib.loads(text)
    columns = {name: Columns(**frozen(table)) for name, table in tables.pop("columns").items()}
    for table in tables.values():
        table["files"] = [
            SplitFiles(**frozen({**entry, "columns": columns[entry["columns"]]}))
            for entry in table["files"]
        ]
    return MappingProxyType({name: Benchmark(**frozen(table)) for name, table in tables.items()})


BENCHMARKS: Mapping[str, Benchmark] = _read_catalogue()
