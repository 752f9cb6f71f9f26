"""Manifests as people write them, and what they get to read when one is wrong."""

import logging
import re
from pathlib import Path

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.ExifTags import GPS, IFD
from pyarrow import parquet

from icgeo.data.manifest import ManifestError, Record, read_manifest
from icgeo.prediction import as_examples

ROWS = [("a.jpg", 48.85, 2.35), ("sub/b.jpg", -33.8688, 151.2093)]
HEADER = ("image", "latitude", "longitude")


def write_csv(
    folder: Path, *, header: tuple[str, ...] = HEADER, rows: object = ROWS, delimiter: str = ","
) -> Path:
    path = folder / "manifest.csv"
    lines = [delimiter.join(map(str, row)) for row in [header, *rows]]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_parquet(folder: Path, **columns: object) -> Path:
    path = folder / "manifest.parquet"
    parquet.write_table(pyarrow.table(columns), path)
    return path


def expected(folder: Path) -> list[Record]:
    return [Record(name, folder / name, lat, lon) for name, lat, lon in ROWS]


def message(path: Path, **options: bool) -> str:
    with pytest.raises(ManifestError) as caught:
        read_manifest(path, **options)
    return str(caught.value)


class TestCsv:
    @pytest.mark.parametrize("delimiter", [",", ";", "\t"])
    def test_delimiters(self, delimiter: str, tmp_path: Path):
        path = write_csv(tmp_path, delimiter=delimiter)
        assert read_manifest(path) == read_manifest(str(path)) == expected(tmp_path)

    @pytest.mark.parametrize(
        "header",
        [
            ("image", "latitude", "longitude"),
            ("path", "lat", "lon"),
            ("file", "lat", "lng"),
            ("filename", "Lat", "Long"),
            ("file_name", "LAT", "LON"),
            ("PHOTO", "LATITUDE", "LONGITUDE"),
            (" name ", " lat ", " lon "),
            ("IMG_ID", "LAT", "LON"),
            ("id", "latitude", "longitude"),
        ],
    )
    def test_usual_names_of_columns(self, header: tuple[str, ...], tmp_path: Path):
        assert read_manifest(write_csv(tmp_path, header=header)) == expected(tmp_path)

    def test_byte_order_mark_windows_lines_and_quotes(self, tmp_path: Path):
        path = tmp_path / "manifest.csv"
        path.write_bytes('\ufeffimage,lat,lon\r\n"São, Paulo.jpg", -23.55 ,-46.63\r\n'.encode())
        name = "São, Paulo.jpg"
        assert read_manifest(path) == [Record(name, tmp_path / name, -23.55, -46.63)]

    @pytest.mark.parametrize("line", ["a.jpg;48,85;2,35", "a.jpg;48.85;2.35"])
    def test_decimal_commas(self, line: str, tmp_path: Path):
        path = tmp_path / "manifest.csv"
        path.write_text(f"image;lat;lon\n{line}\n")
        assert read_manifest(path) == expected(tmp_path)[:1]

    def test_quoted_decimal_commas_between_commas(self, tmp_path: Path):
        path = tmp_path / "manifest.csv"
        path.write_text('image,lat,lon\na.jpg,"48,85","2,35"\n')
        assert read_manifest(path) == expected(tmp_path)[:1]

    def test_unquoted_decimal_commas_between_commas(self, tmp_path: Path):
        path = tmp_path / "manifest.csv"
        path.write_text("image,lat,lon\na.jpg,48,85,2,35\n")
        assert message(path) == (
            f"{path}, row 2: expected 3 cells as in the header, got 5; quote cells with a comma, "
            "or delimit by semicolons"
        )

    def test_ids_and_other_columns(self, tmp_path: Path):
        rows = [("one", "x", 2.35, 48.85, "a.jpg"), ("", "y", 151.2093, -33.8688, "sub/b.jpg")]
        path = write_csv(tmp_path, header=("ID", "note", "lon", "lat", "image"), rows=rows)
        assert read_manifest(path) == [
            Record("one", tmp_path / "a.jpg", 48.85, 2.35),
            Record("sub/b.jpg", tmp_path / "sub/b.jpg", -33.8688, 151.2093),
        ]

    def test_photos_without_locations(self, tmp_path: Path):
        rows = [("a.jpg", "", ""), ("b.jpg", "NaN", "null"), ("c.jpg",)]
        records = [Record(row[0], tmp_path / row[0]) for row in rows]
        path = write_csv(tmp_path, rows=rows)
        assert read_manifest(path) == records
        assert "expected photos with locations, found none" in message(path, require_location=True)
        path = write_csv(tmp_path, header=("image",), rows=[row[:1] for row in rows])
        assert read_manifest(path) == records

    def test_longitudes_are_wrapped(self, tmp_path: Path):
        rows = [("a", 0, 180), ("b", 90, -180), ("c", -90, 270.5), ("d", 1, 179.9)]
        records = read_manifest(write_csv(tmp_path, rows=rows))
        assert [record.lon for record in records] == [-180, -180, -89.5, 179.9]

    def test_empty_rows_are_skipped_but_counted(self, tmp_path: Path):
        path = tmp_path / "manifest.csv"
        path.write_text('image,lat,lon\n\n,,\n"two\nlines.jpg",1,2\nbad.jpg,north,2\n')
        assert re.search(r"row 5: expected decimal degrees .* got 'north'", message(path))


