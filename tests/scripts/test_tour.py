"""The tour: it runs, is small, and shows what it says."""

import re

import nbformat
import pytest
from script_runs import load_script

tour = load_script("assets/tour")


def cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(notebook):
    return "".join(out.get("text", "") for cell in cells(notebook) for out in cell.outputs)


def figures(notebook):
    outputs = (out.get("data", {}) for cell in cells(notebook) for out in cell.outputs)
    return sum("image/jpeg" in data for data in outputs)


def test_what_is_kept_is_small_and_clean():
    notebook = nbformat.read(tour.TOUR, as_version=4)
    nbformat.validate(notebook)
    assert tour.TOUR.stat().st_size < 300_000
    assert figures(notebook) == 3
    assert not re.search(r"/root|/home|/tmp|Warning|Traceback", printed(notebook))


@pytest.mark.slow
def test_it_runs_and_shows_that_examples_help():
    notebook = tour.run(tour.TOUR)
    assert figures(notebook) == 3
    pattern = r"(\d+) examples: log density +([-\d.]+), located +(\d+)%"
    shots, scores, located = zip(*re.findall(pattern, printed(notebook)), strict=True)
    assert shots == ("0", "4", "16")
    assert float(scores[0]) == -2.53
    assert sorted(map(float, scores)) == [float(score) for score in scores]
    assert sorted(map(int, located)) == [int(share) for share in located]
