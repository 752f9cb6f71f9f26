"""The figure of the rooms in the docs is what import-linter checks."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def linted_floors() -> list[set[str]]:
    """Return the modules of each floor, the highest first, as import-linter has them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    layers = project["tool"]["importlinter"]["contracts"][0]["layers"]
    return [set(re.findall(r"\w+", layer)) for layer in layers]


def drawn_floors() -> list[set[str]]:
    """Return the modules of each floor in the figure: what stands before two spaces in a line."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    figure = text.split("<!-- rooms", 1)[1].split("```text\n", 1)[1].split("```", 1)[0]
    return [set(re.findall(r"\w+", line.split("  ")[0])) for line in figure.splitlines()]


def test_the_figure_of_the_rooms_is_what_import_linter_checks():
    assert drawn_floors() == linted_floors()


def test_every_room_stands_in_the_figure():
    package = ROOT / "icgeo"
    modules = {path.stem for path in package.glob("*.py")}
    modules |= {path.parent.name for path in package.glob("*/__init__.py")}
    assert modules - {"__init__"} == set().union(*drawn_floors())
