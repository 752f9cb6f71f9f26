"""`icgeo.data.open`: a benchmark as an iterable of records, read as they are asked for."""

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath

from icgeo.data.benchmarks.catalogue import BENCHMARKS, Benchmark, Layout
from icgeo.data.benchmarks.records import (
    BenchmarkError,
    BenchmarkRecord,
    Names,
    RawRow,
    SeenStrings,
    Skipped,
    find_names,
    labels,
    location,
    skipped,
)
from icgeo.data.benchmarks.sources import Rows, coco_rows, hub_rows, shard_rows, table_rows

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class OpenBenchmark:
    """One split of a benchmark: iterate over it as often as needed, from the start each time.

    Memory does not grow with its size.
    """

    name: str
    about: Benchmark
    layout: Layout
    _rows: Callable[[], Rows]
    _names: Names
    _images: Sequence[str]
    skipped: Counter[str] = field(default_factory=Counter)
    """How many rows the last iteration skipped, by kind."""

    @property
    def split(self) -> str:
        """Name of the split."""
        return self.layout.split

    def __iter__(self) -> Iterator[BenchmarkRecord]:
        """Give the good rows; the others are counted, and in the end summed up in the log.

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
        self._report(count)

    def rows(self) -> Iterator[BenchmarkRecord | Skipped]:
        """Give every row, as a record or with the reason why it is skipped."""
        seen = SeenStrings()
        find = _finder(self._images)
        try:
            for row in self._rows():
                yield row if isinstance(row, Skipped) else self._record(row, seen, find)
        finally:
            seen.close()

    def _record(
        self, row: RawRow, seen: SeenStrings, find: Callable[[str], str | None]
    ) -> BenchmarkRecord | Skipped:
        names = self._names
        if any(name not in row.cells for name in (names.id, names.lat, names.lon)):
            return skipped(row, "bad row", f"expected {names.id}, {names.lat} and {names.lon}")
        if not (id := row.cells[names.id]):
            return skipped(row, "no id", f"expected {names.id}, found an empty cell")
        where = location(row, names)
        if isinstance(where, Skipped):
            return skipped(row, where.kind, where.reason, id=id)
        image = row.image
        if image is None:
            wanted = row.cells.get(names.image or "", "")
            found = find(wanted.removesuffix(names.suffix) + names.suffix) if wanted else None
            if found is None:
                return skipped(row, "no image", f"expected the photo {wanted!r}, found none", id=id)
            image = Path(found)
        # last, so that a good row is not lost to a bad one before it
        if not seen.add(id):
            return skipped(row, "id again", f"expected a new {names.id}, got {id!r} again", id=id)
        return BenchmarkRecord(id, image, *where, labels(row, names))

    def _report(self, count: int) -> None:
        if not count:
            raise BenchmarkError(
                f"expected photos of {self.name} ({self.split}) with places, skipped all rows: "
                f"{dict(self.skipped)}; get it from: {self.about.source}"
            )
        if self.skipped:
            logger.warning(
                "%s (%s): %d photos, skipped %s", self.name, self.split, count, dict(self.skipped)
            )
        total = count + self.skipped.total()
        if self.layout.rows not in (None, total):
            logger.warning(
                "%s (%s): its authors count %d photos, here are %d rows",
                self.name, self.split, self.layout.rows, total,
            )  # fmt: skip


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
    layouts = [layout for layout in about.layouts if layout.split == split]
    if not layouts:
        raise BenchmarkError(f"expected a split of {name} of {about.splits}, got {split!r}")
    if (root is None) == (hub is None):
        raise BenchmarkError(f"expected a folder of {name} or the id of a data set on the hub")
    remedy = f"; get it from: {about.source}"
    rows: Callable[[], Rows]
    if hub is not None:
        layout, rows, folders, place = layouts[0], partial(hub_rows, hub, split), [], hub
    else:
        layout, rows, path = _source(Path(str(root)), layouts, remedy)
        is_table = path.suffix != ".tar"
        folders = _folders(Path(str(root)), layout, images, remedy) if is_table else []
        place = str(path)
    first = next((row for row in rows() if isinstance(row, RawRow)), None)
    if first is None:
        raise BenchmarkError(f"expected rows of {about.title} in {place}, found none{remedy}")
    names = find_names(layout.columns, first, place=place, remedy=remedy)
    return OpenBenchmark(name, about, layout, rows, names, folders)


def _source(
    root: Path, layouts: Sequence[Layout], remedy: str
) -> tuple[Layout, Callable[[], Rows], Path]:
    """Find the table of a split, or else its shards."""
    if not root.is_dir():
        raise BenchmarkError(f"expected a folder {root}, found none{remedy}")
    for layout in layouts:
        for table in layout.tables:
            if (path := root / table).is_file():
                if layout.format == "coco":
                    return layout, partial(coco_rows, path), path
                read = partial(table_rows, path, delimiter=layout.delimiter, header=layout.header)
                return layout, read, path
    layout = layouts[0]
    for folder in (root / layout.split, root):
        if shards := sorted(folder.glob("*.tar")):
            return layout, partial(shard_rows, shards), shards[0]
    wanted = [table for layout in layouts for table in layout.tables]
    raise BenchmarkError(
        f"expected {' or '.join(wanted)} or shards *.tar in {root}, found {_listing(root)}{remedy}"
    )


def _folders(root: Path, layout: Layout, images: str | Path | None, remedy: str) -> list[str]:
    """Give the folders that photos may lie in, and the folders in these."""
    options = [Path(images)] if images else [root / name for name in layout.images]
    found = [folder for folder in options if folder.is_dir()]
    if not found:
        wanted = " or ".join(map(str, options))
        raise BenchmarkError(
            f"expected photos in a folder {wanted}, found {_listing(root)}; unpack archives{remedy}"
        )
    if layout.format == "coco":  # names are paths already
        return [str(folder) for folder in found]
    inner = [entry.path for folder in found for entry in os.scandir(folder) if entry.is_dir()]
    return [*map(str, found), *sorted(inner)]


def _listing(folder: Path, most: int = 8) -> str:
    names = sorted(entry.name for entry in os.scandir(folder))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most]) or 'nothing'}{more} in {folder}"


def _finder(folders: Sequence[str]) -> Callable[[str], str | None]:
    """Make a search for a photo by its name, which begins where the last one was found."""
    order = list(folders)

    def find(name: str) -> str | None:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\0" in name:
            return None
        options = [name] if "/" not in name else [name, name.replace("/", "_")]
        for number, folder in enumerate(order):
            for option in options:
                if os.path.isfile(found := f"{folder}/{option}"):  # noqa: PTH113
                    order.insert(0, order.pop(number))
                    return found
        return None

    return find
