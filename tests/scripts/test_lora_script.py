"""Test of adapting end to end: a planet, a user's photos, and a second start."""

import json
import re
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


def test_a_plan_names_what_it_was_measured_on(tmp_path, capsys):
    run("lora", "--plan", True)
    out = capsys.readouterr().out
    assert re.search(r"fits [\d.]+ GiB, the RAM of the CPU \(\d+ threads?\)", out)
    assert re.search(r"at least [\d:.]+ s? ?at [\d.]+ [MGT]FLOP/s, measured on the CPU", out)
    klein = "black-forest-labs/FLUX.2-klein-base-4B"
    run("lora", "--plan", True, "--model", klein, "--quantization", "nf4")
    out = capsys.readouterr().out
    assert "needs a GPU for this quantization, and this is the CPU" in out
    assert "fits" not in out
    with pytest.raises(UsageError, match="expected a manifest, found no such file"):
        run("lora", "--plan", True, "--data", tmp_path / "none.csv")


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


@pytest.mark.slow
def test_a_users_photos_are_adapted_to(tmp_path, capsys):
    rows = ["image,lat,lon", "broken.png,1,2"]
    noise = np.random.default_rng(0).integers(256, size=(12, 4, 4, 3), dtype=np.uint8)
    for i in range(12):
        Image.fromarray(noise[i]).resize((20, 20)).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,{5 * i},{3 - 10 * i}")
    (tmp_path / "broken.png").touch()
    manifest = tmp_path / "mine.csv"
    manifest.write_text("\n".join(rows) + "\n")
    options = ("--model", untrained(), "--data", manifest, "--name", "mine", *FEW)
    run("lora", *options)
    out = capsys.readouterr().out
    assert "7 photos to train on, 2 for validation, 3 to compare on; with --data the opt" in out
    folder = tmp_path / "runs" / "mine"
    assert (folder / "skipped.txt").read_text().startswith("broken.png: ")
    last = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 2
    with pytest.raises(UsageError, match="at least 9 pairs to train on for 8 shots, got 7"):
        run("lora", *options, "--shots", "[8]", "--name", "other")


def test_street_photos_ask_for_a_model():
    photos = Path(__file__).parents[2] / "assets" / "photos" / "photos.csv"
    with pytest.raises(UsageError, match=r"--model: tiny knows views from orbit, and \d+ of 43"):
        run("lora", "--data", photos, *FEW)
