"""Tables as exports of other programs have them, read as manifests, or refused by name."""

import gzip
import io
import json
import os
import tracemalloc
import zipfile

import geopandas
import pandas
import pyarrow
import pyogrio
import pytest
from pyarrow import parquet

import icgeo
from icgeo.data.manifest import ManifestError, read_manifest
from icgeo.data.table_files import read_rows
from icgeo.prediction import as_examples

SYDNEY = (-33.86, 151.21)


def written(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def places(path):
    return {record.path.name: record.lat_lon for record in read_manifest(path)}


EXPORTS = {
    "GBIF": ("gbifID", "species", "File Path", "decimalLatitude", "decimalLongitude"),
    "GBIF, prefixed": (
        "dwc:occurrenceID",
        "x",
        "file",
        "dwc:decimalLatitude",
        "dwc:decimalLongitude",
    ),
    "iNaturalist": ("id", "observed_on", "file_name", "latitude", "longitude"),
    "iNaturalist photos": ("x", "observation_uuid", "photo_id", "latitude", "longitude"),
    "Mapillary": ("x", "captured_at", "image_key", "lat", "lon"),
    "Mapillary sequences": ("x", "captured_at", "key", "lat", "lon"),
    "Mapillary tools": ("x", "MAPCaptureTime", "MAPFilename", "MAPLatitude", "MAPLongitude"),
    "OSV-5M": ("thumb_original_url", "country", "id", "latitude", "longitude"),
    "Flickr (YFCC)": ("x", "Date taken", "Photo/video identifier", "Latitude", "Longitude"),
    "Flickr (API)": ("x", "owner", "photo_id", "geo_lat", "geo_lon"),
    "exiftool": ("x", "Model", "SourceFile", "GPSLatitude", "GPSLongitude"),
    "exiftool -G": (
        "x",
        "EXIF:Model",
        "SourceFile",
        "Composite:GPSLatitude",
        "Composite:GPSLongitude",
    ),
    "a person": ("no.", "note", "Image Path", "Lat.", "Long."),
}  # fmt: skip


@pytest.mark.parametrize("header", EXPORTS.values(), ids=[*EXPORTS])
def test_columns_of_exports_are_known(header, tmp_path):
    (tmp_path / "385.jpg").touch()
    row = ["385.jpg" if i == 2 else x for i, x in enumerate(("7", "x", "", *map(str, SYDNEY)))]
    text = ",".join(header) + "\n" + ",".join(row) + "\n"
    assert places(written(tmp_path, "m.csv", text)) == {"385.jpg": SYDNEY}


@pytest.mark.parametrize(
    "names", [("Image", "LAT", "Lon"), ("file_name", "lat", "lng"), ("id", "latitude", "longitude")]
)
def test_dicts_have_the_names_that_tables_have(names):
    rows = pandas.DataFrame([dict(zip(names, ("a.jpg", *SYDNEY), strict=True))])
    (example,) = icgeo.Geolocator()._examples(rows)
    assert (example.image, example.lat, example.lon) == ("a.jpg", *SYDNEY)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("12 deg 30' 36.00\" S", -12.51),
        ("12 deg 30' 36.00\" N", 12.51),
        ("12 deg 30' 36\"", 12.51),
        ("-12.51", -12.51),
        ("-12,51", -12.51),
    ],
)
def test_degrees_as_exiftool_writes_them(text, expected, tmp_path):
    path = written(tmp_path, "m.csv", f"SourceFile\tGPSLatitude\tGPSLongitude\na.jpg\t{text}\t1\n")
    assert places(path) == {"a.jpg": (pytest.approx(expected), 1.0)}


@pytest.mark.parametrize("text", ["3_3.86", "1_0", "_1", "0x1p3", "12 deg 30' S", "1e999"])
def test_numbers_that_are_none_are_refused(text, tmp_path):
    path = written(tmp_path, "m.csv", f"image,lat,lon\na.jpg,{text},2\n")
    with pytest.raises(ManifestError, match="expected decimal degrees"):
        read_manifest(path)


EXIFTOOL = {
    "beside": ("GPSLatitude", "GPSLatitudeRef", "GPSLongitude", "GPSLongitudeRef"),
    "-G": ("EXIF:GPSLatitude", "EXIF:GPSLatitudeRef", "EXIF:GPSLongitude", "EXIF:GPSLongitudeRef"),
}


