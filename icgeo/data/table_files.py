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
    *("exifgpslatitude", "xmpgpslatitude", "gpsgpslatitude", "xmpexifgpslatitude"),
)
LONGITUDE_COLUMNS = (
    *("longitude", "lon", "lng", "long", "decimallongitude", "gpslongitude"),
    *("compositegpslongitude", "maplongitude", "photolongitude", "geolongitude", "geolon"),
    *("geolng", "gpslon", "gpslng", "longitudedeg", "dwcdecimallongitude"),
    *("exifgpslongitude", "xmpgpslongitude", "gpsgpslongitude", "xmpexifgpslongitude"),
)
"""Names of columns, the first of which counts: those of GBIF, exiftool, iNaturalist, Mapillary,
OSV-5M and Flickr among them."""
LATITUDE_LETTERS, LONGITUDE_LETTERS = (
    (
        *(f"{name}{end}" for end in ("ref", "dir", "direction", "hemisphere") for name in names),
        short_name,
    )
    for names, short_name in ((LATITUDE_COLUMNS, "ns"), (LONGITUDE_COLUMNS, "ew"))
)
"""Names of columns of N or S, and of E or W, beside unsigned numbers."""
PLACE_COLUMNS = {*LATITUDE_COLUMNS, *LONGITUDE_COLUMNS, *LATITUDE_LETTERS, *LONGITUDE_LETTERS}
LISTS = ("images", "data", "results", "photo", "photos", "items")
"""What JSON calls the list of its rows."""
OTHERS = {
    **dict.fromkeys((b"PK\x03\x04", b"\xd0\xcf\x11\xe0"), "a spreadsheet or an archive"),
    **dict.fromkeys((b"\xff\xfe", b"\xfe\xff"), "text in UTF-16"),
    **{b"\xff\xd8\xff": "a photo", b"\x89PNG": "a photo", b"\x1f\x8b": "gzip, to be unpacked"},
    **{b"ARROW1": "Feather", b"SQLite": "SQLite", b"\x80\x04": "a pickle", b"\x80\x05": "a pickle"},
}
"""How files begin that are no tables here, those of Excel and LibreOffice among them."""
MAPS = (".kmz", ".gpkg", ".shp", ".fgb")
"""Endings of files that GDAL reads, and that begin with bytes."""
JSONS = (".json", ".geojson", ".geojsons", ".jsonl", ".ndjson")
TABLE_SUFFIXES = (".csv", ".tsv", ".parquet", *JSONS, ".kml", ".gpx", *MAPS)
"""Endings of tables."""
LONGEST_QUOTE = 200
"""Characters of a table that a message quotes."""

Rows = Iterator[list[str]]
logger = logging.getLogger(__name__)


class TableError(UsageError):
    """A table that cannot be read; the message says why, and what to do."""


def plain(name: object) -> str:
    """Return the name of a column as `IMAGE_COLUMNS` and the others have it."""
    return re.sub(r"[\s_.:/-]+", "", str(name)).lower()


def place_columns(names: Iterable[str]) -> list[str | None]:
    """Find the plain names of latitude and longitude, of one naming, and of the letters of each.

    Raises:
        TableError: there are several, of which none is named as one of the other axis.
    """
    name_set = {*names}
    lats, lons = (
        [name for name in columns if name in name_set]
        for columns in (LATITUDE_COLUMNS, LONGITUDE_COLUMNS)
    )
    every = [(lat, lon) for lat in lats for lon in lons]
    pairs = [pair for pair in every if len({_AXIS.sub(r"\2", name) for name in pair}) == 1]
    pairs += [pair for pair in every if len({_AXIS.sub("", name) for name in pair}) == 1]
    if every and not pairs and len(lats) + len(lons) > 2:
        raise TableError(
            f"expected latitude and longitude of one naming, got {lats} and {lons}; leave some out"
        )
    result: list[str | None] = [*pairs[0]] if pairs else [next(iter(x), None) for x in (lats, lons)]
    for name, letters in zip(tuple(result), (LATITUDE_LETTERS, LONGITUDE_LETTERS), strict=True):
        options = (one for one in (f"{name}ref", *letters) if name and one in name_set)
        result.append(next(options, None))
    return result


_AXIS = re.compile("(lat|long|lon|lng)(itude)?")


def quoted(value: object) -> str:
    """Return what a message quotes of a value."""
    text = repr(value)
    return text if len(text) <= LONGEST_QUOTE else f"{text[:LONGEST_QUOTE]}..."


