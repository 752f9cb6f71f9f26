"""`icgeo.data.open`: a benchmark as an iterable of records, read as they are asked for."""

import logging
import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath

from icgeo.data.benchmarks.catalogue import BENCHMARKS, Benchmark, SplitFiles
from icgeo.data.benchmarks.sources import (
    BenchmarkError,
    RawRow,
    Rows,
    Skipped,
    coco_rows,
    hub_rows,
    shard_rows,
    table_rows,
)
from icgeo.data.manifest import ManifestError, to_location
from icgeo.data.photos import Photo

logger = logging.getLogger(__name__)

_NO_LABEL = ("", "nan", "none", "null")
"""Not NA, which is Namibia."""
_Find = Callable[[str], Path | None]
"""Finds a photo by its name."""


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
    """One split of a benchmark: iterate over it as often as needed, from the start each time.

    Memory does not grow with its size.
    """

    name: str
    about: Benchmark
    files: SplitFiles
    _rows: Callable[[], Rows]
    _names: Sequence[str]
    """Of the columns of id, image, latitude and longitude."""
    _folders: Sequence[str]
    """That photos may lie in."""
    skipped: Counter[str] = field(default_factory=Counter)
    """How many rows the last iteration skipped, by kind."""

    @property
    def split(self) -> str:
        """Name of the split."""
        return self.files.split

    def __iter__(self) -> Iterator[BenchmarkRecord]:
        """Return the good rows; the others are counted, and in the end summed up in the log.

        Raises:
            BenchmarkError: in the end, if there was no good row.
        """
        self.skipped.clear()
        count = 0
        for row in self.rows():
            if isinstance(row, Skipped):
                self.skipped[row.kind] += 1
                logger.debug("%s, %s: %s", self.name, row.place, row.reason)
            else:
                count += 1
                yield row
        if not count:
            raise BenchmarkError(
                f"expected photos of {self.name} ({self.split}) with places, skipped all rows: "
                f"{dict(self.skipped)}; get it from: {self.about.source}"
            )
        title, total = f"{self.name} ({self.split})", count + self.skipped.total()
        if self.skipped:
            logger.warning("%s: %d photos, skipped %s", title, count, dict(self.skipped))
        if (rows := self.files.rows) not in (None, total):
            logger.warning("%s: its authors count %d photos, here are %d rows", title, rows, total)

    def rows(self) -> Iterator[BenchmarkRecord | Skipped]:
        """Return every row, as a record or with the reason why it is skipped."""
        find = _finder(self._folders)
        with closing(_SeenStrings()) as seen:
            for row in self._rows():
                yield row if isinstance(row, Skipped) else self._record(row, seen, find)

    def _record(self, row: RawRow, seen: "_SeenStrings", find: _Find) -> BenchmarkRecord | Skipped:
        cells, columns, skipped = row.cells, self.files.columns, partial(Skipped, row.place)
        id_name, image_name, lat_name, lon_name = self._names
        if not {id_name, lat_name, lon_name} <= cells.keys():
            return skipped("bad row", f"expected {id_name}, {lat_name} and {lon_name}")
        if not (id := cells[id_name]):
            return skipped("no id", f"expected {id_name}, found an empty cell")
        try:
            lat, lon = to_location(cells[lat_name], cells[lon_name])
        except ManifestError as error:
            return skipped("bad location", str(error), id)
        if lat is None or lon is None:
            return skipped("no location", "expected latitude and longitude, found empty cells", id)
        image, name = row.image, cells.get(image_name, "")
        if image is None and name:
            image = find(name.removesuffix(columns.suffix) + columns.suffix)
        if image is None:
            return skipped("no image", f"expected the photo {name!r}, found none", id)
        # last, so that a good row is not lost to a bad one before it
        if not seen.add(id):
            return skipped("id again", f"expected a new {id_name}, got {id!r} again", id)
        labels = {name: cells.get(name, "") for name in columns.labels}
        labels = {name: text for name, text in labels.items() if text.lower() not in _NO_LABEL}
        return BenchmarkRecord(id, image, lat, lon, labels)


