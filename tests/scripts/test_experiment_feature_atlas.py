"""The experiment on features, end to end on an untrained checkpoint."""

import json
import re
from importlib.util import find_spec

import pytest
from script_runs import run, untrained

if not (find_spec("overcomplete") and find_spec("sklearn")):  # importing all needs torchvision
    pytest.skip("needs pip install --no-deps overcomplete", allow_module_level=True)

pytestmark = pytest.mark.no_deps


def test_spaces_are_surveyed_and_pages_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = {"photos": 48, "judged": 80, "passes": 2, "permutations": 9, "steered": 1, "batch": 16}
    few |= {"features": 12, "top_k": 3, "model": untrained(), "blocks": "[1]"}
    run("experiments/feature_atlas", *(part for item in few.items() for part in _option(*item)))
    folder = tmp_path / "runs" / "feature-atlas"
    rows = json.loads((folder / "features.json").read_text())
    names = ["block 1", "block 1, untrained", "colours alone", "image statistics"]
    assert [row["space"] for row in rows] == names
    assert all(0 < row["fvu"] < 1.5 and row["l0"] <= 3 for row in rows)
    assert (folder / "features.md").read_text().count("\n") == 6
    for name in ("block-1", "block-1-untrained", "colours-alone", "image-statistics"):
        assert (folder / f"{name}.safetensors").is_file()
        page = (folder / f"{name}.html").read_text(encoding="utf-8")
        assert re.search(r"<h1>Features of .*</h1>", page)
        assert page.count('<li id="feature-') <= 12


def _option(name, value):
    return f"--{name}", value
