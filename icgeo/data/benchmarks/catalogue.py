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

    id: tuple[str, ...]
    image: tuple[str, ...]
    suffix: str = ""
    """Of the photo's file, where the column leaves it out."""
    lat: tuple[str, ...] = LATITUDE_COLUMNS
    lon: tuple[str, ...] = LONGITUDE_COLUMNS
    labels: tuple[str, ...] = ("continent", "country", "region", "sub-region", "city")
    """Taken where the file has them."""
    lat_first: bool = False
    """Whether a table with the longitude first is one whose names are exchanged."""


@dataclass(frozen=True)
class Layout:
    """One split of a benchmark as it lies on disk."""

    split: str
    tables: tuple[str, ...]
    """Files with one row a photo; the first that exists is read."""
    images: tuple[str, ...]
    """Folders that photos may lie in, or in a folder of these; those that exist are searched."""
    columns: Columns
    rows: int | None
    """How many its authors count."""
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
    layouts: tuple[Layout, ...]
    """The first is the default; several of one split are alternatives."""
    notes: str = ""

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, the default first."""
        return tuple(dict.fromkeys(layout.split for layout in self.layouts))


_STREET_VIEW = Columns(id=("id",), image=("id",), suffix=".jpg")
_SELECTED = Columns(
    id=("id",),
    image=("id",),
    suffix=".jpg",
    lat=("latitude", "true_lat"),
    lon=("longitude", "true_lon"),
    labels=("country", "region", "sub-region", "area", "city"),
)
_PLACES365 = Columns(
    id=("IMG_ID",),
    image=("IMG_ID",),
    lat=("LAT",),
    lon=("LON",),
    labels=("continent", "country", "region", "state", "county", "city", "neighbourhood"),
)
_YFCC100M = (
    "line", "photo_id", "hash", "user", "nickname", "taken", "uploaded", "device", "title",
    "description", "tags", "machine_tags", "longitude", "latitude", "accuracy", "page", "download",
    "licence", "licence_url", "server", "farm", "secret", "original_secret", "extension", "marker",
)  # fmt: skip
_INATURALIST = Columns(
    id=("id",),
    image=("file_name",),
    lat=("latitude",),
    lon=("longitude",),
    labels=("supercategory", "name", "location_uncertainty", "date"),
)
_FLICKR = "each photo under the licence that its photographer chose on Flickr"
_GEOESTIMATION = "github.com/TIBHannover/GeoEstimation"
_REVISITED = "github.com/lugiavn/revisiting-im2gps"
_VO = "Vo, Jacobs and Hays, Revisiting IM2GPS in the Deep Learning Era, ICCV 2017"
_LARSON = "Larson et al., The Benchmarking Initiative for Multimedia Evaluation, MediaEval 2016"
_MUELLER = "Mueller-Budack, Pustu-Iren and Ewerth, Geolocation Estimation of Photos, ECCV 2018"

BENCHMARKS: Mapping[str, Benchmark] = MappingProxyType(
    {
        "osv5m": Benchmark(
            title="OpenStreetView-5M",
            licence="CC-BY-SA-4.0",
            source="hub data set osv5m/osv5m: download it as files and unpack images/*/*.zip; "
            "the human set: select.csv and select/ in game/ of github.com/gastruc/osv5m",
            citation="Astruc et al., OpenStreetView-5M, CVPR 2024, arXiv 2404.18873",
            layouts=(
                Layout("test", ("test.csv",), ("images/test",), _STREET_VIEW, 210_122),
                Layout("train", ("train.csv",), ("images/train",), _STREET_VIEW, 4_894_685),
                Layout(
                    "human",
                    ("select.csv", "game/select.csv"),
                    ("select", "game/select", "images/test"),
                    _SELECTED,
                    50,
                ),
            ),
            notes="Its loading script is refused by datasets 4 and later. Of the human set three "
            "versions are in the repository, with other columns and numbers of photos.",
        ),
        "yfcc4k": Benchmark(
            title="YFCC4k",
            licence=_FLICKR,
            source=f"yfcc4k.zip of {_REVISITED}",
            citation=_VO,
            layouts=(
                Layout(
                    "test",
                    ("yfcc4k_places365.csv",),
                    ("images", "yfcc4k", "img"),
                    _PLACES365,
                    4536,
                ),
                Layout(
                    "test",
                    ("info.txt",),
                    ("images", "yfcc4k", "img"),
                    Columns(id=("photo_id",), image=("photo_id",), suffix=".jpg", labels=()),
                    4536,
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
            layouts=(
                Layout(
                    "test",
                    ("yfcc25600_places365.csv", "metadata/yfcc25600_places365.csv"),
                    ("images", "yfcc25600", "images/yfcc25600"),
                    _PLACES365,
                    25_600,
                ),
            ),
            notes="Photos are fetched one by one, and many are gone. MessagePack chunks of the "
            "authors' downloader are not read: store files.",
        ),
        "im2gps": Benchmark(
            title="Im2GPS test set",
            licence=_FLICKR,
            source=f"graphics.cs.cmu.edu/projects/im2gps; im2gps_places365.csv of {_GEOESTIMATION}",
            citation="Hays and Efros, IM2GPS, CVPR 2008",
            layouts=(
                Layout(
                    "test", ("im2gps_places365.csv",), ("images", "img", "im2gps"), _PLACES365, 237
                ),
            ),
        ),
        "im2gps3k": Benchmark(
            title="Im2GPS3k",
            licence=_FLICKR,
            source=f"im2gps3ktest.zip of {_REVISITED}; im2gps3k_places365.csv of {_GEOESTIMATION}",
            citation=_VO,
            layouts=(
                Layout(
                    "test",
                    ("im2gps3k_places365.csv",),
                    ("images", "img", "im2gps3ktest", "im2gps3k"),
                    replace(_PLACES365, lat_first=True),
                    2997,
                ),
            ),
            notes="An early version of the table has the names LAT and LON exchanged.",
        ),
        "gws15k": Benchmark(
            title="Google World Streets 15k",
            licence="terms of Google Maps: photos may not be passed on",
            source="on request from its authors (no public download is known), as gws15k.csv with "
            "IMG_FILE, LAT, LON as in the loader of github.com/VicenteVivan/geo-clip, and images/",
            citation="Clark et al., Where We Are and What We're Looking At, CVPR 2023",
            layouts=(
                Layout(
                    "test",
                    ("gws15k.csv", "metadata.csv"),
                    ("images", "img", "gws15k"),
                    Columns(
                        id=("IMG_FILE", "IMG_ID", "image_id", "id"),
                        image=("IMG_FILE", "IMG_ID", "image_file", "image_id", "id"),
                    ),
                    None,
                ),
            ),
            notes="The layout is that of its users; none of its authors' is public.",
        ),
        "inat21": Benchmark(
            title="iNaturalist 2021",
            licence="non-commercial research and education; photos may not be passed on",
            source="github.com/visipedia/inat_comp, folder 2021: val.json and val/, unpacked",
            citation="Van Horn et al., Benchmarking Representation Learning, CVPR 2021",
            layouts=(
                Layout("val", ("val.json",), (".",), _INATURALIST, 100_000, format="coco"),
                Layout(
                    "train_mini", ("train_mini.json",), (".",), _INATURALIST, 500_000, format="coco"
                ),
                Layout("train", ("train.json",), (".",), _INATURALIST, 2_686_843, format="coco"),
            ),
            notes="Some observations have no location; those rows are skipped.",
        ),
        "mp16": Benchmark(
            title="MediaEval Placing 2016 (MP-16)",
            licence=_FLICKR,
            source=f"mp16_places365.csv and mp16_urls.csv, releases of {_GEOESTIMATION}; or hub "
            "data set Jia-py/MP16-Pro: join and unpack mp-16-images",
            citation=_LARSON,
            layouts=(
                Layout(
                    "train",
                    ("mp16_places365.csv",),
                    ("images", "mp16", "images/mp16"),
                    _PLACES365,
                    4_723_695,
                ),
                Layout(
                    "train",
                    ("MP16_Pro_filtered.csv", "metadata/MP16_Pro_filtered.csv"),
                    ("images", "mp16", "mp-16-images"),
                    _PLACES365,
                    None,
                ),
                Layout(
                    "train",
                    ("MP16_Pro_places365.csv", "metadata/MP16_Pro_places365.csv"),
                    ("images", "mp16", "mp-16-images"),
                    _PLACES365,
                    4_654_532,
                ),
            ),
            notes="Of MP16-Pro, file names have _ where the table has /; both are found.",
        ),
    }
)