class TestParquet:
    @pytest.mark.parametrize("suffix", [".parquet", ".dat"])
    def test_is_known_by_its_content(self, suffix: str, tmp_path: Path):
        names, lats, lons = map(list, zip(*ROWS, strict=True))
        path = write_parquet(tmp_path, Image=names, other=[{"x": 1}, {"x": 2}], LAT=lats, lng=lons)
        assert read_manifest(path.rename(path.with_suffix(suffix))) == expected(tmp_path)

    def test_types_of_columns(self, tmp_path: Path):
        path = write_parquet(
            tmp_path,
            id=pyarrow.array([7, 8, 9]),
            image=pyarrow.array(["a", "b", "c"]).dictionary_encode(),
            lat=pyarrow.array([48.85, None, float("nan")], pyarrow.float32()),
            lon=pyarrow.array([2, None, None], pyarrow.int64()),
        )
        assert read_manifest(path) == [
            Record("7", tmp_path / "a", 48.85, 2.0),
            Record("8", tmp_path / "b"),
            Record("9", tmp_path / "c"),
        ]

    def test_rows_are_counted_over_groups(self, tmp_path: Path):
        names = [f"{number}.jpg" for number in range(10)]
        table = pyarrow.table({"image": names, "lat": [1.0] * 9 + [91.0], "lon": [1.0] * 10})
        path = tmp_path / "manifest.parquet"
        parquet.write_table(table, path, row_group_size=3)
        assert message(path).startswith(f"{path}, row 11: expected latitude")

    def test_pictures_inside_are_refused(self, tmp_path: Path):
        path = write_parquet(tmp_path, image=[{"bytes": b"x", "path": "a.jpg"}])
        assert re.match(rf"{path}: expected Parquet with text and numbers, got ", message(path))

    def test_a_truncated_file(self, tmp_path: Path):
        path = write_parquet(tmp_path, image=["a.jpg"])
        path.write_bytes(path.read_bytes()[:-20])
        assert message(path).startswith(f"{path}: expected Parquet")


