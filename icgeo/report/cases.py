"""Cases: the queries that went best and worst, kept with photo, drawn map and density.

Conventions: the folder `cases` of a run holds the pictures and `cases.json`, which says whose they
are. They are some hundred kB: rows hold no photo, and a report is read where the photos are not.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from icgeo.data.photos import PhotoError
from icgeo.evaluation import BASELINES, Episode, Query, Row
from icgeo.evaluation.scores import GUESS_KM
from icgeo.prediction import Locator
from icgeo.report.figures import Picture, density_picture, map_picture, photo_picture

EACH = 3
_FOLDER, _INDEX = "cases", "cases.json"
_PARTS = ("photo", "map", "density")


@dataclass(frozen=True)
class Case:
    """A query to show, and its pictures as far as they are at hand."""

    kind: str
    """Best or worst of its world by error; where no truth is known, surest or least sure."""
    row: Row
    photo: Picture | None = None
    map: Picture | None = None
    density: Picture | None = None


def choose_cases(rows: Sequence[Row], each: int = EACH) -> list[Case]:
    """Choose the best and the worst rows of each world and method, with its most shots.

    A query without an answer counts as a guess. Rows of unknown truth are chosen by their 90 %
    area.
    """
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.locator not in BASELINES and row.error is None:
            groups.setdefault((row.world, row.locator), []).append(row)
    return [case for group in groups.values() for case in _of_group(group, each)]


def _of_group(rows: Sequence[Row], each: int) -> list[Case]:
    most = max(row.shots for row in rows)
    last = [row for row in rows if row.shots == most]
    known = [row for row in last if row.nll is not None]
    kinds = ("best", "worst") if known else ("surest", "least sure")
    ordered = sorted(known or last, key=_error if known else _area)
    parts = (ordered[:each], ordered[each:][-each:][::-1])
    return [Case(kind, row) for kind, part in zip(kinds, parts, strict=True) for row in part]


def _error(row: Row) -> float:
    return GUESS_KM if row.distance_km is None else row.distance_km


def _area(row: Row) -> float:
    return row.area_90_km2 or 0.0


def save_cases(
    folder: Path, rows: Sequence[Row], runs: Iterable[tuple[Locator, Episode]], *, each: int = EACH
) -> None:
    """Locate the best and worst queries of a run again, and keep their pictures for `write_report`.

    Args:
        folder: of the run.
        rows: what `evaluate` gave.
        runs: the locators and episodes that it was given.
        each: how many of the best and of the worst of each world.
    """
    target = folder / _FOLDER
    target.mkdir(parents=True, exist_ok=True)
    wanted = {case.row.key[:3]: case.row for case in choose_cases(rows, each)}
    kept: list[dict[str, Any]] = []
    for locator, episode in runs:
        for query in episode.queries:
            row = wanted.get((locator.name, episode.id, query.id))
            if row is not None:
                pictures = _pictures(locator, episode, query, row.shots)
                kept.append({"key": row.key, **_write(pictures, target, len(kept))})
    (target / _INDEX).write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


def _pictures(locator: Locator, episode: Episode, query: Query, shots: int) -> dict[str, Picture]:
    prediction = locator.locate([query.photo], episode.examples[:shots])[0]
    pictures = {
        "photo": photo_picture(query.photo),
        "density": density_picture(prediction, query.lat_lon, on_earth=episode.is_earth),
    }
    if prediction.map is not None:
        pictures["map"] = map_picture(prediction.map)
    return pictures


def _write(pictures: dict[str, Picture], target: Path, number: int) -> dict[str, str]:
    names = {part: f"{number:03}-{part}{picture.suffix}" for part, picture in pictures.items()}
    for part, name in names.items():
        (target / name).write_bytes(pictures[part].data)
    return names


def load_cases(folder: Path, rows: Sequence[Row], *, each: int = EACH) -> list[Case]:
    """Choose the cases of a run folder, with the pictures that `save_cases` kept.

    Of a case that was not kept there is the photo alone, if its file can still be read.
    """
    try:
        index = json.loads((folder / _FOLDER / _INDEX).read_text(encoding="utf-8"))
        kept = {tuple(entry["key"]): entry for entry in index}
    except (OSError, ValueError, TypeError, KeyError):
        kept = {}
    return [
        _with_pictures(case, kept.get(case.row.key, {}), folder / _FOLDER)
        for case in choose_cases(rows, each)
    ]


def _with_pictures(case: Case, entry: dict[str, Any], folder: Path) -> Case:
    # the last part of a name only: the index is data, and leads nowhere else
    paths = {part: folder / Path(str(entry[part])).name for part in _PARTS if part in entry}
    found = {part: Picture.read(path) for part, path in paths.items() if path.is_file()}
    photo = found.get("photo") or (case.row.source and _photo(case.row.source)) or None
    return replace(case, photo=photo, map=found.get("map"), density=found.get("density"))


def _photo(source: str) -> Picture | None:
    try:
        return photo_picture(source)
    except PhotoError:
        return None