def read_rows(path: Path) -> Rows:
    """Read the header and the rows of a table, its format told by how it begins.

    Raises:
        TableError: another format, or one that is broken.
    """
    if not path.is_file():
        raise TableError("expected a table, got a pipe or a device; save it to a file first")
    with path.open("rb") as stream:
        start = stream.read(1024)
    text, suffix = start.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n\x1e"), path.suffix.lower()
    kind = next((kind for head, kind in OTHERS.items() if start.startswith(head)), None)
    if kind and suffix not in (*MAPS, ".kml", ".gpx"):
        raise TableError(
            f"expected CSV, Parquet, JSON or KML, got {kind} ({path.suffix}); save as CSV UTF-8, "
            "or convert it: pandas.read_excel reads a sheet, and to_csv(index=False) writes it"
        )
    is_parquet = start.startswith(b"PAR1")
    is_json = text.startswith((b"{", b"[")) or suffix in JSONS
    is_map = text.startswith(b"<") or suffix in (*MAPS, ".kml", ".gpx")
    kinds: dict[str, tuple[bool, Callable[[Path], Rows]]] = {
        "Parquet": (is_parquet, _parquet_rows),
        "JSON": (is_json, _json_rows),
        "a map such as KML or GPX": (is_map, _map_rows),
    }
    name, reader = next(((n, kind[1]) for n, kind in kinds.items() if kind[0]), ("CSV", _csv_rows))
    try:
        yield from reader(path)
    except UnicodeDecodeError as error:
        raise TableError(f"expected text in UTF-8, got {error}; save as CSV UTF-8") from error
    except TableError:
        raise
    except (OSError, ValueError, RuntimeError) as error:  # of a parser of foreign data
        description = one_line(error)[:LONGEST_QUOTE]
        if "correct driver" in description:  # nobody has one
            description = f"a file that begins with {text[:40].decode('utf-8', 'replace')!r}"
        raise TableError(f"expected {name}, got {description}") from error


def _csv_rows(path: Path) -> Rows:
    """Read cells between the most frequent of the delimiters in the header.

    Between tabs quotes are letters where they do not enclose cells, as in exports of GBIF.
    """
    with path.open(encoding="utf-8-sig", newline="") as stream:
        header = re.sub(r'"[^"]*"', "", stream.readline())
        delimiter = max(",;\t", key=header.count)
        stream.seek(0)
        is_bare = delimiter == "\t" and '"' in _ENCLOSED.sub("", stream.read())
        stream.seek(0)
        options: Any = {"quoting": csv.QUOTE_NONE} if is_bare else {"strict": True}
        space_pattern = re.compile(rf'" +(?=[{delimiter}\r\n]|$)')  # behind a closing quote
        lines = (space_pattern.sub('"', line) for line in stream)
        reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, **options)
        try:
            for cells in reader:
                yield [_ENCLOSING.sub(r"\1", cell.strip()) for cell in cells]
        except csv.Error as error:
            line = f"in line {reader.line_num}: {error}"
            raise TableError(f"expected CSV, got {line}") from error


_ENCLOSED = re.compile(r'(?<![^\t\r\n])"(?:[^"]|"")*+"(?![^\t\r\n])')
"""A cell in quotes between tabs; possessive, for a quote alone would cost memory by the letter."""
_ENCLOSING = re.compile(r'^"(.*)"$', re.DOTALL)


