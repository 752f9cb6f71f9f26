"""Published benchmarks of geolocation, read as their authors lay them out.

To add one, add it to `icgeo/assets/benchmarks.toml`.
"""

import logging
import os
import sqlite3
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files as resources
from pathlib import Path
from typing import Literal

from icgeo.data import benchmark_rows
from icgeo.data.benchmark_rows import BenchmarkError, RawRow, Rows, Skipped
from icgeo.data.manifest import ManifestError, to_location
from icgeo.data.photos import Photo
from icgeo.data.table_files import LATITUDE_COLUMNS, LONGITUDE_COLUMNS

logger = logging.getLogger(__name__)

_NO_LABEL = ("", "nan", "none", "null")
"""Not NA, which is Namibia."""


@dataclass(frozen=True)
class SplitFiles:
    """The files and columns of one split, as the head of `icgeo/assets/benchmarks.toml` tells."""

    split: str
    tables: Sequence[str]
    images: Sequence[str]
    rows: int | None = None
    format: Literal["csv", "coco"] = "csv"
    delimiter: str = ","
    header: Sequence[str] | None = None
    id: Sequence[str] = ("id",)
    image: Sequence[str] = ("id",)
    suffix: str = ""
    lat: Sequence[str] = LATITUDE_COLUMNS
    lon: Sequence[str] = LONGITUDE_COLUMNS
    lat_first: bool = False
    labels: Sequence[str] = ("continent", "country", "region", "sub-region", "area", "city")


@dataclass(frozen=True)
class Benchmark:
    """A published benchmark; the first of its splits is the default."""

    title: str
    licence: str
    source: str
    """Where to get it."""
    citation: str
    files: Sequence[SplitFiles]
    notes: str = ""


def _read_catalogue() -> Mapping[str, Benchmark]:
    text = (resources("icgeo") / "assets" / "benchmarks.toml").read_text(encoding="utf-8")
    tables = tomllib.loads(text)
    columns = tables.pop("columns")
    for table in tables.values():
        table["files"] = [
            SplitFiles(**columns[entry.pop("columns")], **entry) for entry in table["files"]
        ]
    return {name: Benchmark(**table) for name, table in tables.items()}


BENCHMARKS: Mapping[str, Benchmark] = _read_catalogue()


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


@dataclass(frozen=True, eq=False)
class OpenBenchmark:
    """One split of a benchmark, of any size: iterate over it as often as needed."""

    name: str
    split: str
    about: Benchmark
    files: SplitFiles
    _rows: Callable[[], Rows]
    _names: Sequence[str]
    """Of the columns of id, image, latitude and longitude."""
    _folders: Sequence[str]
    """That photos may lie in."""
    skipped: Counter[str] = field(default_factory=Counter)
    """How many rows the last iteration skipped, by kind."""

    def __iter__(self) -> Iterator[BenchmarkRecord]:
        """Return the good rows; the others are counted, and in the end summed up in the log.

        Raises:
            BenchmarkError: in the end, if there was no good row.
        """
        self.skipped.clear()
        title, count = f"{self.name} ({self.split})", 0
        for row in self.rows():
            if isinstance(row, Skipped):
                self.skipped[row.kind] += 1
                logger.debug("%s, %s: %s", self.name, row.place, row.reason)
            else:
                count += 1
                yield row
        if not count:
            raise BenchmarkError(
                f"expected photos of {title} with places, skipped all rows: {dict(self.skipped)}; "
                f"get it from: {self.about.source}"
            )
        if self.skipped:
            logger.warning("%s: %d photos, skipped %s", title, count, dict(self.skipped))
        count += self.skipped.total()
        if (rows := self.files.rows) not in (None, count):
            logger.warning("%s: its authors count %d photos, here are %d rows", title, rows, count)

    def rows(self) -> Iterator[BenchmarkRecord | Skipped]:
        """Return every row, as a record or with the reason why it is skipped."""
        find = _finder(self._folders)
        # a temporary file: of millions of ids a set would fill the memory
        with closing(
            sqlite3.connect("", isolation_level=None, check_same_thread=False)
        ) as database:
            database.execute("PRAGMA journal_mode = OFF")
            database.execute("CREATE TABLE seen (id TEXT PRIMARY KEY) WITHOUT ROWID")
            database.execute("BEGIN")
            for row in self._rows():
                record = row if isinstance(row, Skipped) else self._record(row, find)
                if isinstance(record, BenchmarkRecord):
                    # last, so that a good row is not lost to a bad one before it
                    insert = database.execute("INSERT OR IGNORE INTO seen VALUES (?)", (record.id,))
                    if insert.rowcount == 0:
                        reason = f"expected a new {self._names[0]}, got {record.id!r} again"
                        record = Skipped(row.place, "id again", reason, record.id)
                yield record

    def _record(self, row: RawRow, find: Callable[[str], Path | None]) -> BenchmarkRecord | Skipped:
        cells, files, skip = row.cells, self.files, partial(Skipped, row.place)
        id_name, image_name, lat_name, lon_name = self._names
        if not {id_name, lat_name, lon_name} <= cells.keys():
            return skip("bad row", f"expected {id_name}, {lat_name} and {lon_name}")
        if not (id := cells[id_name]):
            return skip("no id", f"expected {id_name}, found an empty cell")
        try:
            location = to_location(cells[lat_name], cells[lon_name])
        except ManifestError as error:
            return skip("bad location", str(error), id)
        if location is None:
            return skip("no location", "expected latitude and longitude, found empty cells", id)
        image, name = row.image, cells.get(image_name, "")
        if image is None and name:
            image = find(name.removesuffix(files.suffix) + files.suffix)
        if image is None:
            return skip("no image", f"expected the photo {name!r}, found none", id)
        labels = {name: cells.get(name, "") for name in files.labels}
        labels = {name: text for name, text in labels.items() if text.lower() not in _NO_LABEL}
        return BenchmarkRecord(id, image, *location, labels)


