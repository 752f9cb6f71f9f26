"""Tests of tables: numbers by hand, units, dashes."""

import math
from dataclasses import replace

import pytest
from pandas import DataFrame
from report_rows import rows

from icgeo.baselines import Chance
from icgeo.evaluation import to_frame
from icgeo.report.run_folder import Run
from icgeo.report.tables import (
    DASH,
    calibration_table,
    format_area,
    format_number,
    format_place,
    glance_table,
    results_table,
    timing_table,
    values_table,
)


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [
        (1234.5, ",.0f", "1,234"),
        (-0.25, ".2f", "\N{MINUS SIGN}0.25"),
        (None, ".2f", DASH),
        (math.nan, ".2f", DASH),
        (math.inf, ".2f", "∞"),
        (-math.inf, ".2f", "\N{MINUS SIGN}∞"),
    ],
)
def test_numbers_read_well(value, form, text):
    assert format_number(value, form) == text


def test_places_and_areas_have_units():
    assert format_place(-33.868, 151.209) == "\N{MINUS SIGN}33.87°, 151.21°"
    assert format_place(math.nan, math.nan) == "not located"
    areas = [format_area(km2) for km2 in (0.1234, 12345.6, math.nan, 0.0)]
    assert areas == ["0 km²", "12,300 km²", DASH, DASH]


def test_results_are_those_of_the_rows():
    """Errors are whole degrees of latitude; chance is one row, as it is the same for all shots."""
    table = results_table(to_frame(rows(count=8)))
    assert [*table.shots.items()] == [("icgeo", "0, 4"), ("chance", "0, 4")]
    cells = table.loc["icgeo"].str.split("\n")
    degree = math.pi * 6371 / 180
    assert cells["queries"] == ["8"]
    assert cells["median km"][0] == f"{3.5 * degree:,.0f}"
    assert cells["mean km"][0] == f"{3.5 * degree:,.0f}"
    assert cells["< 200 km, %"][0] == "25.0"
    assert cells["90 % area, % of the sphere"][0] == "10.00"
    assert cells["covered, %"][0] == "87.5"
    low, high = (float(end.replace(",", "")) for end in cells["median km"][1].split(" to "))
    assert 0 <= low < 3.5 * degree < high <= 7 * degree


def test_a_glance_shows_the_best_shots_of_each_beside_what_else_could_be_done():
    """Four shots do worse than two here; chance is no rival."""
    names = ("icgeo", "retrieval", "parts alone", Chance.name)
    some = rows(locators=names, shots=(0, 2, 4))
    off = {("icgeo", 0): 900.0, ("icgeo", 2): 100.0, ("icgeo", 4): 400.0, ("retrieval", 0): 50.0}
    some = [replace(row, distance_km=off.get((row.locator, row.shots), 600.0)) for row in some]
    run = Run("one", to_frame(some), {}, {}, DataFrame())
    table = glance_table([run])
    assert table.locator.tolist() == ["icgeo", "parts alone", "retrieval"]
    assert table.shots.tolist() == ["2", "0", "0"]
    assert [cell.split("\n")[0] for cell in table["median km"]] == ["100", "600", "50"]
    assert glance_table([]).empty


def test_calibration_is_judged():
    """Levels in a corner are as far from the diagonal as can be; evenly spread ones are not."""
    (row,) = rows("good", count=1, locators=("icgeo",), shots=(4,))
    good = [replace(row, id=f"q{n}", level=(n + 0.5) / 100) for n in range(100)]
    bad = [replace(row, id=f"q{n}", world="bad", level=1.0) for n in range(100)]
    table = calibration_table(to_frame(good + bad))
    assert [list(line) for line in table.itertuples()] == [
        ["good, 4 shots", "100", "50.0", "90.0", "0.005", "0.136", "not rejected"],
        ["bad, 4 shots", "100", "0.0", "0.0", "1.000", "0.136", "rejected"],
    ]


def test_times_are_seconds_and_their_inverse():
    first = next(timing_table(to_frame(rows(count=4))).itertuples())
    assert list(first) == ["icgeo", "0", "4", "0.02", "0.02", "0.02", "50.0"]


def test_values_within_values_stand_under_their_name():
    table = values_table({"a": {"b": None, "c": 1}, "d": [2]}, "name", "value")
    assert table.value.to_dict() == {"a: b": DASH, "a: c": "1", "d": "[2]"}
