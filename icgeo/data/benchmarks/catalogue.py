"""What is known of each benchmark, as data: licence, source, files, columns, where photos lie.

Conventions: paths are relative to the folder that a benchmark was unpacked to; columns are found by
name in any case, the first of several names that a file has.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from icgeo.data.manifest import LATITUDE_COLUMNS, LONGITUDE_COLUMNS


@dataclass(frozen=True)
class Columns:
    """Names of the columns that count, each with its alternatives."""

    id: tuple[str, ...] = ("id",)
    image: tuple[str, ...] = ("id",)
    suffix: str = ""
    """Of the photo's file, where the column leaves it out."""
    lat: tuple[str, ...] = LATITUDE_COLUMNS
    lon: tuple[str, ...] = LONGITUDE_COLUMNS
    labels: tuple[str, ...] = ("continent", "country", "region", "sub-region", "area", "city")
    """Taken where the file has them."""
    lat_first: bool = False
    """Whether a table with the longitude first is one whose names are exchanged."""


@dataclass(frozen=True)
class SplitFiles:
    """The files of one split of a benchmark as they lie on disk."""

    split: str
    table: str
    """A file with one row a photo."""
    images: tuple[str, ...]
    """Folders that photos may lie in, or in a folder of these; those that exist are searched."""
    rows: int | None
    """How many its authors count."""
    columns: Columns
    format: Literal["csv", "coco"] = "csv"
    """Rows of text, or objects in the list `images` of a JSON file (as COCO)."""
    delimiter: str = ","
    header: tuple[str, ...] | None = None
    """Names of the columns, of a table that does not name them."""


