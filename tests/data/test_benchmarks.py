"""Published benchmarks, in small sets of the format that their authors lay them out in."""

import gc
import logging
import tracemalloc
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import benchmark_samples as samples
import numpy as np
import pyarrow
import pytest
from benchmark_samples import PLACES
from pyarrow import parquet

import icgeo.data
from icgeo.data import BENCHMARKS, BenchmarkError, BenchmarkRecord, Skipped, read_photo

FLICKR = ["104123223_7410c654ba_19_19355699@N00.jpg", "Ankara_00003_6.jpg", "9_a.jpg"]
NESTED = ["e1/11/1.jpg", "e1/12/2.jpg", "00/a7/3.jpg"]
FORMATS: dict[str, tuple[str, str, Callable[[Path], None]]] = {
    "osv5m": ("osv5m", "test", samples.street_view),
    "osv5m train": ("osv5m", "train", lambda root: samples.street_view(root, "train")),
    "osv5m human": ("osv5m", "human", samples.human),
    "osv5m shards": ("osv5m", "test", samples.shards),
    "yfcc4k": (
        "yfcc4k",
        "test",
        lambda root: samples.places365(root, "yfcc4k_places365.csv", "images", FLICKR),
    ),
    "yfcc4k as packed": ("yfcc4k", "test", samples.yfcc100m),
    "yfcc26k": (
        "yfcc26k",
        "test",
        lambda root: samples.places365(root, "yfcc25600_places365.csv", "images", NESTED),
    ),
    "im2gps": (
        "im2gps",
        "test",
        lambda root: samples.places365(root, "im2gps_places365.csv", "img", FLICKR),
    ),
    "im2gps3k": (
        "im2gps3k",
        "test",
        lambda root: samples.places365(root, "im2gps3k_places365.csv", "im2gps3ktest", FLICKR),
    ),
    "gws15k": ("gws15k", "test", samples.street_views_of_users),
    "inat21": ("inat21", "val", samples.inaturalist),
    "mp16": (
        "mp16",
        "train",
        lambda root: samples.places365(root, "mp16_places365.csv", "images/mp16", NESTED),
    ),
}


@pytest.mark.parametrize("case", FORMATS)
def test_each_is_read_in_its_format(case: str, tmp_path: Path):
    name, split, write = FORMATS[case]
    write(tmp_path)
    benchmark = icgeo.data.open(name, tmp_path, split=split)
    records = list(benchmark)
    assert [(record.lat, record.lon) for record in records] == PLACES
    assert len({record.id for record in records}) == 3
    assert all(read_photo(record.image).size == (8, 6) for record in records)
    assert benchmark.skipped == ({"no location": 2} if name == "inat21" else {})
    assert [record.id for record in benchmark] == [record.id for record in records]


def test_all_of_them_say_whence_and_under_which_licence():
    expected = {"osv5m", "yfcc4k", "yfcc26k", "im2gps", "im2gps3k", "gws15k", "inat21", "mp16"}
    assert set(BENCHMARKS) == expected == {name for name, *_ in FORMATS.values()}
    for benchmark in BENCHMARKS.values():
        assert all((benchmark.licence, benchmark.source, benchmark.citation, benchmark.title))


def test_labels_are_those_of_the_files(tmp_path: Path):
    samples.street_view(tmp_path)
    first = next(iter(icgeo.data.open("osv5m", tmp_path)))
    assert first.id == "3859149887465501"
    assert first.labels == {"country": "NZ", "region": "Chatham Islands", "city": "Waitangi"}
    samples.human(tmp_path)
    first = next(iter(icgeo.data.open("osv5m", tmp_path, split="human")))
    assert first.labels == {"country": "NZ", "area": "Timaru District"}


def test_mp16_pro_has_flat_names_of_files(tmp_path: Path):
    samples.places365(tmp_path, "metadata/MP16_Pro_filtered.csv", "elsewhere", NESTED)
    for id in NESTED:
        samples.photo(tmp_path / "mp-16-images" / id.replace("/", "_"))
    records = list(icgeo.data.open("mp16", tmp_path))
    assert [Path(str(record.image)).name for record in records] == [
        id.replace("/", "_") for id in NESTED
    ]


def test_a_hub_data_set_is_streamed(tmp_path: Path):
    """A folder of Parquet stands in for the hub: `datasets` takes either."""
    samples.photo(tmp_path / "a.jpg")
    image = {"bytes": (tmp_path / "a.jpg").read_bytes(), "path": None}
    (tmp_path / "a.jpg").unlink()
    rows = {
        "image": [image] * 3,
        "id": ["a", "b", "c"],
        "latitude": [lat for lat, _ in PLACES],
        "longitude": [lon for _, lon in PLACES],
        "country": ["NZ", None, ""],
    }
    parquet.write_table(pyarrow.table(rows), tmp_path / "test-00000-of-00001.parquet")
    records = list(icgeo.data.open("osv5m", hub=str(tmp_path)))
    assert [(record.id, record.lat, record.lon) for record in records] == [
        (id, *place) for id, place in zip("abc", PLACES, strict=True)
    ]
    assert [record.labels for record in records] == [{"country": "NZ"}, {}, {}]
    assert read_photo(records[2].image).size == (8, 6)
    with pytest.raises(BenchmarkError, match=r"a data set '.*lost' with a split 'test' on the hub"):
        icgeo.data.open("osv5m", hub=str(tmp_path / "lost"))