class TestErrors:
    @pytest.mark.parametrize(
        ("row", "finding"),
        [
            (
                ("a.jpg", 139.7, 35.7),
                "expected latitude in [-90, 90] degrees, got 139.7; are the columns swapped?",
            ),
            (
                ("a.jpg", 139.7, 135.7),
                "expected latitude in [-90, 90] degrees, got 139.7; give it in degrees",
            ),
            (
                ("a.jpg", 4.5, 48512),
                "expected longitude in [-180, 180] degrees, got 48512; give it in degrees",
            ),
            (
                ("a.jpg", "", 2.35),
                "expected latitude and longitude, got only one: '', '2.35'; give both or neither",
            ),
            (
                ("a.jpg", 48.85, "nan"),
                "expected latitude and longitude, got only one: '48.85', 'nan'; "
                "give both or neither",
            ),
            (
                ("a.jpg", "48°51'N", 2.35),
                'expected decimal degrees such as -33.86, got "48°51\'N"; convert it',
            ),
            (("a.jpg", 1, "inf"), "expected decimal degrees such as -33.86, got 'inf'; convert it"),
            (("", 1, 2), "expected the path of a photo, got an empty cell; fill it"),
        ],
    )
    def test_name_file_row_value_and_remedy(
        self, row: tuple[object, ...], finding: str, tmp_path: Path
    ):
        path = write_csv(tmp_path, rows=[ROWS[1], row])
        assert message(path) == f"{path}, row 3: {finding}"

    def test_five_bad_rows_are_told_and_the_others_counted(self, tmp_path: Path):
        rows = [(f"{number}.jpg", "x" if number % 2 else 1, 2) for number in range(16)]
        lines = message(write_csv(tmp_path, rows=rows)).split("\n")
        assert [re.search(r"row (\d+):", line)[1] for line in lines[:-1]] == [
            "3",
            "5",
            "7",
            "9",
            "11",
        ]
        assert lines[-1].endswith(": 8 rows or photos in all, the others likewise")

    def test_bad_rows_can_be_skipped(self, tmp_path: Path, caplog: pytest.LogCaptureFixture):
        rows = [ROWS[0], ("x.jpg", 1, "east"), ROWS[1], ("../y.jpg", 1, 2)]
        path = write_csv(tmp_path, rows=rows)
        with caplog.at_level(logging.WARNING):
            assert read_manifest(path, errors="skip") == expected(tmp_path)
        assert [re.search(r"row \d", line)[0] for line in caplog.messages] == ["row 3", "row 5"]
        assert all(line.endswith("; skipped") for line in caplog.messages)

    def test_nothing_is_left(self, tmp_path: Path):
        path = write_csv(tmp_path, rows=[("x.jpg", 1, "east")])
        with pytest.raises(ManifestError, match="expected photos, found none"):
            read_manifest(path, errors="skip")

    def test_an_id_twice(self, tmp_path: Path):
        path = write_csv(tmp_path, rows=[*ROWS, ROWS[0]])
        assert message(path) == (
            f"{path}, row 4: expected a new id, got 'a.jpg' of row 2 again; remove the row, or "
            "tell them apart in a column 'id'"
        )

    @pytest.mark.parametrize(
        ("content", "finding"),
        [
            ("", "expected a header with a column of ('image', "),
            ("\n\nimage\na.jpg\n", "expected a header with a column of ('image', "),
            ("picture,lat,lon\na.jpg,1,2\n", "got ['picture', 'lat', 'lon']; name the columns"),
            ("image,lat\na.jpg,1\n", "expected columns of ('latitude', 'lat', "),
            ("image,lon\na.jpg,1\n", "or neither, got ['image', 'lon']"),
            ("image,lat,LAT,lon\na.jpg,1,1,2\n", "expected one column 'lat', got two; rename one"),
            ("image,lat,lon\n", "expected photos, found none; add a row for each photo"),
            ("image\n\n\n", "expected photos, found none"),
            ('image,lat,lon\n"a.jpg,1,2\n', "expected CSV, got in line 2: unexpected end of data"),
            (b"image,lat,lon\n\xe9t\xe9.jpg,1,2\n", "expected text in UTF-8, got 'utf-8' codec"),
            (b"PK\x03\x04\xff\xff spreadsheet", "save as CSV UTF-8"),
        ],
    )
    def test_files_that_are_no_manifest(self, content: str | bytes, finding: str, tmp_path: Path):
        path = tmp_path / "manifest.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        assert message(path).startswith(f"{path}: ")
        assert finding in message(path)

    def test_missing_file(self, tmp_path: Path):
        path = tmp_path / "nowhere.csv"
        assert message(path) == f"{path}: expected a manifest, found no such file; check the path"

    @given(st.binary(max_size=200), st.sampled_from([b"", b"PAR1", b"image,lat,lon\n"]))
    def test_any_bytes_give_records_or_a_manifest_error(
        self, tmp_path_factory: pytest.TempPathFactory, content: bytes, head: bytes
    ):
        path = tmp_path_factory.getbasetemp() / "any.csv"
        path.write_bytes(head + content)
        try:
            records = read_manifest(path)
        except ManifestError as error:
            assert str(error).startswith(str(path))  # noqa: PT017
        else:
            assert all(record.id for record in records)


