"""Tables as lists of cells, a header first: CSV, Parquet, JSON, and what GDAL knows.

Cells are text; what is missing is empty. A column counts by its name without case, spaces, dots,
colons, slashes, hyphens and underscores.
"""

import csv
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from icgeo.config import UsageError, one_line

IMAGE_COLUMNS = (
    *("image", "imagepath", "imgpath", "path", "filepath", "file", "filename", "photo"),
    *("photopath", "name", "sourcefile", "mapfilename", "link1href", "imgid", "imageid"),
    *("imagekey", "key", "photoid", "photouuid", "photovideoidentifier", "id"),
)
ID_COLUMNS = ("id", "imgid", "gbifid")
LATITUDE_COLUMNS = (
    *("latitude", "lat", "decimallatitude", "gpslatitude", "compositegpslatitude", "maplatitude"),
    *("photolatitude", "geolatitude", "geolat", "gpslat", "latitudedeg", "dwcdecimallatitude"),
)
LONGITUDE_COLUMNS = (
    *("longitude", "lon", "lng", "long", "decimallongitude", "gpslongitude"),
    *("compositegpslongitude", "maplongitude", "photolongitude", "geolongitude", "geolon"),
    *("geolng", "gpslon", "gpslng", "longitudedeg", "dwcdecimallongitude"),
)
"""Names of columns, the first of which counts: those of GBIF, exiftool, iNaturalist, Mapillary,
OSV-5M and Flickr among them."""
LISTS = ("images", "data", "results", "photo", "photos", "items")
"""What JSON calls the list of its rows."""
SHEETS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
"""How files of Excel and LibreOffice begin."""
MAPS = (".kmz", ".gpkg", ".shp")
"""Endings of files that GDAL reads, and that begin with bytes."""
LONGEST_QUOTE = 200
"""Characters of a table that a message quotes."""

Rows = Iterator[list[str]]
logger = logging.getLogger(__name__)


class TableError(UsageError):
    """A table that cannot be read; the message says why, and what to do."""


def plain(name: object) -> str:
    """Return the name of a column as `IMAGE_COLUMNS` and the others have it."""
    return re.sub(r"[\s_.:/-]+", "", str(name)).lower()


def quoted(value: object) -> str:
    """Return what a message quotes of a value."""
    text = repr(value)
    return text if len(text) <= LONGEST_QUOTE else f"{text[:LONGEST_QUOTE]}..."


def read_rows(path: Path) -> Rows:
    """Read the header and the rows of a table, its format told by how it begins.

    Raises:
        TableError: another format, or one that is broken.
    """
    with path.open("rb") as stream:
        start = stream.read(1024)
    text, suffix = start.removeprefix(b"\xef\xbb\xbf").lstrip(), path.suffix.lower()
    if start.startswith(SHEETS) and suffix not in MAPS:
        raise TableError(
            f"expected CSV, Parquet, JSON or KML, got a spreadsheet or an archive ({path.suffix}); "
            "save as CSV UTF-8, or convert it: pandas.read_excel reads it, and "
            "to_csv(index=False) writes it"
        )
    is_parquet = start.startswith(b"PAR1")
    is_json = text.startswith((b"{", b"[")) or suffix in (".json", ".geojson", ".jsonl", ".ndjson")
    is_map = text.startswith(b"<") or suffix in (*MAPS, ".kml", ".gpx")
    kinds: dict[str, tuple[bool, Callable[[Path], Rows]]] = {
        "Parquet": (is_parquet, _parquet_rows),
        "JSON": (is_json, _json_rows),
        "a map such as KML or GPX": (is_map, _map_rows),
    }
    name, read = next(((n, kind[1]) for n, kind in kinds.items() if kind[0]), ("CSV", _csv_rows))
    try:
        yield from read(path)
    except UnicodeDecodeError as error:
        raise TableError(f"expected text in UTF-8, got {error}; save as CSV UTF-8") from error
    except TableError:
        raise
    except (OSError, ValueError, RuntimeError) as error:  # of a parser of foreign data
        raise TableError(f"expected {name}, got {one_line(error)[:LONGEST_QUOTE]}") from error


