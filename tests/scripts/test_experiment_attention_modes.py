"""Test of comparing modes end to end, on one episode."""

import json
from functools import partial

from script_runs import run, untrained

from icgeo.data.worlds import procedural_world
from icgeo.evaluation import episodes


def test_modes_and_guidance_are_compared(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    low = partial(procedural_world, height=128)
    monkeypatch.setattr(episodes.worlds, "procedural_world", low)
    few = ("--episodes", 1, "--queries", 1, "--shots", "[0,1]", "--guidance", "[2]")
    run("experiments/attention_modes", "--model", untrained(), "--attention", "[full]", *few)
    lines = capsys.readouterr().out.splitlines()
    names = ["pairwise, w = 1", "pairwise, w = 2", "full, w = 1"]
    assert [line.split("|")[1].strip() for line in lines[2:]] == 2 * names
    folder = tmp_path / "runs" / "modes"
    assert (folder / "modes.md").read_text().splitlines() == lines
    found = json.loads((folder / "modes.json").read_text())
    assert [one["shots"] for one in found] == 3 * [0] + 3 * [1]
    assert all(one["nll_difference"] == 0 for one in found[:3])
