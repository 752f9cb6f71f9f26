"""Tables as exports of other programs have them, read as manifests, or refused by name."""

import io
import json
import zipfile

import geopandas
import pandas
import pytest

import icgeo
from icgeo.data.manifest import ManifestError, read_manifest

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
    "line", ['a.jpg, "48,85", "2,35"', '"a.jpg",   "48.85",2.35', 'a.jpg, 48.85 , "2.35"']
)
def test_spaces_before_quotes(line, tmp_path):
    assert places(written(tmp_path, "m.csv", f"image, lat, lon\n{line}\n")) == {
        "a.jpg": (48.85, 2.35)
    }


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
TABLES = {
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
        ("m.jsonl", '{"image": "a.jpg"}\n{"image', "expected JSON, got"),
        ("m.kml", "x" * 9000, "expected a map such as KML or GPX, got"),
        ("m.kml", KML[:-40] * 400, "expected a map such as KML or GPX, got"),
        ("m.gpx", GPX.replace("wpt", "rte"), "tracks, which tell no photo; `exiftool -geotag`"),
        (
            "m.kml",
            KML.replace("Point", "LineString").replace(",0<", " 1,2<"),
            "row 2: expected decimal degrees .* got 'LineS",
        ),
        ("m.html", "<html><body>404</body></html>", "expected a map such as KML or GPX, got"),
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


def test_an_excel_sheet_is_named(tmp_path):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as packed:
        packed.writestr("xl/workbook.xml", "<workbook/>")
    with pytest.raises(ManifestError, match="a spreadsheet or an archive"):
        read_manifest(written(tmp_path, "m.csv", stream.getvalue()))
