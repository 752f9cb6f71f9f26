"""Test of the evaluation of clips end to end, on few."""

import json

import pytest
from script_runs import run, untrained


@pytest.mark.slow
def test_clips_are_evaluated(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    few = ("--clips", 1, "--frames", 3, "--shots", 2)
    run("evaluate_sequences", "--model", untrained(), *few)
    table = capsys.readouterr().out
    for part in ("| blue-marble | 0 | 1 |", "| held-out families | 2 | 1 |", "whole clip"):
        assert part in table
    folder = tmp_path / "runs" / "clips"
    assert (folder / "clips.md").read_text().strip() == table.strip()
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert len(rows) == 2 * (3 + 3 + 1)
