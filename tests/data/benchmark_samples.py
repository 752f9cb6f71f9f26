"""Small sets in the formats of published benchmarks, written here."""

import csv
import json
from pathlib import Path
from typing import Any

from PIL import Image

PLACES = [(-43.8048, -176.6141), (48.8566, 2.3522), (0.5, 179.9999)]
OSV5M = [
    "id", "latitude", "longitude", "thumb_original_url", "country", "sequence", "captured_at",
    "lon_bin", "lat_bin", "cell", "region", "sub-region", "city", "land_cover", "quadtree_10_1000",
    "unique_city", "creator_username",
]  # fmt: skip
PLACES365 = [
    "IMG_ID", "AUTHOR", "LAT", "LON", "S3_Label", "S16_Label", "S365_Label", "Prob_indoor",
    "Prob_natural", "Prob_urban",
]  # fmt: skip


def photo(path: Path, colour: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), (colour % 256, colour // 256 % 256, 90)).save(path)


def table(path: Path, header: list[str], rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, header, restval="")
        writer.writeheader()
        writer.writerows(rows)


def street_view(root: Path, split: str = "test", count: int = 3, photos: bool = True) -> None:
    """OSV-5M: archives 00.zip, 01.zip, ... unpacked where they lie."""
    rows = []
    for number in range(count):
        lat, lon = PLACES[number % 3]
        rows.append(
            {"id": 3859149887465501 + number, "latitude": lat, "longitude": lon, "country": "NZ",
             "cell": "(0, 8)", "region": "Chatham Islands", "city": "Waitangi"}
        )  # fmt: skip
        if photos:
            name = f"{3859149887465501 + number}.jpg"
            photo(root / "images" / split / f"{number % 2:02d}" / name, number)
    table(root / f"{split}.csv", OSV5M, rows)


def human(root: Path) -> None:
    """The 50 photos that people located, as they lie in the folder of the game."""
    header = ["Unnamed: 0", "id", "pred_lat", "pred_lon", "true_lat", "true_lon", "city", "area",
              "region", "country"]  # fmt: skip
    rows = [
        {"Unnamed: 0": i, "id": 29 + i, "pred_lat": 1, "pred_lon": 2, "true_lat": lat,
         "true_lon": lon, "country": "NZ", "area": "Timaru District"}
        for i, (lat, lon) in enumerate(PLACES)
    ]  # fmt: skip
    table(root / "game" / "select.csv", header, rows)
    for row in rows:
        photo(root / "game" / "select" / f"{row['id']}.jpg")


def places365(root: Path, name: str, images: str, ids: list[str]) -> None:
    """Tables of GeoEstimation: Im2GPS, Im2GPS3k, YFCC4k, YFCC26k, MP-16."""
    rows = [
        {"IMG_ID": id, "AUTHOR": "7@N00", "LAT": lat, "LON": lon, "S3_Label": 2}
        for id, (lat, lon) in zip(ids, PLACES, strict=True)
    ]
    table(root / name, PLACES365, rows)
    for id in ids:
        photo(root / images / id)


def yfcc100m(root: Path) -> None:
    """YFCC4k as its authors pack it: lines of YFCC100M, numbered, without a header."""
    lines = []
    for number, (lat, lon) in enumerate(PLACES):
        cells = [""] * 25
        cells[0], cells[1], cells[8] = str(number), str(3_000_000 + number), 'a "quote'
        cells[12], cells[13] = str(lon), str(lat)
        lines.append("\t".join(cells))
        photo(root / "yfcc4k" / f"{cells[1]}.jpg")
    (root / "info.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def street_views_of_users(root: Path) -> None:
    """GWS15k as the loader of GeoCLIP reads it."""
    rows = [{"IMG_FILE": f"{i}.jpg", "LAT": a, "LON": b} for i, (a, b) in enumerate(PLACES)]
    table(root / "gws15k.csv", ["IMG_FILE", "LAT", "LON"], rows)
    for row in rows:
        photo(root / "images" / row["IMG_FILE"])


def inaturalist(root: Path, split: str = "val") -> None:
    """The lists of iNaturalist 2021: COCO, with NaN where an observation has no place."""
    images = [
        {"id": 2_686_843 + i, "width": 8, "height": 6, "license": 0, "rights_holder": "a [b] {c",
         "file_name": f"{split}/02590_Animalia/{i}.jpg", "date": "2019-05-01", "latitude": lat,
         "longitude": lon, "location_uncertainty": 9}
        for i, (lat, lon) in enumerate([*PLACES, (float("nan"), float("nan")), (None, None)])
    ]  # fmt: skip
    for image in images:
        photo(root / image["file_name"])
    content = {"info": {"images": "no list"}, "categories": [], "images": images, "annotations": []}
    (root / f"{split}.json").write_text(json.dumps(content), encoding="utf-8")


def shards(root: Path, count: int = 3, per_shard: int = 2) -> None:
    """WebDataset shards as those of Plonk, written by webdataset itself."""
    from webdataset import TarWriter

    root.mkdir(parents=True, exist_ok=True)
    photo(root / "one.jpg")
    image = (root / "one.jpg").read_bytes()
    (root / "one.jpg").unlink()
    for start in range(0, count, per_shard):
        with TarWriter(str(root / f"{start // per_shard:04d}.tar")) as sink:
            for number in range(start, min(start + per_shard, count)):
                lat, lon = PLACES[number % 3]
                about = {"id": 10 + number, "latitude": lat, "longitude": lon, "country": "NZ"}
                sample = {"__key__": str(10 + number), "jpg": image, "json": about,
                          "dinov2.npy": b"\0" * 64}  # fmt: skip
                sink.write(sample)