def _csv_rows(path: Path) -> Rows:
    """Read cells between the most frequent of the delimiters in the header.

    Between tabs quotes are letters where they do not enclose cells, as in exports of GBIF.
    """
    with path.open(encoding="utf-8-sig", newline="") as stream:
        header = stream.readline()
        delimiter = max(",;\t", key=header.count)
        stream.seek(0)
        is_bare = delimiter == "\t" and '"' in _ENCLOSED.sub("", stream.read())
        stream.seek(0)
        options: Any = {"quoting": csv.QUOTE_NONE} if is_bare else {"strict": True}
        reader = csv.reader(stream, delimiter=delimiter, skipinitialspace=True, **options)
        try:
            for cells in reader:
                yield [_ENCLOSING.sub(r"\1", cell.strip()) for cell in cells]
        except csv.Error as error:
            line = f"in line {reader.line_num}: {error}"
            raise TableError(f"expected CSV, got {line}") from error


_ENCLOSED = re.compile(r'(?<![^\t\r\n])"(?:[^"]|"")*"(?![^\t\r\n])')
"""A cell in quotes between tabs."""
_ENCLOSING = re.compile(r'^"(.*)"$', re.DOTALL)


def _parquet_rows(path: Path) -> Rows:
    """Read columns that count; the others are as if they were empty."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    known = {*IMAGE_COLUMNS, *ID_COLUMNS, *LATITUDE_COLUMNS, *LONGITUDE_COLUMNS}
    try:
        with ParquetFile(path) as file:
            names = file.schema_arrow.names
            yield names
            table = file.read(columns=[name for name in names if plain(name) in known])
        texts = {
            name: table[name].cast(pyarrow.string()).to_pylist() for name in table.column_names
        }
    except pyarrow.ArrowException as error:
        raise TableError(
            f"expected Parquet with text and numbers, got {one_line(error)[:LONGEST_QUOTE]}"
        ) from error
    empty = [""] * len(table)
    for cells in zip(*(texts.get(name, empty) for name in names), strict=True):
        yield [(cell or "").strip() for cell in cells]


def _json_rows(path: Path) -> Rows:
    """Read objects: a list of them, or one a line; GeoJSON is for GDAL."""
    text = path.read_text(encoding="utf-8-sig")
    try:
        told = json.loads(text)
    except json.JSONDecodeError:
        told = [json.loads(line) for line in text.splitlines() if line.strip()]
    first = told[0] if isinstance(told, list) and told else told
    if isinstance(first, dict) and first.get("type") in ("FeatureCollection", "Feature"):
        return _map_rows(path)
    if isinstance(told, dict):
        told = next((told[name] for name in LISTS if isinstance(told.get(name), list)), [told])
    if not all(isinstance(row, dict) for row in told):
        raise TableError(f"expected a list of objects in JSON, got {quoted(told)}")
    return _cells(told)


def _cells(rows: Iterable[Mapping[Any, Any]]) -> Rows:
    """Lay out dicts under the names that any of them has."""
    rows = [*rows]
    names = [*dict.fromkeys(name for row in rows for name in row)]
    yield names
    for row in rows:
        values = (row.get(name) for name in names)
        yield ["" if value is None else str(value).strip() for value in values]


def _map_rows(path: Path) -> Rows:
    """Read places of a map by GDAL: GeoJSON, KML, waypoints of GPX; points are locations."""
    import geopandas
    import pandas

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        layers = geopandas.list_layers(path)["name"]
        wanted = [layer for layer in layers if layer not in _TRACKS]
        frames = [geopandas.read_file(path, layer=layer, on_invalid="warn") for layer in wanted]
    for warning in told:
        logger.warning("%s: %s", path, warning.message)
    frame = pandas.concat([_with_places(one) for one in frames], ignore_index=True)
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    if not rows and len(wanted) < len(layers):
        raise TableError(
            "expected waypoints, got tracks, which tell no photo; `exiftool -geotag` writes places "
            "of a track into photos by their times"
        )
    return _cells(rows)


_TRACKS = ("routes", "tracks", "route_points", "track_points")
"""Layers of GPX that hold no places of photos."""


def _with_places(frame: Any) -> Any:
    """Put latitude and longitude of points beside the other columns, if these do not tell them."""
    columns = frame.drop(columns=frame.geometry.name)
    names = {plain(name) for name in columns.columns}
    if names & {*LATITUDE_COLUMNS} and names & {*LONGITUDE_COLUMNS}:
        return columns
    shapes = (frame.to_crs("EPSG:4326") if frame.crs else frame).geometry
    is_point = shapes.geom_type == "Point"
    points, kinds = shapes.where(is_point), shapes.geom_type
    # what is no point is refused as what is no number
    lat, lon = (side.astype(object).where(is_point, kinds) for side in (points.y, points.x))
    return columns.assign(latitude=lat, longitude=lon)
