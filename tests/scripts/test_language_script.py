"""Test of scripts/language.py end to end, against a server on this machine."""

import csv
import json
import sys
from pathlib import Path

import pytest
from script_runs import load_script

from icgeo import config

sys.path.append(str(Path(__file__).parents[1] / "baselines"))
from chat_server import photo, serving

module = load_script("language")


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with serving() as server, Path("photos.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["image", "lat", "lon"])
        for name in ("good", "refused", "city"):
            photo(name).save(f"{name}.png")
            rows.writerow([f"{name}.png", 48.858, 2.294])
        stream.close()
        address = f"http://127.0.0.1:{server.server_port}/v1"

        def run(*words):
            given = ["photos.csv", "--base_url", address, "--model", "any", *words]
            module.main(config.parse(module.Options, given))
            return server

        yield run


@pytest.mark.slow
def test_costs_first_then_answers_then_nothing_again(run, capsys):
    price = ("--usd_per_million", "3,15")
    assert not run("--plan", *price).requests
    assert capsys.readouterr().out.startswith("3 questions (0 answered before), about ")
    assert len(run(*price).requests) == 3
    told = capsys.readouterr().out
    assert "at most about 0.09 USD" in told, "3 x 2000 tokens at 15 USD a million, and the photos"
    assert "33%" in told.splitlines()[-1], "one of three is within 2500 km"
    assert len(run(*price).requests) == 3
    assert "3 questions (3 answered before)" in capsys.readouterr().out
    lines = Path("runs/language/answers.jsonl").read_text().splitlines()
    assert sum(bool(json.loads(line)["reason"]) for line in lines) == 1


def test_a_budget_stops_it_before_it_asks(run):
    with pytest.raises(config.UsageError, match="locate fewer photos, or allow more"):
        run("--usd_per_million", "3,15", "--budget_usd", "0.001")
    with pytest.raises(config.UsageError, match="expected one manifest"):
        module.main(module.Options())