def _parquet_rows(path: Path) -> Rows:
    """Read columns that count; the others are as if they were empty."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    known_columns = {*IMAGE_COLUMNS, *ID_COLUMNS, *PLACE_COLUMNS}
    try:
        with ParquetFile(path) as file:
            schema = file.schema_arrow
            names = schema.names
            columns = [name for name in names if plain(name) in known_columns]
            if b"geo" in (schema.metadata or {}) and not _has_places(names):
                yield from _geoparquet_rows(path, columns, schema.metadata[b"geo"])
                return
            yield names
            table = file.read(columns=columns)
        texts = {
            name: table[name].cast(pyarrow.string()).to_pylist() for name in table.column_names
        }
    except pyarrow.ArrowException as error:
        raise TableError(
            f"expected Parquet with text and numbers, got {one_line(error)[:LONGEST_QUOTE]}"
        ) from error
    empty_column = [""] * len(table)
    for cells in zip(*(texts.get(name, empty_column) for name in names), strict=True):
        yield [(cell or "").strip() for cell in cells]


def _geoparquet_rows(path: Path, columns: list[str], geo: bytes) -> Rows:
    """Read columns, and the points of GeoParquet, whose metadata name the column of these."""
    import geopandas

    try:
        geometry = json.loads(geo)["primary_column"]
        frame = geopandas.read_parquet(path, columns=[*dict.fromkeys((*columns, geometry))])
        return _frame_rows(_with_places(frame, path))
    except Exception as error:  # libraries raise nearly anything on damaged metadata
        raise TableError(f"expected GeoParquet, got {one_line(error)[:LONGEST_QUOTE]}") from error


def _json_rows(path: Path) -> Rows:
    """Read objects: a list of them, or one a line; GeoJSON is for GDAL."""
    text = path.read_text(encoding="utf-8-sig").replace("\x1e", "")  # RFC 8142
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        rows = _json_lines(text, error)
    first_row = rows[0] if isinstance(rows, list) and rows else rows
    if isinstance(first_row, dict) and first_row.get("type") in ("FeatureCollection", "Feature"):
        return _map_rows(path)
    if isinstance(rows, dict):  # Flickr has the list in an object in an object
        children = [rows[name] for name in LISTS if name in rows]
        grandchildren = (
            one.get(name) for one in children if isinstance(one, dict) for name in LISTS
        )
        rows = next(
            (one for one in (*children, *grandchildren) if isinstance(one, list)), [rows]
        ) or [rows]
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise TableError(f"expected a list of objects in JSON, got {quoted(rows)}")
    return _cells([_with_point(row) for row in rows])


def _json_lines(text: str, text_error: json.JSONDecodeError) -> list[Any]:
    """Read a value a line; `text_error` is what is wrong with the text as one value."""
    values = []
    for number, line in enumerate(text.split("\n"), start=1):  # only these end lines of JSON
        try:
            values += [json.loads(line)] if line.strip() else []
        except json.JSONDecodeError as error:
            if not values:
                raise text_error from error
            raise TableError(
                f"expected JSON, got {error.msg} in line {number}: {quoted(line.strip())}; mend "
                "the line, or leave it out"
            ) from error
    return values


def _with_point(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Put latitude and longitude of a point in GeoJSON, as Mapillary has it, beside the others."""
    shapes = (row.get(name) for name in ("geometry", "computed_geometry"))
    place = next((shape for shape in shapes if isinstance(shape, dict)), None)
    if place is None or _has_places(row):
        return row
    coordinates = place.get("coordinates")
    if place.get("type") != "Point" or not isinstance(coordinates, list) or len(coordinates) < 2:
        raise TableError(f"expected a point as geometry, got {quoted(place)}; give its centre")
    return {**row, "longitude": coordinates[0], "latitude": coordinates[1]}


def _has_places(names: Iterable[str]) -> bool:
    """Say whether columns tell places."""
    return None not in place_columns(map(plain, names))[:2]


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

    with warnings.catch_warnings(record=True) as warning_list:
        warnings.simplefilter("always")
        layers = geopandas.list_layers(path)["name"]
        places = [layer for layer in layers if layer not in _TRACKS]
        frames = [geopandas.read_file(path, layer=layer, on_invalid="warn") for layer in places]
    for warning in warning_list:
        logger.warning("%s: %s", path, warning.message)
    if not any(len(frame) for frame in frames) and len(places) < len(layers):
        raise TableError(
            "expected waypoints, got tracks, which tell no photo; `exiftool -geotag` writes places "
            "of a track into photos by their times"
        )
    frames = [one for one in (_with_places(frame, path) for frame in frames) if len(one)]
    if not frames:
        raise TableError(
            "expected places of photos, got a map without any; export it whole, a point a photo"
        )
    frame = pandas.concat(frames, ignore_index=True)
    if (link := "link1_href") in frame and "name" in frame:  # of GPX, often that of a page
        is_photo = [isinstance(one, str) and (path.parent / one).is_file() for one in frame[link]]
        frame["name"] = frame[link].where(is_photo, frame["name"])
    return _frame_rows(frame)


def _frame_rows(frame: Any) -> Rows:
    """Lay out the rows of pandas, in which integers beside what is missing are floats."""
    values = frame.convert_dtypes().astype(object)
    return _cells(values.where(frame.notna(), None).to_dict("records"))


_TRACKS = ("routes", "tracks", "route_points", "track_points")
"""Layers of GPX that hold no places of photos."""


def _with_places(frame: Any, path: Path) -> Any:
    """Put latitude and longitude of points beside the other columns, if these do not tell them.

    Lines and areas, which tell no photo, are left out and counted in the log.
    """
    if not hasattr(frame, "to_crs"):  # a table in a GeoPackage, without geometry
        return frame
    columns = frame.drop(columns=frame.geometry.name)
    if _has_places(columns.columns):
        return columns
    kinds = frame.geometry.geom_type
    is_other = kinds.notna() & (kinds != "Point")
    if is_other.any():
        names = ", ".join(sorted({*kinds[is_other]}))
        logger.warning("%s: left out %d that are no points (%s)", path, is_other.sum(), names)
    points = (frame.to_crs("EPSG:4326") if frame.crs else frame).geometry[~is_other]
    return columns[~is_other].assign(latitude=points.y, longitude=points.x)