@dataclass(frozen=True)
class Benchmark:
    """A published benchmark."""

    title: str
    licence: str
    source: str
    """Where to get it."""
    citation: str
    files: tuple[SplitFiles, ...]
    """The first split is the default; of several for one split the first with a table counts."""
    notes: str = ""

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, the default first."""
        return tuple(dict.fromkeys(files.split for files in self.files))


_STREET_VIEW = Columns(suffix=".jpg")
_SELECTED = replace(_STREET_VIEW, lat=("latitude", "true_lat"), lon=("longitude", "true_lon"))
_PLACES365 = Columns(
    id=("IMG_ID",),
    image=("IMG_ID",),
    lat=("LAT",),
    lon=("LON",),
    labels=("continent", "country", "region", "state", "county", "city", "neighbourhood"),
)
_PHOTO_ID = Columns(id=("photo_id",), image=("photo_id",), suffix=".jpg", labels=())
_YFCC100M = (
    "line", "photo_id", "hash", "user", "nickname", "taken", "uploaded", "device", "title",
    "description", "tags", "machine_tags", "longitude", "latitude", "accuracy", "page", "download",
    "licence", "licence_url", "server", "farm", "secret", "original_secret", "extension", "marker",
)  # fmt: skip
_GWS15K = Columns(
    id=("IMG_FILE", "IMG_ID", "image_id", "id"),
    image=("IMG_FILE", "IMG_ID", "image_file", "image_id", "id"),
)
_LAT_FIRST = replace(_PLACES365, lat_first=True)
_INATURALIST = Columns(
    image=("file_name",), labels=("supercategory", "name", "location_uncertainty", "date")
)
_SELECT = ("select", "game/select", "images/test")
_IM2GPS3K = ("im2gps3ktest", "im2gps3k")
_MP16 = ("images", "mp16", "mp-16-images")
_FLICKR = "each photo under the licence that its photographer chose on Flickr"
_GEOESTIMATION = "github.com/TIBHannover/GeoEstimation"
_REVISITED = "github.com/lugiavn/revisiting-im2gps"
_VO = "Vo, Jacobs and Hays, Revisiting IM2GPS in the Deep Learning Era, ICCV 2017"
_LARSON = "Larson et al., The Benchmarking Initiative for Multimedia Evaluation, MediaEval 2016"
_MUELLER = "Mueller-Budack, Pustu-Iren and Ewerth, Geolocation Estimation of Photos, ECCV 2018"


def _test(table: str, rows: int | None, *images: str, columns: Columns = _PLACES365) -> SplitFiles:
    return SplitFiles("test", table, ("images", "img", *images), rows, columns)


BENCHMARKS: Mapping[str, Benchmark] = MappingProxyType(
    {
        "osv5m": Benchmark(
            title="OpenStreetView-5M",
            licence="CC-BY-SA-4.0",
            source="hub data set osv5m/osv5m: download it as files and unpack images/*/*.zip; "
            "the human set: select.csv and select/ in game/ of github.com/gastruc/osv5m",
            citation="Astruc et al., OpenStreetView-5M, CVPR 2024, arXiv 2404.18873",
            files=(
                SplitFiles("test", "test.csv", ("images/test",), 210_122, _STREET_VIEW),
                SplitFiles("train", "train.csv", ("images/train",), 4_894_685, _STREET_VIEW),
                SplitFiles("human", "select.csv", _SELECT, 50, _SELECTED),
                SplitFiles("human", "game/select.csv", _SELECT, 50, _SELECTED),
            ),
            notes="Its loading script is refused by datasets 4 and later. Of the human set three "
            "versions are in the repository, with other columns and numbers of photos.",
        ),
        "yfcc4k": Benchmark(
            title="YFCC4k",
            licence=_FLICKR,
            source=f"yfcc4k.zip of {_REVISITED}",
            citation=_VO,
            files=(
                _test("yfcc4k_places365.csv", 4536, "yfcc4k"),
                replace(
                    _test("info.txt", 4536, "yfcc4k", columns=_PHOTO_ID),
                    delimiter="\t",
                    header=_YFCC100M,
                ),
            ),
        ),
        "yfcc26k": Benchmark(
            title="YFCC26k",
            licence=_FLICKR,
            source=f"yfcc25600_places365.csv and yfcc25600_urls.csv, releases of {_GEOESTIMATION}",
            citation=_MUELLER,
            files=tuple(
                _test(f"{folder}yfcc25600_places365.csv", 25_600, "yfcc25600")
                for folder in ("", "metadata/")
            ),
            notes="Photos are fetched one by one, and many are gone. MessagePack chunks of the "
            "authors' downloader are not read: store files.",
        ),
        "im2gps": Benchmark(
            title="Im2GPS test set",
            licence=_FLICKR,
            source=f"graphics.cs.cmu.edu/projects/im2gps; im2gps_places365.csv of {_GEOESTIMATION}",
            citation="Hays and Efros, IM2GPS, CVPR 2008",
            files=(_test("im2gps_places365.csv", 237, "im2gps"),),
        ),
        "im2gps3k": Benchmark(
            title="Im2GPS3k",
            licence=_FLICKR,
            source=f"im2gps3ktest.zip of {_REVISITED}; im2gps3k_places365.csv of {_GEOESTIMATION}",
            citation=_VO,
            files=(_test("im2gps3k_places365.csv", 2997, *_IM2GPS3K, columns=_LAT_FIRST),),
            notes="An early version of the table has the names LAT and LON exchanged.",
        ),
        "gws15k": Benchmark(
            title="Google World Streets 15k",
            licence="terms of Google Maps: photos may not be passed on",
            source="on request from its authors (no public download is known), as gws15k.csv with "
            "IMG_FILE, LAT, LON as in the loader of github.com/VicenteVivan/geo-clip, and images/",
            citation="Clark et al., Where We Are and What We're Looking At, CVPR 2023",
            files=tuple(
                _test(table, None, "gws15k", columns=_GWS15K)
                for table in ("gws15k.csv", "metadata.csv")
            ),
            notes="The layout is that of its users; none of its authors' is public.",
        ),
        "inat21": Benchmark(
            title="iNaturalist 2021",
            licence="non-commercial research and education; photos may not be passed on",
            source="github.com/visipedia/inat_comp, folder 2021: val.json and val/, unpacked",
            citation="Van Horn et al., Benchmarking Representation Learning, CVPR 2021",
            files=tuple(
                SplitFiles(split, f"{split}.json", (".",), rows, _INATURALIST, "coco")
                for split, rows in (("val", 100_000), ("train_mini", 500_000), ("train", 2_686_843))
            ),
            notes="Some observations have no location; those rows are skipped.",
        ),
        "mp16": Benchmark(
            title="MediaEval Placing 2016 (MP-16)",
            licence=_FLICKR,
            source=f"mp16_places365.csv and mp16_urls.csv, releases of {_GEOESTIMATION}; or hub "
            "data set Jia-py/MP16-Pro: join and unpack mp-16-images",
            citation=_LARSON,
            files=tuple(
                SplitFiles("train", folder + table, _MP16, rows, _PLACES365)
                for table, rows in (
                    ("mp16_places365.csv", 4_723_695),
                    ("MP16_Pro_filtered.csv", None),
                    ("MP16_Pro_places365.csv", 4_654_532),
                )
                for folder in ("", "metadata/")
            ),
            notes="Of MP16-Pro, file names have _ where the table has /; both are found.",
        ),
    }
)
