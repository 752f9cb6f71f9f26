"""Each row of the pages of formats and maps is held by a test."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [(ROOT / "docs" / name).read_text() for name in ("formats.md", "maps.md")]
TABLES = [page.split("## What was measured")[0] for page in PAGES]
LINES = [line for table in TABLES for line in table.splitlines()]
ROWS = [line for line in LINES if line.startswith("| ") and not line.endswith("| test |")]
TESTS = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))


@pytest.mark.parametrize("row", ROWS)
def test_the_test_of_a_row_is_there(row):
    name = re.search(r"`(test_\w+)` \|$", row)[1]
    assert f"def {name}(" in TESTS