def test_damaged_metadata_of_geoparquet_are_refused(tmp_path):
    table = pyarrow.table({"image": ["a.jpg"], "geometry": [b"no point"]})
    for geo in (b"{}", b"[", b'{"primary_column": "geometry", "columns": {"geometry": {}}}'):
        parquet.write_table(table.replace_schema_metadata({"geo": geo}), tmp_path / "m.parquet")
        with pytest.raises(ManifestError, match="expected GeoParquet, got"):
            read_manifest(tmp_path / "m.parquet")


def test_a_long_name_is_no_manifest():
    with pytest.raises(ManifestError, match="found no such file"):
        read_manifest("x" * 300)


@pytest.mark.parametrize("header", EXIFTOOL.values(), ids=[*EXIFTOOL])
@pytest.mark.parametrize(
    "cells", ["33.5,S,70.25,W", "33.5,South,70.25,West", "-33.5,S,-70.25,N/A", "-33.5,,-70.25,"]
)
def test_letters_in_columns_are_those_of_unsigned_numbers(header, cells, tmp_path):
    text = f"SourceFile,{','.join(header)}\na.jpg,{cells}\n"
    assert places(written(tmp_path, "m.csv", text)) == {"a.jpg": (-33.5, -70.25)}
    frame = pandas.read_csv(io.StringIO(text), dtype=str)
    frame.to_parquet(tmp_path / "m.parquet")
    assert places(tmp_path / "m.parquet") == {"a.jpg": (-33.5, -70.25)}


@pytest.mark.parametrize(
    ("header", "cells", "expected"),
    [
        ("latitude,GPSLatitude,GPSLongitude", "1,48,2", (48, 2)),
        ("lat,lon,latitude", "1,2,48", (1, 2)),
        ("lat,latitude,lon,longitude", "1,48,3,2", (48, 2)),
        ("Latitude,Lng", "48,2", (48, 2)),
        ("latitude,longitude,GPSLatitudeRef,GPSLongitudeRef", "48,2,S,W", (-48, -2)),
        ("GPSLatitude,GPSLongitude,EXIF:GPSLatitudeRef,EXIF:GPSLongitudeRef", "48,2,S,", (-48, 2)),
        ("lat,lon,lat_dir,lon_dir", "48,2,N,W", (48, -2)),
        ("latitude,longitude,NS,EW", "48,2,S,W", (-48, -2)),
        ("lat,lon,GPSDestLatitudeRef", "48,2,S", (48, 2)),
        ("lat,lon,ns,ew", "48,2,7,0.5", (48, 2)),
        ("latitude,lon,lng", "48,2,2", (48, 2)),
    ],
)
def test_columns_of_places_are_of_one_naming_with_their_letters(header, cells, expected, tmp_path):
    text = f"image,{header}\na.jpg,{cells}\n"
    assert places(written(tmp_path, "m.csv", text)) == {"a.jpg": expected}
    pandas.read_csv(io.StringIO(text)).to_parquet(tmp_path / "m.parquet")
    assert places(tmp_path / "m.parquet") == {"a.jpg": expected}
    (example,) = as_examples(pandas.read_csv(io.StringIO(text)))
    assert (example.lat, example.lon) == expected


def test_photos_are_named_in_braces_and_pages_linked_without_names(tmp_path):
    assert places(written(tmp_path, "m.csv", "image,lat,lon\n{0A-1B}.jpg,48,2\n")) == {
        "{0A-1B}.jpg": (48, 2)
    }
    one = {"image": "a.jpg", "link1_href": "page.html"}
    point = {"type": "Point", "coordinates": [2, 48]}
    feature = {"type": "Feature", "properties": one, "geometry": point}
    text = json.dumps({"type": "FeatureCollection", "features": [feature]})
    assert places(written(tmp_path, "m.geojson", text)) == {"a.jpg": (48, 2)}


def test_columns_of_places_of_different_namings_are_refused(tmp_path):
    path = written(tmp_path, "m.csv", "image,lat,latitude,GPSLongitude\na.jpg,1,2,3\n")
    with pytest.raises(ManifestError, match=r"of one naming, got \['latitude', 'lat'\] and"):
        read_manifest(path)
    with pytest.raises(ValueError, match="of one naming"):
        as_examples([{"image": "a.jpg", "lat": 1, "latitude": 2, "GPSLongitude": 3}])
    with pytest.raises(ValueError, match="expected examples as"):
        as_examples([{"image": "a.jpg", "lat": 1}])


@pytest.mark.parametrize("cell", ["-", "<NA>", "\\N"])
def test_what_programs_write_for_nothing_is_missing(cell, tmp_path):
    path = written(tmp_path, "m.csv", f"image,lat,lon\na.jpg,{cell},{cell}\n")
    assert places(path) == {"a.jpg": None}


