"""Tests of the evidence: what is measured comes out as it was put in; end to end on few."""

import json
from types import SimpleNamespace

import pytest
from pandas import DataFrame
from script_runs import load_script, run, untrained

from icgeo import maps
from icgeo.evaluation.episodes import HELD_OUT, SEEN, name_groups
from icgeo.evaluation.rows import to_frame

module = load_script("experiments/worlds")


@pytest.mark.slow
def test_evidence_is_gathered(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    few = (
        "--queries",
        3,
        "--held_out",
        0,
        "--unseen",
        1,
        "--near",
        1,
        "--bank",
        20,
        "--seen",
        2,
        "--turned",
        1,
        "--by_heart",
        2,
        "--settings",
        1,
    )
    run("experiments/worlds", "--model", untrained(), *few)
    out = capsys.readouterr().out
    folder = tmp_path / "runs" / "worlds"
    evidence = json.loads((folder / "evidence.json").read_text())
    assert all(f"| {world} " in out for world in ("seen families", "turned-earth"))
    assert evidence["codec_and_ink_median_km"] > 0
    assert 0 <= evidence["share_of_queries_that_overlap"]["20%"]["16"] <= 1
    assert "held-out families, 4 x 8" in out
    assert "unseen families, most alike of 20" in out
    assert "blue-marble" in out
    names = {path.name for path in folder.iterdir()}
    assert {"evidence.md", "options.yaml"} <= names
    assert (folder / "evidence.md").read_text() in out


def test_families_become_groups():
    rows = DataFrame({"world": ["craters", "terrain", "blue-marble"]})
    assert name_groups(rows).world.tolist() == [HELD_OUT, SEEN, "blue-marble"]
    assert (name_groups(to_frame([])).world + ", more").tolist() == []


class Perfect:
    """A codec that loses nothing."""

    settings = SimpleNamespace(style=maps.MapStyle(height=32, width=64))

    def codec_round_trip(self, lat_lon):
        return maps.draw(lat_lon, self.settings.style)


def test_a_perfect_codec_costs_less_than_a_pixel():
    """A pixel at the equator has 360 / 64 degrees: 625 km."""
    assert 0 < module.codec_and_heatmap_km(Perfect(), count=16) < 625 / 4
    assert module.codec_and_heatmap_km(object()) is None