class TestOutside:
    @pytest.mark.parametrize(
        "name", ["../a.jpg", "sub/../../a.jpg", "/etc/passwd", "link/a.jpg", "link.jpg"]
    )
    def test_paths_that_leave_the_folder_are_refused(self, name: str, tmp_path: Path):
        folder = tmp_path / "photos"
        folder.mkdir()
        (folder / "link").symlink_to(tmp_path)
        (folder / "link.jpg").symlink_to(tmp_path / "a.jpg")
        path = write_csv(folder, rows=[(name, 1, 2)])
        assert message(path) == (
            f"{path}, row 2: expected a photo in the manifest's folder, got {name!r}, which leaves "
            "it; move it there, or allow it (allow_outside) if you trust the manifest"
        )
        assert read_manifest(path, allow_outside=True)[0].path == folder / name

    def test_paths_that_stay_are_fine(self, tmp_path: Path):
        (tmp_path / "within.jpg").symlink_to(tmp_path / "a.jpg")
        names = ["sub/../a.jpg", str(tmp_path / "b.jpg"), "within.jpg", "..a.jpg"]
        path = write_csv(tmp_path, rows=[(name, 1, 2) for name in names])
        assert [record.path for record in read_manifest(path)] == [
            tmp_path / name for name in names
        ]

    def test_a_manifest_reached_by_a_link_keeps_its_folder(self, tmp_path: Path):
        folder = tmp_path / "real"
        folder.mkdir()
        write_csv(folder)
        (tmp_path / "alias").symlink_to(folder)
        assert read_manifest(tmp_path / "alias/manifest.csv") == expected(tmp_path / "alias")

    def test_a_manifest_in_the_working_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        write_csv(tmp_path)
        monkeypatch.chdir(tmp_path)
        assert [record.path for record in read_manifest("manifest.csv")] == [
            Path("a.jpg"),
            Path("sub/b.jpg"),
        ]

    @pytest.mark.parametrize("name", ["a\0.jpg", "loop"])
    def test_impossible_paths(self, name: str, tmp_path: Path):
        (tmp_path / "loop").symlink_to(tmp_path / "loop")
        path = write_csv(tmp_path, rows=[(name, 1, 2), *ROWS])
        try:
            records = read_manifest(path)
        except ManifestError as error:
            assert "row 2: expected the path of a photo" in str(error)  # noqa: PT017
        else:  # since Python 3.13 a loop of links resolves to itself
            assert name == "loop"
            assert len(records) == 3