@pytest.mark.parametrize(
    ("lat", "lon", "words"),
    [
        ("33 deg 30' 0.00\" E", "1", "expected N or S of .*, got 'E'"),
        ("1", "33 deg 30' 0.00\" S", "expected E or W of .*, got 'S'"),
        ("33 deg 75' 0.00\" S", "1", "expected decimal degrees"),
        ("33 deg 30' 60.00\" S", "1", "expected decimal degrees"),
    ],
)
def test_degrees_of_another_axis_are_refused(lat, lon, words, tmp_path):
    text = f"SourceFile\tGPSLatitude\tGPSLongitude\na.jpg\t{lat}\t{lon}\n"
    with pytest.raises(ManifestError, match=words):
        read_manifest(written(tmp_path, "m.csv", text))


def test_columns_of_places_that_are_not_known_are_told_once(tmp_path, caplog):
    path = written(tmp_path, "m.csv", "image,breite,laenge\na.jpg,1,2\nb.jpg,1,2\n")
    assert places(path) == {"a.jpg": None, "b.jpg": None}
    assert caplog.text.count("got ['image', 'breite', 'laenge']; took all rows") == 1
    for errors in ("raise", "skip"):
        with pytest.raises(ManifestError, match=r"got .*'breite', 'laenge'.; name the") as refused:
            read_manifest(path, require_location=True, errors=errors)
        assert str(refused.value).count("expected columns") == 1


def test_points_of_geoparquet_are_read(tmp_path):
    frame = geopandas.GeoDataFrame(
        {"image": ["a.jpg", "b.jpg"], "note": [[1], [2]]},
        geometry=geopandas.points_from_xy([151.21, None], [-33.86, None], crs="EPSG:4326"),
    )
    frame.to_crs("EPSG:3857").to_parquet(tmp_path / "m.parquet")
    assert places(tmp_path / "m.parquet") == {"a.jpg": pytest.approx(SYDNEY), "b.jpg": None}


def test_integers_beside_features_without_them_stay_whole(tmp_path):
    features = [{**FEATURE, "properties": {"id": 7}}, {**FEATURE, "properties": {"file": "b.jpg"}}]
    features[0]["properties"]["file"] = "a.jpg"
    text = json.dumps({"type": "FeatureCollection", "features": features})
    records = read_manifest(written(tmp_path, "m.geojson", text))
    assert [record.id for record in records] == ["7", "b.jpg"]


def test_one_quote_costs_no_memory(tmp_path):
    path = written(tmp_path, "m.tsv", 'image\tlat\tlon\na.jpg\t1\t2\n"' + "x\n" * 500_000)
    tracemalloc.start()
    rows = read_rows(path)
    next(rows)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10e6, "ten bytes a letter"


@pytest.mark.parametrize(
    "rows",
    [
        'the "big" one\ta.jpg\t1\t2',
        '"Le Mont\ta.jpg\t1\t2',
        'x"\ta.jpg\t1\t2\n"y\tb.jpg\t1\t2\n5" lens\tc.jpg\t1\t2',
        '"a ""quoted"" cell"\t"a.jpg"\t1\t2',
        '"two\nlines"\t"a.jpg"\t1\t2',
        'a 5" lens\t"a.jpg"\t"1"\t2',
    ],
)
def test_quotes_between_tabs(rows, tmp_path):
    found = places(written(tmp_path, "m.tsv", "note\timage\tlat\tlon\n" + rows + "\n"))
    names = ["a.jpg", "b.jpg", "c.jpg"][: len(found)]
    assert found == dict.fromkeys(names, (1.0, 2.0))
    assert len(found) == rows.count(".jpg")


@pytest.mark.parametrize(
    "line",
    [
        'a.jpg, "48,85", "2,35"',
        '"a.jpg" , 48.85, 2.35',
        '"a.jpg" ,"48.85"  , "2.35" ',
        '"a.jpg",   "48.85",2.35',
        'a.jpg, 48.85 , "2.35"',
    ],
)
def test_spaces_before_quotes(line, tmp_path):
    assert places(written(tmp_path, "m.csv", f"image, lat, lon\n{line}\n")) == {
        "a.jpg": (48.85, 2.35)
    }


def test_delimiters_in_quotes_of_a_header_do_not_count(tmp_path):
    header = '"image";"lat";"lon";"note (a, b, c, d, e)"'
    path = written(tmp_path, "m.csv", f"{header}\na.jpg;48,85;2,35;x, y\n")
    assert places(path) == {"a.jpg": (48.85, 2.35)}


