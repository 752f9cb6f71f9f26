"""Predictions as rows of files: CSV, JSON lines, GeoParquet, or features of GeoJSON.

Conventions: a row holds `source`, the path of the photo, and what `Prediction.to_dict` says, or
`error`, why the photo could not be read. Coordinates of GeoJSON are longitude first, as RFC 7946
has them, those of a row are named.
"""

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from icgeo.config import UsageError
from icgeo.prediction import Prediction
from icgeo.writing import write_atomically

COLUMNS = (
    "source", "lat", "lon", "located", "legibility", "area_50_km2", "area_90_km2", "seconds",
    "error",
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    """What is kept of one photo: a row, and its features where they are wanted."""

    row: dict[str, Any]
    features: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, source: str, prediction: Prediction, *, with_features: bool = False) -> "Result":
        """Keep what a prediction says, not its density."""
        row = {"source": source, **prediction.to_dict()}
        return cls(row, features_of(row, prediction) if with_features else [])

    @classmethod
    def failed(cls, source: str, error: Exception) -> "Result":
        """Keep why a photo could not be located."""
        return cls({"source": source, "error": " ".join(str(error).split())})

    @property
    def error(self) -> str | None:
        """Why there is no answer."""
        return self.row.get("error")


def features_of(row: dict[str, Any], prediction: Prediction) -> list[dict[str, Any]]:
    """Give the point and the regions of a prediction as features, in WGS84.

    Who is not located has no point, and the regions are most of the sphere: it has neither.
    """
    if not prediction.located:
        return [{"type": "Feature", "geometry": None, "properties": row}]
    found = prediction.to_geodataframe().iterfeatures(na="drop", drop_id=True)
    return [{**feature, "properties": {**row, **feature["properties"]}} for feature in found]


def _save_csv(results: Sequence[Result], path: Path) -> None:
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(result.row for result in results)


def _save_lines(results: Sequence[Result], path: Path) -> None:
    path.write_text("".join(json.dumps(result.row) + "\n" for result in results), encoding="utf-8")


def _save_geojson(results: Sequence[Result], path: Path) -> None:
    features = [feature for result in results for feature in _or_error(result)]
    collection = {"type": "FeatureCollection", "features": features}
    path.write_text(json.dumps(collection) + "\n", encoding="utf-8")


def _or_error(result: Result) -> list[dict[str, Any]]:
    return result.features or [{"type": "Feature", "geometry": None, "properties": result.row}]


def _save_parquet(results: Sequence[Result], path: Path) -> None:
    import geopandas

    columns: dict[str, list[Any]] = {
        name: [result.row.get(name) for result in results] for name in COLUMNS
    }
    points = [_point(result.row) for result in results]
    geopandas.GeoDataFrame(columns, geometry=points, crs="EPSG:4326").to_parquet(path, index=False)


def _point(row: dict[str, Any]) -> Any:
    from shapely import Point

    return None if row.get("lat") is None else Point(row["lon"], row["lat"])


SAVERS: dict[str, Callable[[Sequence[Result], Path], None]] = {
    ".csv": _save_csv,
    ".geojson": _save_geojson,
    ".jsonl": _save_lines,
    ".parquet": _save_parquet,
}
"""Formats of files, by suffix."""


def require_format(path: Path) -> None:
    """Check, before any work, that results can be saved in a file.

    Raises:
        UsageError: an unknown suffix, or a folder that is not there.
    """
    if path.suffix.lower() not in SAVERS:
        raise UsageError(f"expected a file that ends in {', '.join(SAVERS)}, got {path}")
    if not path.parent.is_dir():
        raise UsageError(f"expected a folder {path.parent} to save {path.name} in; make it first")


def save_results(results: Sequence[Result], path: Path) -> None:
    """Save results in the format of the suffix; the old file stays until the new one is whole.

    Raises:
        UsageError: an unknown suffix, or a file that cannot be written.
    """
    require_format(path)
    try:
        with write_atomically(path) as partial:
            SAVERS[path.suffix.lower()](results, partial)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error
