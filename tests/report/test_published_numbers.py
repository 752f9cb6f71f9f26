"""Tests of the comparison with published numbers: only the same task, counted as theirs is."""

import math
from dataclasses import replace

import pytest
from pyproj import Geod
from report_rows import rows

import icgeo.report.tables
from icgeo.evaluation import to_frame
from icgeo.evaluation.episodes import PHOTOS
from icgeo.report.tables import compare_with_published, published
from icgeo.sphere import distance_km


def compared(rows):
    return compare_with_published(to_frame(rows))


def cells_of(table):
    """Published number, this run's and the protocol, by system and metric."""
    cells = {}
    for system, row in table.iterrows():
        for metric, cell in row.drop(["protocol", "source"]).items():
            value, _, below = cell.partition("\nthis run ")
            cells[system, metric] = [value, below, row.protocol]
    return cells


@pytest.fixture
def small(monkeypatch):
    """A benchmark of four queries in place of the whole."""
    monkeypatch.setattr(
        icgeo.report.tables, "SETS", {"im2gps3k-test": ("im2gps3k", 4), "osv5m-test": ("osv5m", 4)}
    )


def benchmark_rows(name, **values):
    return [
        replace(row, **values) for row in rows(name, count=4, shots=(0, 4), episode=f"{name}-test")
    ]


def test_the_numbers_are_those_of_the_file():
    """By hand from published.csv."""
    numbers = [*published().itertuples()]
    found = {(one.system, one.benchmark, one.metric): one for one in numbers}
    assert found["GeoCLIP", "im2gps3k", "< 25 km"].value == 34.5
    assert found["osv5m baseline", "osv5m", "GeoScore"].value == 3361
    assert found["LocDiff", "osv5m", "< 2500 km"].value == 88.2
    assert found["Plonk", "inat21", "mean error"].unit == "km"
    assert all(one.source for one in found.values())
    assert not any("country" in one.metric for one in found.values())


def test_views_from_orbit_are_compared_with_none():
    tables, (note,) = compared(rows("blue-marble"))
    assert tables == {}
    assert note.endswith("these. A view of a planet from orbit is another task.")


def test_own_photos_are_no_views_from_orbit():
    tables, (note,) = compared(rows(PHOTOS))
    assert tables == {}
    assert note.endswith("these. On photos of your own those systems were not measured.")
    both = compared(rows(PHOTOS) + rows("moon"))[1][0]
    assert "On photos of your own" in both
    assert "from orbit" in both


def test_a_part_of_a_benchmark_is_not_compared():
    tables, (note,) = compared(benchmark_rows("im2gps3k"))
    assert tables == {}
    assert note.startswith("im2gps3k: 4 of its 2,997 queries were answered")


def test_another_split_is_not_compared(small):
    tables, (note,) = compared(benchmark_rows("osv5m", episode="osv5m-human"))
    assert tables == {}
    assert note.endswith("these. Another split of a benchmark is another test.")


def test_each_system_is_counted_by_its_own_protocol(small):
    """A due north error of 24.95 km on the sphere is beyond 25 km on the ellipsoid near a pole.

    GeoCLIP's distances are geodesics of WGS84, here by pyproj; PIGEON's are on a larger sphere.
    """
    lat = 89.0 - math.degrees(24.95 / 6371)
    place = {"true_lat": lat, "true_lon": 0.0, "lat": 89.0, "lon": 0.0}
    km = distance_km((89.0, 0.0), (lat, 0.0)).item()
    geodesic = Geod(ellps="WGS84").inv(0, lat, 0, 89.0)[2] / 1000
    assert km < 25 < geodesic
    some = benchmark_rows("im2gps3k", distance_km=km, **place)
    tables, notes = compared(some)
    (caption, same), (_, other) = tables.items()
    assert notes == []
    found = cells_of(same)
    assert found["GeoCLIP", "< 25 km, %"][:3] == ["34.5", "0.0", "geoclip"]
    assert found["GeoRanker", "< 200 km, %"][:3] == ["61.5", "100.0", "geoclip"]
    assert found["PIGEOTTO", "< 25 km, %"][1:3] == ["100.0", "pigeon"]
    assert "icgeo, 4 shots, 4 queries" in caption
    assert ("LocDiff", "< 1 km, %") in cells_of(other)
    assert not {name for name, _ in cells_of(other)} & {name for name, _ in found}


def test_scores_and_means_are_those_of_the_rows(small):
    """A query without an answer counts as a guess."""
    some = benchmark_rows("osv5m")
    silent = [row.key for row in some if row.id == "q0"]
    some = [
        replace(row, lat=None, lon=None, distance_km=None) if row.key in silent else row
        for row in some
    ]
    (same, _) = compared(some)[0].values()
    found = cells_of(same)
    errors = [row.distance_km or math.pi / 2 * 6371 for row in some if row.shots == 4][:4]
    score = sum(5000 * math.exp(-km / 1492.7) for km in errors) / 4
    assert found["osv5m baseline", "GeoScore, points"][:3] == ["3,361", f"{score:,.0f}", "osv5m"]
    assert found["SC retrieval", "mean error, km"][1] == f"{sum(errors) / 4:,.0f}"
