"""Each row of the tables of formats and maps that name tests is held by a test."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = "\n".join((ROOT / "docs" / name).read_text() for name in ("formats.md", "maps.md"))
TABLES = re.findall(r"^\|.*\| test \|\n\|[-|]+\n((?:\|.*\n)+)", PAGES, re.MULTILINE)
ROWS = [row for table in TABLES for row in table.splitlines()]
TESTS = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))


def test_the_tables_are_found():
    assert len(TABLES) == PAGES.count("| test |\n") >= 7


@pytest.mark.parametrize("row", ROWS)
def test_the_test_of_a_row_is_there(row):
    name = re.search(r"`(test_\w+)` \|$", row)[1]
    assert f"def {name}(" in TESTS