ROW = {"image": "a.jpg", "lat": SYDNEY[0], "lon": SYDNEY[1], "note": None}
FEATURE = {
    "type": "Feature",
    "properties": {"filename": "a.jpg", "note": {"x": 1}},
    "geometry": {"type": "Point", "coordinates": SYDNEY[::-1]},
}
POINT = "<Point><coordinates>151.21,-33.86,0</coordinates></Point>"
KML = (
    '<?xml version="1.0"?><kml xmlns="http://www.opengis.net/kml/2.2"><Document>'
    f"<Placemark><name>a.jpg</name>{POINT}</Placemark></Document></kml>"
)
GPX = (
    '<?xml version="1.0"?><gpx version="1.1" creator="x" xmlns="http://www.topografix.com/GPX/1/1">'
    '<wpt lat="-33.86" lon="151.21"><name>a.jpg</name></wpt>'
    '<trk><trkseg><trkpt lat="1" lon="2"/></trkseg></trk></gpx>'
)
MAPILLARY = {"id": "a.jpg", "geometry": {"type": "Point", "coordinates": SYDNEY[::-1]}}
TABLES = {
    "mapillary.json": json.dumps({"data": [MAPILLARY, MAPILLARY | {"id": "b.jpg"}]}),
    "flickr.json": json.dumps({"photos": {"page": 1, "photo": [{"id": "a.jpg", **ROW}]}}),
    "separators.jsonl": json.dumps({**ROW, "note": "a\u2028b\u0085c"}, ensure_ascii=False),
    "rows.jsonl": json.dumps(ROW) + "\n\n" + json.dumps({**ROW, "image": "b.jpg"}),
    "one.ndjson": json.dumps(ROW),
    "list.json": json.dumps([ROW, {"image": "b.jpg", "lat": -33.86, "lon": "151.21"}]),
    "coco.json": json.dumps({"info": {}, "images": [{"id": 1, "file_name": "a.jpg", **ROW}]}),
    "api.json": json.dumps({"data": [{"id": "a.jpg", "lat": SYDNEY[0], "lng": SYDNEY[1]}]}),
    "bom.json": "\ufeff" + json.dumps([ROW]),
    "json.csv": json.dumps([ROW]),
    "places.geojson": json.dumps({"type": "FeatureCollection", "features": [FEATURE]}),
    "feature.json": json.dumps(FEATURE),
    "features.jsonl": json.dumps(FEATURE) + "\n" + json.dumps(FEATURE).replace("a.jpg", "b.jpg"),
    "rfc8142.geojsons": f"\x1e{json.dumps(FEATURE)}\n\x1e{json.dumps(FEATURE)}\n".replace(
        "a.jpg", "b.jpg", 1
    ),
    "places.kml": KML,
    "kml.txt": KML,
    "places.gpx": GPX,
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_that_are_no_csv_are_read(name, tmp_path):
    found = places(written(tmp_path, name, TABLES[name]))
    names = [one for one in ("a.jpg", "b.jpg") if one in TABLES[name]]
    assert found == dict.fromkeys(names, SYDNEY)


def test_other_projections_and_archives_of_maps_are_read(tmp_path):
    frame = geopandas.GeoDataFrame(
        {"image": ["a.jpg", "b.jpg"]},
        geometry=geopandas.points_from_xy([151.21, None], [-33.86, None], crs="EPSG:4326"),
    )
    frame.to_crs("EPSG:3857").to_file(tmp_path / "m.gpkg")
    found = places(tmp_path / "m.gpkg")
    assert found == {"a.jpg": pytest.approx(SYDNEY), "b.jpg": None}
    with zipfile.ZipFile(tmp_path / "m.kmz", "w") as packed:
        packed.writestr("doc.kml", KML)
    assert places(tmp_path / "m.kmz") == {"a.jpg": SYDNEY}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("m.xlsx", b"PK\x03\x04 sheet", r"an archive \(.xlsx\); .* pandas.read_excel"),
        ("m.xls", b"\xd0\xcf\x11\xe0 sheet", "pandas.read_excel"),
        ("m.ods", b"PK\x03\x04 sheet", "pandas.read_excel"),
        ("m.geojson", "x" * 9000, "expected JSON, got"),
        ("m.json", '["a.jpg"]', "expected a list of objects in JSON, got"),
        ("m.json", "[" * 100_000, "expected JSON, got"),
        ("m.jsonl", '{"image": "a.jpg"}\n{"image', "expected JSON, got .* in line 2: '{\"image'"),
        ("m.json", "5", "expected a list of objects in JSON, got 5"),
        ("m.json", "null", "expected a list of objects in JSON, got None"),
        (
            "m.json",
            json.dumps([{"id": "a", "geometry": {"type": "LineString", "coordinates": [[1, 2]]}}]),
            "expected a point as geometry, got .*LineString",
        ),
        (
            "m.kml",
            '<?xml version="1.0"?><kml xmlns="http://www.opengis.net/kml/2.2"><Document/></kml>',
            "expected places of photos, got a map without any",
        ),
        ("m.kml", "x" * 9000, "expected a map such as KML or GPX, got"),
        ("m.kml", KML[:-40] * 400, "expected a map such as KML or GPX, got"),
        ("m.gpx", GPX.replace("wpt", "rte"), "tracks, which tell no photo; `exiftool -geotag`"),
        (
            "m.kml",
            KML.replace("Point", "LineString").replace(",0<", " 1,2<"),
            "expected places of photos, got a map without any; export it whole",
        ),
        ("m.kml", KML.replace("Placemark", "NetworkLink"), "a map without any; export it whole"),
        ("m.geojson", '{"type": "FeatureCollection", "features": []}', "a map without any"),
        ("m.html", "<html><body>404</body></html>", "a file that begins with '<html><body>404"),
        ("m.svg", "<svg/>", "expected a map such as KML or GPX, got a file that begins with '<svg"),
        ("m.kmz", b"PK\x03\x04", "expected a map such as KML or GPX, got a file that begins with"),
        ("m.csv.gz", gzip.compress(b"image", mtime=0), "got gzip, to be unpacked"),
        ("m.jpg", b"\xff\xd8\xff", r"got a photo \(.jpg\)"),
        ("m.feather", b"ARROW1", "got Feather"),
        ("m.json", "[]".encode("utf-16"), "got text in UTF-16"),
        ("m.json", '[{"image": {"url": "a.jpg"}}]', "row 2: expected the path .* got an object"),
        ("m.csv", "image,lat,lon\n" + "x" * 200_000 + ",1,2", "field larger than field limit"),
        (
            "m.csv",
            "place,lat,lon\nx,1,2\n",
            r"a column of \('image', .* got \['place', 'lat', 'lon'\]",
        ),
    ],
)
def test_what_is_no_manifest_is_named_in_short(name, content, words, tmp_path):
    with pytest.raises(ManifestError, match=words) as refused:
        read_manifest(written(tmp_path, name, content))
    assert len(str(refused.value)) < 800


