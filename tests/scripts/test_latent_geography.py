"""The script on few views, from activations to the page."""

from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
from script_runs import load_script, run

from icgeo.models import load
from icgeo.report import write_latents_report
from icgeo.report.latents import save_sections


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


@pytest.mark.no_deps
@pytest.mark.skipif(not find_spec("overcomplete"), reason="pip install --no-deps overcomplete")
def test_the_page_leads_to_the_atlas(tmp_path):
    script, model = load_script("latent_geography"), load("tiny")
    options = script.Options(surveyed=160, features=16)
    blocks = SimpleNamespace(blocks=(0, 5))
    section = script.taken_apart(script.Study(options, tmp_path, model, None, None, blocks, None))
    save_sections(tmp_path, [section])
    page = write_latents_report(tmp_path).read_text(encoding="utf-8")
    for name, title in (("atlas-block-5", "block 5"), ("atlas-colours-alone", "colours alone")):
        assert f'href="{name}.html"' in page
        atlas = (tmp_path / f"{name}.html").read_text(encoding="utf-8")
        assert f"<h1>Features of tiny: {title}</h1>" in atlas