class TestSchema:
    def test_what_is_missing_is_named_with_its_source(self, tmp_path: Path):
        with pytest.raises(BenchmarkError, match=r"a benchmark of osv5m, .*, got 'imagenet'"):
            icgeo.data.open("imagenet", tmp_path)
        with pytest.raises(BenchmarkError, match=r"a split of osv5m of .*'human'.*, got 'val'"):
            icgeo.data.open("osv5m", tmp_path, split="val")
        with pytest.raises(BenchmarkError, match="a folder of osv5m or the id of a data set"):
            icgeo.data.open("osv5m")
        with pytest.raises(BenchmarkError, match=r"expected a folder .*lost, found none; get it"):
            icgeo.data.open("osv5m", tmp_path / "lost")
        (tmp_path / "train.csv").touch()
        wanted = (
            r"expected test.csv or shards \*.tar in .*, found train.csv in .*; get it from: hub"
        )
        with pytest.raises(BenchmarkError, match=wanted):
            icgeo.data.open("osv5m", tmp_path)

    def test_photos_that_are_not_unpacked(self, tmp_path: Path):
        samples.street_view(tmp_path, photos=False)
        (tmp_path / "images").mkdir()
        with pytest.raises(BenchmarkError, match=r"folder .*images/test, found images, .*unpack"):
            icgeo.data.open("osv5m", tmp_path)
        benchmark = icgeo.data.open("osv5m", tmp_path, images=tmp_path / "images")
        assert {row.kind for row in benchmark.rows() if isinstance(row, Skipped)} == {"no image"}
        with pytest.raises(BenchmarkError, match=r"skipped all rows: \{'no image': 3\}; get it"):
            list(benchmark)

    def test_another_column(self, tmp_path: Path):
        samples.street_view(tmp_path)
        text = (tmp_path / "test.csv").read_text().replace("latitude", "y {coordinate}", 1)
        (tmp_path / "test.csv").write_text(text)
        wanted = r"a column 'latitude' or .* in .*test.csv, found \['id', 'y \{coordinate\}'.*get"
        with pytest.raises(BenchmarkError, match=wanted):
            icgeo.data.open("osv5m", tmp_path)

    def test_a_table_without_rows(self, tmp_path: Path):
        samples.street_view(tmp_path, count=0)
        (tmp_path / "images" / "test").mkdir(parents=True)
        with pytest.raises(
            BenchmarkError, match=r"expected rows of OpenStreetView-5M in .*found no"
        ):
            icgeo.data.open("osv5m", tmp_path)

    def test_the_table_of_im2gps3k_whose_names_are_exchanged(self, tmp_path: Path):
        """As in its first version: LON above latitudes, which would go unseen near the equator."""
        samples.places365(tmp_path, "im2gps3k_places365.csv", "images", FLICKR)
        path = tmp_path / "im2gps3k_places365.csv"
        path.write_text(path.read_text().replace("LAT,LON", "LON,LAT"))
        with pytest.raises(BenchmarkError, match="expected 'lat' before 'lon', as in the version"):
            icgeo.data.open("im2gps3k", tmp_path)


