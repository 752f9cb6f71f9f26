"""The script on few views, from activations to the page."""

from pathlib import Path

import pytest
from script_runs import run


@pytest.mark.slow
def test_latent_geography(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    few = "--count 120 --worlds 2 --views 20 --shots 4 --times 1.0,0.5 --steered 8 --aligned 30"
    few += " --permutations 3 --surveyed [160,160] --features 16 --zoomed 8"
    run("latent_geography", *few.split())
    said = capsys.readouterr().out
    assert "written to runs/latents/report.html" in said
    for title in ("Where the Earth is known", "Controls", "Unseen worlds", "Causes: steering"):
        assert f"## {title}" in said
    page = Path("runs/latents/report.html").read_text()
    assert page.count("<h2") == 12
