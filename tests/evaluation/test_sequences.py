"""Tests of clips as episodes and of their scores, on rows whose numbers are known by hand."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from icgeo.evaluation import Episode, Query, Row, evaluate_sequences, sequence_episode
from icgeo.evaluation.legacy import GUESS_KM
from icgeo.evaluation.sequences import SMOOTHED, WHOLE, score_sequences, sequence_table
from icgeo.prediction import Prediction, SequencePrediction
from icgeo.sphere import distance_km
from icgeo.sphere.density import Density


def test_a_clip_is_frames_along_an_orbit_and_examples_anywhere(tmp_path):
    noise = np.random.default_rng(0).integers(256, size=(16, 32, 3), dtype=np.uint8)
    world = tmp_path / "mars.png"
    Image.fromarray(noise).save(world)
    clip, again = (sequence_episode(str(world), 3, frames=4, shots=2, seed=7) for _ in range(2))
    assert (clip.id, clip.prompt, len(clip.examples)) == ("mars-clip-7-3", "unknown world", 2)
    assert [query.seconds for query in clip.queries] == [0, 60, 120, 180]
    places = torch.tensor([query.lat_lon for query in clip.queries])
    assert distance_km(places[0], places[-1]).item() == pytest.approx(3 * 460, abs=1)
    for one, other in zip(clip.queries, again.queries, strict=True):
        assert np.array_equal(one.photo, other.photo)


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
    alone, smoothed, whole = score_sequences(rows)
    assert [s.locator for s in (alone, smoothed, whole)] == ["icgeo", SMOOTHED, WHOLE]
    assert (alone.clips, alone.located, whole.located) == (2, 0.5, 1)
    assert alone.mean_km == pytest.approx((1300 + GUESS_KM) / 2)
    assert alone.beyond_km.low == alone.beyond_km.high == 0
    assert (smoothed.mean_km, whole.mean_km) == (650, 550)
    for score, km in ((smoothed, 500), (whole, 400)):
        both = [km - (1000 + GUESS_KM) / 2, km + 300 - (1600 + GUESS_KM) / 2]
        beyond = score.beyond_km
        assert (beyond.low, beyond.high) == pytest.approx((min(both), max(both)))
        assert beyond.estimate == pytest.approx(sum(both) / 2)
    assert smoothed.beyond_nll.low == smoothed.beyond_nll.high == pytest.approx(1.0 - 2.25)
    lines = sequence_table([alone, smoothed, whole]).splitlines()
    assert [line.split("|")[4].strip() for line in lines[2:]] == ["frames alone", SMOOTHED, WHOLE]
    assert "-1.25 (-1.25 to -1.25)" in lines[3]
    assert not any(math.isnan(s.beyond_km.estimate) for s in (smoothed, whole))


class Pointing:
    """Sees the truth of a frame in its first pixel, and a whole at its first frame."""

    name = "pointing"

    def locate(self, photos, examples):
        places = [float(photo[0, 0, 0]) for photo in photos]
        densities = [Density.from_mixture((0.0, lon), 50.0, nside=8) for lon in places]
        return [
            Prediction(density, 0.0, lon, 1.0, located=True, seconds=0.1)
            for density, lon in zip(densities, places, strict=True)
        ]

    def locate_sequence(self, frames, examples, *, speed_kmh, seconds=None):
        located = self.locate(frames, examples)
        return SequencePrediction(located, located[0])


def test_a_run_killed_at_any_byte_ends_with_the_same_rows(tmp_path):
    def photo(lon):
        return np.full((2, 2, 3), lon, dtype=np.uint8)

    episodes = [
        Episode(f"clip {c}", "moon", [], [
            Query(f"{c}/{i}", photo(20 * i), (0.0, 20.0 * i), seconds=60.0 * i) for i in range(3)
        ]) for c in range(2)
    ]  # fmt: skip
    runs = [(Pointing(), episode) for episode in episodes]
    rows = evaluate_sequences(runs, folder=tmp_path, speed_kmh=5.0)
    assert len(rows) == 2 * (3 + 1 + 3)
    whole = next(row for row in rows if row.locator == WHOLE)
    assert (whole.true_lat, whole.true_lon) == pytest.approx((0, 20))
    assert whole.distance_km == pytest.approx(distance_km((0, 0), (0, 20)).item())
    file = tmp_path / "predictions.jsonl"
    content = file.read_bytes()
    for size in range(0, len(content), 997):
        file.write_bytes(content[:size])
        assert evaluate_sequences(runs, folder=tmp_path, speed_kmh=5.0) == rows
        assert file.read_bytes() == content
    few = evaluate_sequences(runs, folder=tmp_path / "few", speed_kmh=5.0, frames_alone=False)
    assert [row.locator for row in few[:4]] == [WHOLE, SMOOTHED, SMOOTHED, SMOOTHED]
