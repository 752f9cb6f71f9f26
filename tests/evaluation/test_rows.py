"""Tests of rows on disk: what is written is read again, whatever was torn."""

import json
import math
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icgeo.evaluation import Row, read_rows, to_frame
from icgeo.evaluation.rows import RowFile

NUMBERS = st.none() | st.floats(allow_nan=False, allow_infinity=False)
LEVELS = st.lists(st.dictionaries(st.sampled_from(["name", "nll"]), NUMBERS), max_size=2)
VALUES = st.fixed_dictionaries(
    {
        **dict.fromkeys(("locator", "episode", "world", "id"), st.text()),
        "shots": st.integers(0, 99),
        "lat": NUMBERS,
        "nll": NUMBERS,
        "located": st.none() | st.booleans(),
        "levels": st.none() | LEVELS,
        "error": st.none() | st.text(),
    }
)


@given(VALUES)
def test_a_row_is_one_line_that_gives_it_back(values):
    row = Row(**values)
    line = row.to_json()
    assert "\n" not in line
    assert Row(**json.loads(line)) == row


def row(number):
    return Row("a", "e", "w", f"query {number}", shots=number, lat=0.1 * number)


def test_rows_survive_and_are_written_once(tmp_path):
    path = tmp_path / "rows.jsonl"
    RowFile(path).append([row(0), row(1)])
    again = RowFile(path)
    again.append([row(1), row(2)])
    assert list(again.rows.values()) == [row(0), row(1), row(2)]
    assert RowFile(path).rows == again.rows
    assert len(path.read_text().splitlines()) == 3


def test_a_torn_line_is_cut_off_at_any_byte(tmp_path):
    path = tmp_path / "rows.jsonl"
    whole = row(0).to_json().encode() + b"\n"
    torn = row(1).to_json().encode()
    for length in range(len(torn) + 1):
        path.write_bytes(whole + torn[:length])
        file = RowFile(path)
        assert list(file.rows.values()) == [row(0)]
        file.append([row(1)])
        assert list(RowFile(path).rows.values()) == [row(0), row(1)]


@pytest.mark.parametrize("line", ["{}", "nonsense", '{"locator": "a", "colour": 1}', "[1]"])
def test_a_line_that_is_no_row_is_named(tmp_path, line):
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{row(0).to_json()}\n{line}\n")
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 2: expected a row"):
        RowFile(path)


def test_rows_read_are_one_frame_of_all_files(tmp_path):
    """Whatever is known of them, columns are all the fields, of the same types."""
    RowFile(tmp_path / "predictions.jsonl").append([row(0)])
    RowFile(tmp_path / "predictions-1-of-2.jsonl").append([Row("a", "e", "w", "x", 3, error="no")])
    frame = read_rows(tmp_path)
    assert sorted(frame.id) == ["query 0", "x"]
    by_id = frame.set_index("id")
    assert by_id.lat["query 0"] == 0
    assert math.isnan(by_id.lat["x"])
    assert by_id.error.tolist().count(None) == 1
    assert list(frame.columns) == list(to_frame([]).columns) == [one.name for one in fields(Row)]
    assert frame.dtypes.equals(to_frame([]).dtypes)
