"""Test of adapting end to end: a planet, a user's photos, and a second start."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from script_runs import run, untrained

from icgeo.config import UsageError

FEW = (
    "--steps",
    2,
    "--views",
    3,
    "--episodes",
    2,
    "--rank",
    2,
    "--shots",
    "[0,2]",
    "--tracker",
    "none",
    "--mixed_precision",
    "no",
)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def test_a_planet_is_adapted_to_and_compared(tmp_path, capsys):
    noise = np.random.default_rng(0).integers(256, size=(8, 16, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((128, 64)).save(tmp_path / "mars.png")
    counts = ("--photos", 8, "--validation", 2, "--queries", 18)
    options = ("--model", untrained(), "--world", tmp_path / "mars.png", *counts, *FEW)
    run("lora", *options)
    out = capsys.readouterr().out
    names = [line.split("|")[1].strip() for line in out.splitlines() if line.startswith("| ")]
    assert names[2:] == 2 * ["zero-shot", "LoRA", "LoRA, no examples"]
    folder = tmp_path / "runs" / "lora"
    rows = pandas.read_parquet(folder / "comparison" / "predictions.parquet")
    assert len(rows) == 2 * 2 * 18
    assert rows.groupby("locator")["episode"].nunique().to_dict() == {"LoRA": 2, "zero-shot": 2}
    title, _, report = (folder / "comparison" / "comparison.md").read_text().partition("\n\n")
    assert title == "# Zero-shot against LoRA"
    assert report in out
    assert (folder / "comparison" / "maps.png").stat().st_size > 1000
    card = (folder / "adapter" / "README.md").read_text()
    assert "8 photos of" in card
    assert "- rank: 2" in card
    first = (folder / "log.jsonl").read_text()
    run("lora", *options)  # nothing is left to do
    assert (folder / "log.jsonl").read_text() == first
    assert capsys.readouterr().out == out


def test_a_plan_starts_nothing(tmp_path, capsys):
    run("lora", "--plan", True, "--rank", 4)
    assert "4.1 million parameters frozen" in capsys.readouterr().out
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_a_run_killed_in_the_middle_ends_with_the_same_weights(tmp_path):
    """SIGKILL as soon as a checkpoint is there; bit by bit, on one process."""
    script = Path(__file__).parents[2] / "scripts" / "lora.py"
    options = ("--model", untrained(), *FEW, "--photos", 8, "--validation", 2, "--queries", 2)
    longer = ("--steps", 30, "--save_every", 3, "--validate_every", 15, "--name")
    command = [str(part) for part in (sys.executable, script, *options, *longer)]
    subprocess.run([*command, "whole"], check=True, capture_output=True)
    checkpoints = tmp_path / "runs" / "killed" / "checkpoints"
    with subprocess.Popen([*command, "killed"], stderr=subprocess.DEVNULL) as process:
        while not (checkpoints / "00000006").exists() and process.poll() is None:
            time.sleep(0.01)
        process.kill()
    left = [int(path.name) for path in checkpoints.iterdir() if path.name.isdigit()]
    assert 0 < max(left) < 30
    subprocess.run([*command, "killed"], check=True, capture_output=True)
    for end in ("adapter/pytorch_lora_weights", "checkpoints/00000030/adapter"):
        one, other = (
            load_file(tmp_path / "runs" / name / f"{end}.safetensors")
            for name in ("whole", "killed")
        )
        assert all(torch.equal(x, other[name]) for name, x in one.items())


def test_a_users_photos_are_adapted_to(tmp_path):
    rows = ["image,lat,lon", "broken.png,1,2"]
    for i in range(12):
        Image.new("RGB", (20, 20), (20 * i, 0, 9)).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,{5 * i},{3 - 10 * i}")
    (tmp_path / "broken.png").touch()
    manifest = tmp_path / "mine.csv"
    manifest.write_text("\n".join(rows) + "\n")
    options = ("--model", untrained(), "--data", manifest, "--name", "mine", *FEW)
    run("lora", *options)
    folder = tmp_path / "runs" / "mine"
    assert (folder / "skipped.txt").read_text().startswith("broken.png: ")
    last = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 2
    with pytest.raises(UsageError, match="at least 9 pairs to train on for 8 shots, got 7"):
        run("lora", *options, "--shots", "[8]", "--name", "other")
