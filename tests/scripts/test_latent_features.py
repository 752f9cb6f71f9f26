"""The part of the script on features, end to end on an untrained checkpoint."""

import re
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
from script_runs import run, untrained

if not (find_spec("overcomplete") and find_spec("sklearn")):  # importing all needs torchvision
    pytest.skip("needs pip install --no-deps overcomplete", allow_module_level=True)

pytestmark = pytest.mark.no_deps


def test_spaces_are_surveyed_and_pages_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = {"surveyed": "[48, 80]", "passes": 2, "features": 12, "top_k": 3, "count": 8}
    few |= {"model": untrained(), "blocks": "[1]", "times": "[1.0]", "parts": "[taken_apart]"}
    run("latent_geography", *(part for name, value in few.items() for part in (f"--{name}", value)))
    folder = Path("runs/latents")
    rows = pd.read_csv(folder / "features.csv", index_col=0)
    assert list(rows.index) == [
        *("block 1", "block 1, untrained", "colours alone", "image statistics")
    ]
    assert (rows["features in a view"] <= 3).all()
    report = (folder / "report.html").read_text(encoding="utf-8")
    for name in ("block-1", "block-1-untrained", "colours-alone", "image-statistics"):
        assert (folder / f"features-{name}.safetensors").is_file()
        assert f'href="atlas-{name}.html"' in report
        page = (folder / f"atlas-{name}.html").read_text(encoding="utf-8")
        assert re.search(r"<h1>Features of .*</h1>", page)
        assert page.count('<li id="feature-') <= 12


def test_what_cannot_be_asked_for_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"expected parts of depth, controls.* got 'depths'"):
        run("latent_geography", "--parts", "[depths]")
    for part, name in (("levels", "zoomed"), ("steering", "steered")):
        with pytest.raises(ValueError, match=f"a --count above --{name}, 8, .* got 8"):
            run("latent_geography", "--count", 8, f"--{name}", 8, "--parts", f"[{part}]")
    for blocks in ((), ("--blocks", "[0,2]")):
        few = ("--model", untrained(), "--parts", "[taken_apart]", *blocks)
        with pytest.raises(ValueError, match=r"--feature_blocks of the blocks \[.*\], got -1"):
            run("latent_geography", "--feature_blocks", "[-1]", *few)
    assert not Path("runs").exists()
    few = ("--count", 8, "--times", "[1.0]", "--encoder", "pixels", "--parts", "[depth]")
    with pytest.raises(ValueError, match="layers to look into, got 'pixels'"):
        run("latent_geography", *few)