def save_photo(path: Path, place: tuple[float, float] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if place:
        exif[IFD.GPSInfo] = {
            GPS.GPSLatitudeRef: "N",
            GPS.GPSLatitude: place[0],
            GPS.GPSLongitudeRef: "E",
            GPS.GPSLongitude: place[1],
        }
    Image.new("RGB", (8, 8)).save(path, "JPEG", exif=exif.tobytes())


class TestFolder:
    def test_photos_are_found_below_in_order(self, tmp_path: Path):
        save_photo(tmp_path / "b.jpg", (48.5, 2.25))
        save_photo(tmp_path / "a/z.JPEG", (10.0, 20.0))
        save_photo(tmp_path / "c.jpg")
        save_photo(tmp_path / ".hidden/d.jpg")
        save_photo(tmp_path / "._b.jpg")
        (tmp_path / "notes.txt").write_text("not a photo")
        (tmp_path / "folder.jpg").mkdir()
        assert read_manifest(tmp_path) == [
            Record("a/z.JPEG", tmp_path / "a/z.JPEG", 10.0, 20.0),
            Record("b.jpg", tmp_path / "b.jpg", 48.5, 2.25),
            Record("c.jpg", tmp_path / "c.jpg"),
        ]

    def test_photos_that_cannot_be_read(self, tmp_path: Path):
        save_photo(tmp_path / "a.jpg", (48.5, 2.25))
        (tmp_path / "b.jpg").touch()
        with pytest.raises(ManifestError, match=r"b\.jpg: photo .*b\.jpg: .* an empty file"):
            read_manifest(tmp_path)
        assert [record.id for record in read_manifest(tmp_path, errors="skip")] == ["a.jpg"]

    def test_links_that_leave_the_folder(self, tmp_path: Path):
        save_photo(tmp_path / "outside.jpg", (48.5, 2.25))
        folder = tmp_path / "photos"
        folder.mkdir()
        (folder / "link.jpg").symlink_to(tmp_path / "outside.jpg")
        assert "got 'link.jpg', which leaves it" in message(folder)
        assert read_manifest(folder, allow_outside=True)[0].lat == 48.5

    def test_a_folder_without_photos(self, tmp_path: Path):
        assert "expected photos, found none; put some there" in message(tmp_path)


@pytest.mark.parametrize(
    "header",
    [
        ("image", "decimalLatitude", "decimalLongitude"),
        ("SourceFile", "GPSLatitude", "GPSLongitude"),
        ("file", "gps_latitude", "gps_longitude"),
    ],
)
def test_columns_of_gbif_and_exiftool_are_known(header, tmp_path):
    path = tmp_path / "m.csv"
    path.write_text(",".join(header) + "\na.jpg,-33.86,151.21\n")
    (record,) = read_manifest(path)
    assert record.lat_lon == (-33.86, 151.21)


def test_rows_at_exactly_zero_have_no_location(tmp_path, caplog):
    path = tmp_path / "m.csv"
    path.write_text("image,lat,lon\na.jpg,0,0.0\nb.jpg,0,0.1\nc.jpg,,\n")
    assert [record.lat_lon for record in read_manifest(path)] == [None, (0.0, 0.1), None]
    assert "took 1 rows at 0, 0 as without a location" in caplog.text


def test_photos_without_a_place_are_left_out_of_examples_and_counted(tmp_path, caplog):
    names = ("a.jpg", "b.jpg", "c.jpg")
    for name, place in zip(names, [(48.5, 2.25), (0.0, 0.0), None], strict=True):
        save_photo(tmp_path / name, place)
    path = tmp_path / "m.csv"
    path.write_text("image,lat,lon\na.jpg,48.5,2.25\nb.jpg,0,0\nc.jpg,,\n")
    for source in (tmp_path, path):
        caplog.clear()
        (example,) = as_examples(source)
        assert (example.lat, example.lon) == (48.5, 2.25)
        assert f"{source}: left out 2 photos without a location" in caplog.text
    (told,) = as_examples([(tmp_path / "b.jpg", (0, 0))])
    assert (told.lat, told.lon) == (0, 0), "the caller's word"


def test_an_id_finds_its_photo_without_an_ending(tmp_path):
    (tmp_path / "3859149887465501.jpg").write_bytes(b"x")
    path = tmp_path / "test.csv"
    path.write_text("id,latitude,longitude\n3859149887465501,39.5,9.4\n385,1,2\n")
    assert [record.path.name for record in read_manifest(path)] == ["3859149887465501.jpg", "385"]


def test_long_cells_are_quoted_in_part(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text(f"image,lat,lon\na.jpg,{'9' * 5000}x,2\n" + f"b.jpg,3_3.8,{'1'}\n")
    text = message(path)
    assert len(text) < 1500
    assert "got '3_3.8'; convert it" in text


def test_thumbnails_of_a_nas_are_no_photos(tmp_path):
    for name in ("a.jpg", "@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg", ".hidden/b.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    assert [record.id for record in read_manifest(tmp_path)] == ["a.jpg"]
