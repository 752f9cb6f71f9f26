"""Predictions as rows of files: CSV, JSON lines, GeoParquet, or features of GeoJSON.

Conventions: a row holds `source`, the path of the photo, and what `Prediction.to_dict` says, or
`error`, why the photo could not be read. GeoJSON is that of `Prediction.to_geojson`, each feature
with the row of its photo; a photo that is not located has one feature, without a geometry.
"""

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
    """What is said of one photo: a row, and the rows of its point and regions where wanted."""

    row: dict[str, Any]
    regions: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, source: str, prediction: Prediction, *, with_regions: bool = False) -> "Result":
        """Take what a prediction says, not its density."""
        row = {"source": source, **prediction.to_dict()}
        if not (with_regions and prediction.located):  # its regions are most of the sphere
            return cls(row)
        records = prediction.to_geodataframe().to_dict("records")
        return cls(row, [{**row, **record} for record in records])

    @classmethod
    def failed(cls, source: str, error: Exception) -> "Result":
        """Say why a photo could not be located."""
        return cls({"source": source, "error": " ".join(str(error).split())})

    @property
    def error(self) -> str | None:
        """Why there is no answer."""
        return self.row.get("error")


def _save_csv(results: Sequence[Result], path: Path) -> None:
    import pandas

    frame = pandas.DataFrame([result.row for result in results], columns=COLUMNS)
    frame.to_csv(path, index=False, errors="surrogateescape", lineterminator="\n")


def _save_lines(results: Sequence[Result], path: Path) -> None:
    path.write_text("".join(json.dumps(result.row) + "\n" for result in results), encoding="utf-8")


def _save_geojson(results: Sequence[Result], path: Path) -> None:
    import geopandas

    records = [
        record
        for result in results
        for record in result.regions or [{**result.row, "geometry": None}]
    ]
    frame = geopandas.GeoDataFrame(
        records or {"geometry": []}, geometry="geometry", crs="EPSG:4326"
    )
    path.write_text(frame.to_json(na="drop", drop_id=True) + "\n", encoding="utf-8")


def _save_parquet(results: Sequence[Result], path: Path) -> None:
    import geopandas
    import pandas
    from shapely import Point

    frame = pandas.DataFrame([result.row for result in results], columns=COLUMNS)
    places = zip(frame["lon"], frame["lat"], strict=True)
    points = [None if pandas.isna(lat) else Point(lon, lat) for lon, lat in places]
    geopandas.GeoDataFrame(frame, geometry=points, crs="EPSG:4326").to_parquet(path, index=False)


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
