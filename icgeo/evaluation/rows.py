"""Rows: one query located once, kept as lines of JSON that survive a kill at any time."""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pandas import DataFrame

from icgeo.writing import append_lines, write_atomically

ROW_FILES = "predictions*.jsonl"
Key = tuple[str, str, str, int]
"""Locator, episode, query, number of shots."""


@dataclass(frozen=True)
class Row:
    """One query, located once; None for what is not known."""

    locator: str
    episode: str
    world: str
    id: str
    shots: int
    source: str | None = None
    """Path of the photo, if it comes from a file."""
    lat: float | None = None
    lon: float | None = None
    true_lat: float | None = None
    true_lon: float | None = None
    distance_km: float | None = None
    """Great-circle error; None without an answer or without the truth."""
    nll: float | None = None
    """Minus the log-density at the truth, in nats per steradian."""
    level: float | None = None
    """Credible level of the truth: regions of a larger probability hold it."""
    area_90_km2: float | None = None
    searched_area_km2: float | None = None
    """Area to search until the truth is found, most probable cells first."""
    legibility: float | None = None
    located: bool | None = None
    in_domain: bool | None = None
    """Whether the photo is of the kind that the model was trained on, where it can tell."""
    heading_deg: float | None = None
    """Compass direction of the upper edge, where a zoom on a map found it."""
    field_of_view_deg: float | None = None
    footprint: str | None = None
    """The ground that the photo shows, as WKT, longitude first."""
    levels: list[dict[str, Any]] | None = None
    """Of a zoom, as `ZoomLevel.to_dict`, with the `nll` of each where the truth is known."""
    seconds: float | None = None
    error: str | None = None
    """Why the photo could not be read or located; then nothing else is known of its prediction."""

    @property
    def key(self) -> Key:
        """What tells rows apart."""
        return self.locator, self.episode, self.id, self.shots

    def to_json(self) -> str:
        """Write what is known as one line."""
        return json.dumps({name: value for name, value in vars(self).items() if value is not None})


DTYPES: dict[Any, str] = {
    str: "object",
    str | None: "object",
    int: "int64",
    float | None: "float64",
    bool | None: "boolean",
    list[dict[str, Any]] | None: "object",
}
"""Types of the columns of a frame, by those of the fields of `Row`."""


class RowFile:
    """Rows in a file of JSON lines, which survives a kill at any time; one process writes it."""

    def __init__(self, path: Path) -> None:
        """Read the rows of an earlier start, and cut off a last line that is torn.

        Raises:
            ValueError: a line that is no row.
        """
        self.path = path
        path.touch()
        size, rows = _read(path)
        os.truncate(path, size)
        self.rows = {row.key: row for row in rows}

    def append(self, rows: Iterable[Row]) -> None:
        """Add those that are new, and wait until they are on disk."""
        new_rows = {row.key: row for row in rows if row.key not in self.rows}
        append_lines(self.path, (row.to_json() for row in new_rows.values()))
        self.rows |= new_rows


def known_rows(folder: Path) -> dict[Key, Row]:
    """Read the rows that all processes of all starts have left, without what is torn."""
    rows: dict[Key, Row] = {}
    for path in sorted(folder.glob(ROW_FILES)):
        for row in _read(path)[1]:
            rows.setdefault(row.key, row)
    return rows


def read_rows(folder: Path) -> DataFrame:
    """Read the rows of a run folder as one frame, as `to_frame` lays it out.

    Raises:
        ValueError: a line that is no row.
    """
    return to_frame(known_rows(folder).values())


def to_frame(rows: Iterable[Row]) -> DataFrame:
    """Lay out rows as a frame whose columns are the fields of `Row`.

    Numbers that are not known are NaN, text is None, `located` is pandas' own NA.
    """
    types = {field.name: DTYPES[field.type] for field in fields(Row)}
    return DataFrame(map(vars, rows), columns=[*types], dtype=object).astype(types)


def write_rows(folder: Path, rows: Iterable[Row]) -> None:
    """Leave these as the only rows; killed within, the earlier ones are still there."""
    target = folder / "predictions.jsonl"
    with write_atomically(target) as partial_path:
        append_lines(partial_path, (row.to_json() for row in rows))
    for path in folder.glob(ROW_FILES):
        if path != target:
            path.unlink()


def _read(path: Path) -> tuple[int, list[Row]]:
    """Return the bytes up to the last whole line, and the rows in them."""
    content = path.read_bytes()
    size = content.rfind(b"\n") + 1
    rows: list[Row] = []
    for number, line in enumerate(content[:size].decode().splitlines(), start=1):
        try:
            rows.append(Row(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{path}, line {number}: expected a row, got {line[:80]!r}; remove it, or choose "
                "another folder"
            ) from error
    return size, rows