def open_benchmark(
    name: str,
    root: str | Path | None = None,
    *,
    split: str | None = None,
    images: str | Path | None = None,
    hub: str | None = None,
) -> OpenBenchmark:
    """Open a benchmark of `BENCHMARKS` as it lies on disk or on the hub, and check its columns.

    In the folder `root` its table of rows is looked for, or else WebDataset shards (`*.tar` there
    or in a folder named after the split) whose JSON has the columns of the table. The photos may
    lie in another folder, `images`. `hub` is the id of a data set on the hub in place of `root`.
    The split is by default the first that the benchmark has.

    Raises:
        BenchmarkError: an unknown name or split, or a file, folder or column is missing.
    """
    if (about := BENCHMARKS.get(name)) is None:
        raise BenchmarkError(f"expected a benchmark of {', '.join(BENCHMARKS)}, got {name!r}")
    splits = tuple(dict.fromkeys(files.split for files in about.files))
    split = split or splits[0]
    if split not in splits:
        raise BenchmarkError(f"expected a split of {name} of {splits}, got {split!r}")
    options = [files for files in about.files if files.split == split]
    if (root is None) == (hub is None):
        raise BenchmarkError(f"expected a folder of {name} or the id of a data set on the hub")
    try:
        files, folders, place = options[0], list[str](), str(hub)
        rows: Callable[[], Rows] = partial(benchmark_rows.hub_rows, place, split)
        if root is not None:
            files, rows, path = _find_table(Path(root), options)
            place = str(path)
            if path.suffix != ".tar":
                folders = _photo_folders(Path(root), files, images)
        first_row = next((row for row in rows() if isinstance(row, RawRow)), None)
        if first_row is None:
            raise BenchmarkError(f"expected rows of {about.title} in {place}, found none")
        names = _find_names(files, first_row, place)
    except BenchmarkError as error:
        raise BenchmarkError(f"{error}; get it from: {about.source}") from error
    return OpenBenchmark(name, split, about, files, rows, names, folders)


def _find_table(
    root: Path, options: Sequence[SplitFiles]
) -> tuple[SplitFiles, Callable[[], Rows], Path]:
    """Find the table of a split, or else its shards."""
    if not root.is_dir():
        raise BenchmarkError(f"expected a folder {root}, found none")
    for files, table in ((one, table) for one in options for table in one.tables):
        if (path := root / table).is_file():
            lines = partial(benchmark_rows.table_rows, path, files.delimiter, files.header)
            coco = partial(benchmark_rows.coco_rows, path)
            return files, coco if files.format == "coco" else lines, path
    for folder in (root / options[0].split, root):
        if shards := sorted(folder.glob("*.tar")):
            return options[0], partial(benchmark_rows.shard_rows, shards), shards[0]
    names = " or ".join(table for files in options for table in files.tables)
    raise BenchmarkError(f"expected {names} or shards *.tar in {root}, found {_listing(root)}")


def _find_names(files: SplitFiles, row: RawRow, place: str) -> Sequence[str]:
    """Choose the columns of id, image, latitude and longitude by one of the rows."""
    cells = list(row.cells)

    def find(options: Sequence[str]) -> str:
        for option in map(str.lower, options):
            if option in cells:
                return option
        names = " or ".join(map(repr, options))
        raise BenchmarkError(f"expected a column {names} in {place}, found {cells}")

    image = find(files.image) if row.image is None else ""
    id, lat, lon = map(find, (files.id, files.lat, files.lon))
    if files.lat_first and cells.index(lon) < cells.index(lat):
        raise BenchmarkError(
            f"expected {lat!r} before {lon!r}, as in the version whose names are not exchanged, in "
            f"{place}, found {cells}"
        )
    return id, image, lat, lon


def _photo_folders(root: Path, files: SplitFiles, images: str | Path | None) -> list[str]:
    """Return the folders that photos may lie in, and the folders in these."""
    options = [Path(images)] if images else [root / name for name in files.images]
    folders = [folder for folder in options if folder.is_dir()]
    if not folders:
        raise BenchmarkError(
            f"expected photos in a folder {' or '.join(map(str, options))}, found {_listing(root)}"
            f"; unpack archives"
        )
    subfolders = [
        entry.path for folder in folders for entry in os.scandir(folder) if entry.is_dir()
    ]
    # names in a COCO list are paths already
    return [*map(str, folders), *([] if files.format == "coco" else sorted(subfolders))]


def _listing(folder: Path) -> str:
    names = sorted(entry.name for entry in os.scandir(folder))
    remainder = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"{', '.join(names[:8]) or 'nothing'}{remainder} in {folder}"


def _finder(folders: Sequence[str]) -> Callable[[str], Path | None]:
    """Make a search for a photo by its name, which begins where the last one was found."""
    order = list(folders)

    def find(name: str) -> Path | None:
        if name.startswith("/") or ".." in name.split("/") or "\0" in name:
            return None
        for number, folder in enumerate(order):
            for option in dict.fromkeys((name, name.replace("/", "_"))):
                if os.path.isfile(file := f"{folder}/{option}"):  # noqa: PTH113
                    order.insert(0, order.pop(number))
                    return Path(file)
        return None

    return find
