"""Rows from files of any size, one at a time: tables, COCO lists, shards, data sets of the hub.

What cannot be read is a `Skipped` row and reading goes on, as far as it can. Names of cells are in
lower case, and cells are text, empty where a value is missing.
"""

import csv
import json
import posixpath
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

from icgeo.config import UsageError, require
from icgeo.data.manifest import PHOTO_SUFFIXES
from icgeo.data.photos import Photo, StoredPhoto

MAX_ROW = 1 << 20
"""Most characters of a row, so that a file without line ends does not fill the memory."""
IMAGE_KEYS = ("image", *(suffix[1:] for suffix in PHOTO_SUFFIXES))
_IMAGES = re.compile(r'"images"\s*:\s*\[')


class BenchmarkError(UsageError):
    """A benchmark that cannot be opened; the message says what to get and where."""


@dataclass(frozen=True)
class Skipped:
    """A row without a record, and why."""

    place: str
    """Where it stands in its file."""
    kind: Literal[
        "broken file", "bad row", "no id", "id again", "no location", "bad location", "no image"
    ]
    reason: str
    id: str | None = None


@dataclass(frozen=True, eq=False)
class RawRow:
    """A row as its file has it."""

    place: str
    cells: Mapping[str, str]
    image: Photo | None = None
    """If it comes with the row, and is not to be looked for."""


Rows = Iterator[RawRow | Skipped]


def table_rows(path: Path, delimiter: str, header: Sequence[str] | None) -> Rows:
    """Read a table of text whose rows are lines, with the names of its columns if it has none."""
    # names of towns are in any encoding, and never count for finding a photo
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        lines = iter(partial(stream.readline, MAX_ROW), "")
        names = [name.lower() for name in header or _cells(next(lines, ""), delimiter)]
        for number, line in enumerate(lines, start=1 if header else 2):
            if not line.strip():
                continue
            place = f"row {number}"
            try:
                cells = _cells(line, delimiter)
                yield RawRow(place, dict(zip(names, cells, strict=True)))
            except (csv.Error, ValueError) as error:
                reason = f"expected {len(names)} cells, got {line[:40]!r}: {error}"
                yield Skipped(place, "bad row", reason)


def _cells(line: str, delimiter: str) -> list[str]:
    """Split one line: a quote that is never closed does not swallow the rows below it."""
    line = line.rstrip("\r\n")
    if delimiter == "\t":  # tables of YFCC100M have bare quotes
        cells = line.split(delimiter)
    else:
        (cells,) = csv.reader([line], delimiter=delimiter, strict=True)
    return [cell.strip() for cell in cells]


def coco_rows(path: Path) -> Rows:
    """Read the objects in the list `images` of a JSON file.

    Not with ijson: such files write NaN for a missing place, which it refuses.
    """
    decoder, text, number = json.JSONDecoder(), "", 0
    with path.open(encoding="utf-8", errors="replace") as stream:
        while not (match := _IMAGES.search(text)):
            if not (chunk := stream.read(1 << 16)):
                yield Skipped("images", "broken file", "expected a list 'images', found none")
                return
            text = text[-100:] + chunk  # the name may lie across the end
        text = text[match.end() :].lstrip()
        while not text.startswith("]"):
            try:
                value, end = decoder.raw_decode(text)
            except json.JSONDecodeError as error:
                chunk = stream.read(1 << 16)
                if not chunk or len(text) > MAX_ROW:
                    yield Skipped(f"image {number + 1}", "broken file", f"it breaks off: {error}")
                    return
                text += chunk
            else:
                number += 1
                yield _json_row(f"image {number}", value)
                text = text[end:]
            text = text.lstrip(", \n\r\t")


def _json_row(
    place: str, value: Any, image: Photo | None = None, **defaults: Any
) -> RawRow | Skipped:
    if not isinstance(value, Mapping):
        return Skipped(place, "bad row", f"expected an object, got {str(value)[:40]!r}")
    cells = (defaults | {str(name): cell for name, cell in value.items()}).items()
    texts = {name.lower(): "" if cell is None else str(cell).strip() for name, cell in cells}
    return RawRow(place, texts, image)


def shard_rows(paths: Sequence[Path]) -> Rows:
    """Read WebDataset shards: tar files in which a photo and its JSON share a name."""
    for path in paths:
        try:
            with tarfile.open(path, "r:") as archive:
                for key, members in groupby(_members(archive), key=itemgetter(0)):
                    files = {suffix: member for _, suffix, member in members}
                    yield _sample(path, archive, key, files)
        except (tarfile.TarError, OSError, EOFError) as error:
            yield Skipped(path.name, "broken file", f"expected a tar file, got {error}")


def _members(archive: tarfile.TarFile) -> Iterator[tuple[str, str, tarfile.TarInfo]]:
    """Return files with the name of their sample, up to the first dot, and the ending."""
    while (member := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined]  # or it keeps all of them
        # not with pathlib, which interns all names
        folder, name = posixpath.split(posixpath.normpath(member.name))
        stem, _, suffix = name.partition(".")
        if member.isfile() and stem:
            yield posixpath.join(folder, stem), suffix.lower(), member


def _sample(
    path: Path, archive: tarfile.TarFile, key: str, files: Mapping[str, tarfile.TarInfo]
) -> RawRow | Skipped:
    place = f"{path.name}: {key}"
    image = next((files[name] for name in IMAGE_KEYS if name in files), None)
    about = files.get("json")
    if image is None:
        return Skipped(place, "no image", f"expected a photo, found {sorted(files)}", key)
    if about is None or about.size > MAX_ROW:
        return Skipped(place, "bad row", f"expected a small JSON, found {sorted(files)}", key)
    content = archive.extractfile(about)
    try:
        value = json.loads(content.read() if content else b"")
    except ValueError as error:
        return Skipped(place, "bad row", f"expected JSON, got {error}", key)
    return _json_row(place, value, StoredPhoto(path, image.offset_data, image.size), id=key)


def hub_rows(name: str, split: str) -> Rows:
    """Stream a data set of the hub (or a folder of Parquet files) through `datasets`."""
    datasets = require("datasets", "reading from the hub", "data", error=BenchmarkError)
    try:
        rows = datasets.load_dataset(name, split=split, streaming=True).decode(False)
        for number, row in enumerate(rows, start=1):
            yield _hub_row(f"row {number}", row)
    except Exception as error:  # of the hub, of fsspec, of scripts that are refused
        raise BenchmarkError(
            f"expected a data set {name!r} with a split {split!r} on the hub, got "
            f"{type(error).__name__}: {error}"
        ) from error


def _hub_row(place: str, value: Mapping[str, Any]) -> RawRow | Skipped:
    key = next((key for key in IMAGE_KEYS if value.get(key)), None)
    if key is None:
        return Skipped(place, "no image", f"expected a column of {IMAGE_KEYS}, found {list(value)}")
    image = value[key]
    if isinstance(image, Mapping):
        image = image.get("bytes") or image.get("path")
    if not isinstance(image, str | bytes):
        return Skipped(place, "no image", f"expected a photo, found {type(image).__name__}")
    cells = {name: cell for name, cell in value.items() if name != key}
    if isinstance(about := cells.pop("json", None), Mapping):  # of shards on the hub
        cells |= about
    return _json_row(place, cells, image, id=cells.get("__key__", place))
