"""Tests of tables: numbers by hand, units, dashes."""

import math

import pytest
import torch
from report_rows import rows

from icgeo.report.tables import (
    DASH,
    answer_table,
    area,
    calibration_table,
    failure_table,
    number,
    place,
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
    assert number(value, form) == text


def test_places_and_areas_have_units():
    assert place(-33.868, 151.209) == "\N{MINUS SIGN}33.87°, 151.21°"
    assert place(None, None) == DASH
    assert [area(km2) for km2 in (0.1234, 12345.6, None, math.nan, 0.0)] == [
        "0 km²", "12,300 km²", DASH, DASH, DASH,
    ]  # fmt: skip


def test_results_are_those_of_the_rows():
    """Errors are whole degrees of latitude; chance is one row, as it is the same for all shots."""
    table = results_table("moon", rows(count=8))
    found = {(row[0].text, row[1].text): row for row in table.rows}
    assert list(found) == [("icgeo", "0, 4"), ("chance", "0, 4")]
    cells = dict(zip(table.header, found["icgeo", "0, 4"], strict=True))
    degree = math.pi * 6371 / 180
    assert cells["queries"].text == "8"
    assert cells["median error, km"].text == f"{3.5 * degree:,.0f}"
    assert cells["mean error, km"].text == f"{3.5 * degree:,.0f}"
    assert cells["< 200 km, %"].text == "25.0"
    assert cells["90 % area, % of sphere"].text == "10.00"
    assert cells["truth in it, %"].text == "87.5"
    low, high = (
        float(end.replace(",", "")) for end in cells["median error, km"].small.split(" to ")
    )
    assert 0 <= low < 3.5 * degree < high <= 7 * degree


def test_calibration_is_judged():
    """Levels in a corner are as far from the diagonal as can be; evenly spread ones are not."""
    spread = (torch.arange(100, dtype=torch.float64) + 0.5) / 100
    table = calibration_table({"good": spread, "bad": torch.ones(100, dtype=torch.float64)})
    good, bad = ([cell.text for cell in row] for row in table.rows)
    assert good == ["good", "100", "50.0", "90.0", "0.005", "0.136", "not rejected"]
    assert bad == ["bad", "100", "0.0", "0.0", "1.000", "0.136", "rejected"]


def test_times_are_seconds_and_their_inverse():
    (own, *_) = timing_table(rows(count=4)).rows
    assert [cell.text for cell in own] == [
        "icgeo", "0", "4", "0.02", "0.02", "0.02", "50.0",
    ]  # fmt: skip


def test_long_lists_say_what_is_left_out():
    many = 150 * rows(count=1, locators=("icgeo",), shots=(1,))
    for table in (failure_table(many), answer_table(many)):
        assert len(table.rows) == 100
        assert table.note.startswith("And 50 more")


def test_values_within_values_stand_under_their_name():
    table = values_table("x", {"a": {"b": None, "c": 1}, "d": [2]}, ("name", "value"))
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["a: b", DASH], ["a: c", "1"], ["d", "[2]"],
    ]  # fmt: skip
