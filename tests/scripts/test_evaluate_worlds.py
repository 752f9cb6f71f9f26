"""Test of the evidence end to end, on few episodes."""

import json

import pytest
from script_runs import run, untrained


@pytest.mark.slow
def test_evidence_is_gathered(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    few = (
        "--queries",
        3,
        "--held_out",
        0,
        "--seen",
        2,
        "--turned",
        1,
        "--by_heart",
        2,
        "--settings",
        1,
    )
    run("evaluate_worlds", "--model", untrained(), *few)
    out = capsys.readouterr().out
    folder = tmp_path / "runs" / "worlds"
    evidence = json.loads((folder / "evidence.json").read_text())
    assert set(evidence["groups"]) == {"seen families", "turned-earth"}
    assert evidence["groups"]["seen families"]["queries"] == 6
    assert evidence["codec_and_ink_median_km"] > 0
    assert "held-out families, 4 x 8" in out
    assert "blue-marble" in out
    names = {path.name for path in folder.iterdir()}
    assert {"evidence.md", "shots.png", "calibration.png", "options.yaml"} <= names
