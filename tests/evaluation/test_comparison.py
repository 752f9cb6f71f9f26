"""Tests of comparing locators, on rows whose numbers are known by hand."""

import pytest

from icgeo.evaluation import Row, compare, comparison_table, to_frame


def row(locator, number, *, shots, distance, nll):
    return Row(
        locator,
        f"episode {number % 3}",
        "moon",
        str(number),
        shots,
        lat=1.0,
        lon=2.0,
        true_lat=1.0,
        true_lon=2.0,
        distance_km=distance,
        nll=nll,
    )


@pytest.fixture
def rows():
    """What "b" finds is 50 km farther and 0.25 nats worse in every query of 4 shots, not of 0."""
    return to_frame(
        row(
            name,
            number,
            shots=shots,
            distance=100.0 * number + 50 * (name == "b" and shots == 4),
            nll=number / 10 + 0.25 * (name == "b" and shots == 4),
        )
        for number in range(9)
        for name in ("a", "b")
        for shots in (4, 0)
    )


def test_a_shift_of_every_query_is_the_difference_and_its_interval(rows):
    found = {(one.locator, one.shots): one for one in compare(rows, "a").itertuples()}
    assert list(found) == [("a", 0), ("b", 0), ("a", 4), ("b", 4)]
    own, other = found["a", 4], found["b", 4]
    assert (own.median_km, other.median_km) == (400, 450)
    assert (own.nll, other.nll) == pytest.approx((0.4, 0.65))
    above = (other.median_km_difference, other.median_km_low, other.median_km_high)
    assert above == pytest.approx((50, 50, 50))
    above = (other.nll_difference, other.nll_low, other.nll_high)
    assert above == pytest.approx((0.25, 0.25, 0.25))
    assert own.median_km_high == found["b", 0].nll_high == 0


def test_the_table_is_markdown(rows):
    lines = comparison_table(compare(rows, "a")).splitlines()
    assert len(lines) == 6
    cells = [cell.strip() for cell in lines[-1].split("|")[1:-1]]
    assert cells == ["b", "4", "450", "+50 (+50, +50)", "0.65", "+0.25 (+0.25, +0.25)"]


def test_the_table_fits_100_columns_at_the_widest(rows):
    """Names as `scripts/lora.py` gives them, differences of five digits."""
    names = {"a": "zero-shot, map alone", "b": "LoRA, no examples"}
    wide = rows.assign(locator=rows.locator.map(names), nll=10 * rows.nll - 5)
    wide["distance_km"] = (wide.distance_km * (1 + wide.index) % 20_015).clip(10)
    lines = comparison_table(compare(wide, names["b"])).splitlines()
    assert max(map(len, lines)) <= 100


def test_only_the_same_queries_compare(rows):
    with pytest.raises(ValueError, match="expected rows of the same queries"):
        compare(rows[:-1], "a")
