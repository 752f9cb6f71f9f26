"""Tests of the evaluation of clips: end to end on few, and on rows known by hand."""

import json

import pytest
from script_runs import load_script, run, untrained

from icgeo.evaluation import Row, to_frame
from icgeo.evaluation.scores import GUESS_KM
from icgeo.evaluation.sequences import SMOOTHED, WHOLE

score_clips = load_script("experiments/sequences").score_clips


@pytest.mark.slow
def test_clips_are_evaluated(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    few = ("--clips", 1, "--frames", 3, "--shots", 2)
    run("experiments/sequences", "--model", untrained(), *few)
    table = capsys.readouterr().out
    cells = [[cell.strip() for cell in line.split("|")[1:5]] for line in table.splitlines()[2:]]
    kinds = ("frames alone", "smoothed", "whole clip")
    assert cells == [
        [world, shots, "1", kind]
        for world, shots in (("blue-marble", "0"), ("held-out families", "2"))
        for kind in kinds
    ]
    folder = tmp_path / "runs" / "clips"
    assert (folder / "clips.md").read_text().strip() == table.strip()
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert len(rows) == 2 * (3 + 3 + 1)


def row(locator, clip, frame, distance, nll):
    return Row(
        locator=locator,
        episode=f"clip {clip}",
        world="moon",
        id=f"{clip}/{frame}",
        shots=16,
        true_lat=1.0,
        true_lon=2.0,
        distance_km=distance,
        nll=nll,
        level=0.5,
        area_90_km2=1.0,
        located=distance is not None,
        seconds=0.1,
    )


def test_scores_have_the_numbers_of_their_rows():
    """A frame without an answer counts as a guess; what a clip gains is the same for both here."""
    rows = []
    for clip, shift in enumerate((0.0, 600.0)):
        rows += [row("icgeo", clip, 0, 1000 + shift, 2.0), row("icgeo", clip, 1, None, 2.5)]
        rows += [row(WHOLE, clip, "all", 400 + shift / 2, 0.5)]
        rows += [row(SMOOTHED, clip, frame, 500 + shift / 2, 1.0) for frame in range(2)]
    alone, smoothed, whole = (
        line[2:] for line in score_clips(to_frame(rows)).itertuples(index=False, name=None)
    )
    guessed = f"{(1300 + GUESS_KM) / 2:.0f}"
    assert alone == (2, "frames alone", "50%", guessed, "2.25", "", "")
    assert smoothed[:5] == (2, SMOOTHED, "100%", "650", "1.00")
    assert whole[:5] == (2, WHOLE, "100%", "550", "0.50")
    for line, km in ((smoothed, 500), (whole, 400)):
        both = [km - (1000 + GUESS_KM) / 2, km + 300 - (1600 + GUESS_KM) / 2]
        assert line[5] == f"{sum(both) / 2:.0f} ({min(both):.0f}, {max(both):.0f})"
    assert smoothed[6] == "-1.25 (-1.25, -1.25)"