def open_benchmark(
    name: str,
    root: str | Path | None = None,
    *,
    split: str | None = None,
    images: str | Path | None = None,
    hub: str | None = None,
) -> OpenBenchmark:
    """Open a benchmark of `BENCHMARKS` as it lies on disk or on the hub, and check its columns.

    In a folder its table of rows is looked for, or else WebDataset shards (`*.tar` there or in a
    folder named after the split) whose JSON has the columns of the table.

    Args:
        name: of the benchmark.
        root: the folder that it was unpacked to.
        split: by default the first that the benchmark has.
        images: the folder of the photos, if it is not where it usually is.
        hub: id of a data set on the hub in place of `root`; its photos come as contents.

    Raises:
        BenchmarkError: an unknown name or split, or a file, folder or column is missing.
    """
    if (about := BENCHMARKS.get(name)) is None:
        raise BenchmarkError(f"expected a benchmark of {', '.join(BENCHMARKS)}, got {name!r}")
    split = split or about.splits[0]
    options = [files for files in about.files if files.split == split]
    if not options:
        raise BenchmarkError(f"expected a split of {name} of {about.splits}, got {split!r}")
    if (root is None) == (hub is None):
        raise BenchmarkError(f"expected a folder of {name} or the id of a data set on the hub")
    remedy = f"; get it from: {about.source}"
    files, folders = options[0], list[str]()
    rows: Callable[[], Rows]
    if hub is not None:
        rows, place = partial(hub_rows, hub, split), hub
    else:
        files, rows, path = _source(Path(str(root)), options, remedy)
        place = str(path)
        if path.suffix != ".tar":
            folders = _folders(Path(str(root)), files, images, remedy)
    first = next((row for row in rows() if isinstance(row, RawRow)), None)
    if first is None:
        raise BenchmarkError(f"expected rows of {about.title} in {place}, found none{remedy}")
    names = _find_names(files, first, place=place, remedy=remedy)
    return OpenBenchmark(name, about, files, rows, names, folders)


def _source(
    root: Path, options: Sequence[SplitFiles], remedy: str
) -> tuple[SplitFiles, Callable[[], Rows], Path]:
    """Find the table of a split, or else its shards."""
    if not root.is_dir():
        raise BenchmarkError(f"expected a folder {root}, found none{remedy}")
    tables = [(files, root / table) for files in options for table in files.tables]
    for files, path in tables:
        if path.is_file():
            header = files.columns.header
            table = partial(table_rows, path, delimiter=files.delimiter, header=header)
            return files, partial(coco_rows, path) if files.format == "coco" else table, path
    for folder in (root / options[0].split, root):
        if shards := sorted(folder.glob("*.tar")):
            return options[0], partial(shard_rows, shards), shards[0]
    names = " or ".join(str(path.relative_to(root)) for _, path in tables)
    raise BenchmarkError(
        f"expected {names} or shards *.tar in {root}, found {_listing(root)}{remedy}"
    )


def _find_names(files: SplitFiles, row: RawRow, *, place: str, remedy: str) -> Sequence[str]:
    """Choose the columns of id, image, latitude and longitude by one of the rows."""
    cells, columns = list(row.cells), files.columns

    def find(options: tuple[str, ...]) -> str:
        for option in options:
            if option.lower() in cells:
                return option.lower()
        raise BenchmarkError(
            f"expected a column {' or '.join(map(repr, options))} in {place}, found {cells}{remedy}"
        )

    image = find(columns.image) if row.image is None else ""
    id, lat, lon = map(find, (columns.id, columns.lat, columns.lon))
    if files.lat_first and cells.index(lon) < cells.index(lat):
        raise BenchmarkError(
            f"expected {lat!r} before {lon!r}, as in the version whose names are not exchanged, in "
            f"{place}, found {cells}{remedy}"
        )
    return id, image, lat, lon


def _folders(root: Path, files: SplitFiles, images: str | Path | None, remedy: str) -> list[str]:
    """Return the folders that photos may lie in, and the folders in these."""
    options = [Path(images)] if images else [root / name for name in files.images]
    folders = [folder for folder in options if folder.is_dir()]
    if not folders:
        raise BenchmarkError(
            f"expected photos in a folder {' or '.join(map(str, options))}, found {_listing(root)}"
            f"; unpack archives{remedy}"
        )
    inner = [entry.path for folder in folders for entry in os.scandir(folder) if entry.is_dir()]
    # names in a COCO list are paths already
    return [*map(str, folders), *([] if files.format == "coco" else sorted(inner))]


def _listing(folder: Path, most: int = 8) -> str:
    names = sorted(entry.name for entry in os.scandir(folder))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most]) or 'nothing'}{more} in {folder}"


def _finder(folders: Sequence[str]) -> _Find:
    """Make a search for a photo by its name, which begins where the last one was found."""
    order = list(folders)

    def find(name: str) -> Path | None:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\0" in name:
            return None
        for number, folder in enumerate(order):
            for option in dict.fromkeys((name, name.replace("/", "_"))):
                if os.path.isfile(file := f"{folder}/{option}"):  # noqa: PTH113
                    order.insert(0, order.pop(number))
                    return Path(file)
        return None

    return find


class _SeenStrings:
    """Strings seen before, in a temporary file: of millions a set would fill the memory."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("CREATE TABLE seen (id TEXT PRIMARY KEY) WITHOUT ROWID")
        self._database.execute("BEGIN")

    def add(self, text: str) -> bool:
        """Remember a string; return whether it is new."""
        insert = "INSERT OR IGNORE INTO seen VALUES (?)"
        return self._database.execute(insert, (text,)).rowcount == 1

    def close(self) -> None:
        """Remove the file."""
        self._database.close()