def test_lines_and_areas_of_a_map_are_left_out_and_counted(tmp_path, caplog):
    line = KML[KML.index("<Placemark>") : KML.index("</Document>")].replace("Point", "LineString")
    text = KML.replace("</Document>", line.replace(",0<", " 1,2<") + "</Document>")
    assert places(written(tmp_path, "m.kml", text)) == {"a.jpg": SYDNEY}
    assert "m.kml: left out 1 that are no points (LineString)" in caplog.text


def test_the_photo_that_a_waypoint_links_to_is_its_own(tmp_path):
    (tmp_path / "b.jpg").touch()
    for link, name in (("b.jpg", "b.jpg"), ("https://x.org/b.jpg", "a.jpg")):
        text = GPX.replace("</name>", f'</name><link href="{link}"/>')
        assert places(written(tmp_path, "m.gpx", text)) == {name: SYDNEY}


def test_a_pipe_is_no_table(tmp_path):
    os.mkfifo(tmp_path / "m.csv")
    with pytest.raises(ManifestError, match="got a pipe or a device; save it to a file first"):
        read_manifest(tmp_path / "m.csv")


def test_a_table_of_a_geopackage_needs_no_geometry(tmp_path):
    pyogrio.write_dataframe(pandas.DataFrame([ROW]), tmp_path / "m.gpkg", driver="GPKG")
    assert places(tmp_path / "m.gpkg") == {"a.jpg": SYDNEY}


def test_a_name_that_is_too_long_is_a_row(tmp_path):
    path = written(tmp_path, "m.csv", f"image,lat,lon\n{'x' * 300},1,2\nb.jpg,1,2\n")
    assert [one.path.name for one in read_manifest(path, errors="skip")] == ["b.jpg"]
    with pytest.raises(ManifestError, match=r"row 2: expected the path .*: File name too long"):
        read_manifest(path)


def test_an_excel_sheet_is_named(tmp_path):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as packed:
        packed.writestr("xl/workbook.xml", "<workbook/>")
    with pytest.raises(ManifestError, match="a spreadsheet or an archive"):
        read_manifest(written(tmp_path, "m.csv", stream.getvalue()))