class TestBadRows:
    def test_each_is_skipped_with_a_reason(self, tmp_path: Path):
        samples.street_view(tmp_path)
        good, *rest = (tmp_path / "test.csv").read_text().splitlines()[1:]
        id = good.split(",")[0]
        bad = {
            "id again": good,
            "no id": good.replace(id, "", 1),
            "no location": good.replace(id, "1").replace("-43.8048,-176.6141", "nan,"),
            "bad location": good.replace(id, "2").replace("-43.8048,-176.6141", "139.7,35.7"),
            "no image": good.replace(id, "12345"),
            "bad row": 'an "unclosed, quote',
        }
        more = [
            good.replace(id, "3").replace("-43.8048", "inf"),
            good.replace(id, "4").replace("-176.6141", ""),
            good.replace(id, "../../etc/passwd"),
            good.replace(id, "5\0"),
            good + ",one,cell,more",
            '"' * 7,
            "\ufffd" * 9,
        ]
        header = (tmp_path / "test.csv").read_text().splitlines()[0]
        lines = [header, good, *bad.values(), "", *rest, *more]
        (tmp_path / "test.csv").write_text("\n".join(lines), encoding="utf-8")
        benchmark = icgeo.data.open("osv5m", tmp_path)
        rows = list(benchmark.rows())
        skipped = [row for row in rows if isinstance(row, Skipped)]
        assert sum(isinstance(row, BenchmarkRecord) for row in rows) == 3
        assert [row.kind for row in skipped[: len(bad)]] == list(bad)
        assert [row.kind for row in skipped[len(bad) :]] == [
            "bad location", "bad location", "no image", "no image", "bad row", "bad row", "bad row",
        ]  # fmt: skip
        assert [row.place for row in skipped[: len(bad)]] == [f"row {n}" for n in range(3, 9)]
        assert "are the columns swapped?" in skipped[3].reason
        assert len(list(benchmark)) == 3
        assert benchmark.skipped == Counter(row.kind for row in skipped)

    def test_they_are_summed_up_in_the_log(self, tmp_path: Path, caplog: pytest.LogCaptureFixture):
        samples.inaturalist(tmp_path)
        with caplog.at_level(logging.WARNING):
            list(icgeo.data.open("inat21", tmp_path))
        assert "inat21 (val): 3 photos, skipped {'no location': 2}" in caplog.text
        assert "its authors count 100000 photos, here are 5 rows" in caplog.text

    def test_a_json_file_that_breaks_off(self, tmp_path: Path):
        samples.inaturalist(tmp_path)
        path = tmp_path / "val.json"
        path.write_text(path.read_text()[:700])
        *good, last = icgeo.data.open("inat21", tmp_path).rows()
        assert [(row.lat, row.lon) for row in good] == PLACES[: len(good)]
        assert last.kind == "broken file"

    def test_shards_that_break_off_or_lack_files(self, tmp_path: Path):
        samples.shards(tmp_path, count=6, per_shard=2)
        first, second = tmp_path / "0000.tar", tmp_path / "0001.tar"
        first.write_bytes(first.read_bytes()[:1000])
        second.write_bytes(second.read_bytes().replace(b"10.jpg", b"10.txt").replace(b"{", b"("))
        rows = list(icgeo.data.open("osv5m", tmp_path).rows())
        assert Counter(row.kind for row in rows if isinstance(row, Skipped)) == {
            "bad row": 2, "broken file": 1,
        }  # fmt: skip
        assert [row.id for row in rows if isinstance(row, BenchmarkRecord)] == ["14", "15"]


class TestMemory:
    @staticmethod
    def peak(read: Callable[[], object]) -> int:
        """Return the peak of what Python allocates, with its usual collection of garbage."""
        gc.collect()
        threshold = gc.get_threshold()
        gc.set_threshold(700, 10, 10)  # conftest's lets garbage of many rows lie about
        tracemalloc.start()
        try:
            read()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            gc.set_threshold(*threshold)

    @staticmethod
    def many(root: Path, count: int) -> Path:
        samples.street_view(root, count=count, photos=False)
        folder = root / "images" / "test"
        folder.mkdir(parents=True, exist_ok=True)
        return root

    @pytest.mark.parametrize(
        ("kind", "few", "many"),
        [
            ("table", 60, 600),
            pytest.param("shards", 20, 200, marks=pytest.mark.slow),
            pytest.param("table", 400, 4000, marks=pytest.mark.slow),
            pytest.param("shards", 200, 2000, marks=pytest.mark.slow),
        ],
    )
    def test_it_does_not_grow_with_the_data_set(
        self, kind: str, few: int, many: int, tmp_path: Path
    ):
        peaks = []
        for count in (few, few, many):  # the first for imports and caches
            root = tmp_path / str(count)
            if kind == "table":
                self.many(root, count)
            else:
                samples.shards(root, count=count, per_shard=count)
            read = partial(icgeo.data.open, "osv5m", root)
            peaks.append(self.peak(lambda read=read: sum(1 for _ in read().rows())))
        assert peaks[2] < 1.2 * peaks[1] + 20_000

    def test_a_line_without_end_does_not_fill_it(self, tmp_path: Path):
        root = self.many(tmp_path, 1)
        with (root / "test.csv").open("a") as stream:
            stream.write("9" * 20_000_000)
        assert self.peak(lambda: list(icgeo.data.open("osv5m", root).rows())) < 10_000_000


def test_a_photo_in_a_shard_is_read_by_its_place(tmp_path: Path):
    samples.shards(tmp_path)
    record, *_ = icgeo.data.open("osv5m", tmp_path)
    assert isinstance(record.image, icgeo.data.StoredPhoto)
    assert record.image.read()[:3] == b"\xff\xd8\xff"
    assert np.asarray(read_photo(record.image)).shape == (6, 8, 3)
    broken = icgeo.data.StoredPhoto(record.image.path, record.image.offset, 20)
    with pytest.raises(icgeo.data.PhotoError, match=r"photo in .*0000.tar at byte \d+: expected"):
        read_photo(broken)
