"""The script on few views, from activations to the page."""

from importlib.util import find_spec
from pathlib import Path

import pytest
from script_runs import run


@pytest.mark.slow
def test_latent_geography(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    few = "--count 120 --worlds 2 --views 20 --shots 4 --times 1.0,0.5 --steered 8 --aligned 30"
    few += " --permutations 3 --surveyed 160 --features 16"
    run("latent_geography", *few.split())
    said = capsys.readouterr().out
    assert "written to runs/latents/report.html" in said
    for title in ("Where the Earth is known", "Controls", "Unseen worlds", "Causes: steering"):
        assert f"## {title}" in said
    page = Path("runs/latents/report.html").read_text()
    assert page.count("<h2") == 11
    if find_spec("overcomplete"):
        assert 'href="atlas-block-5.html"' in page
        atlas = Path("runs/latents/atlas-block-5.html").read_text()
        assert "<h1>Features of tiny: block 5</h1>" in atlas
