"""Tests of clips as episodes, and of locating them: resumable at any byte."""

import numpy as np
import pytest
import torch
from PIL import Image

from icgeo.evaluation import Episode, Query, evaluate_sequences, world_episode
from icgeo.evaluation.rows import known_rows
from icgeo.evaluation.sequences import SMOOTHED, WHOLE
from icgeo.prediction import Prediction, SequencePrediction
from icgeo.sphere import distance_km
from icgeo.sphere.density import Density


def test_a_clip_is_frames_along_an_orbit_and_examples_anywhere(tmp_path):
    noise = np.random.default_rng(0).integers(256, size=(16, 32, 3), dtype=np.uint8)
    world = tmp_path / "mars.png"
    Image.fromarray(noise).save(world)
    few = {"queries": 4, "shots": 2, "seed": 7, "is_clip": True}
    clip, again = (world_episode(str(world), 3, **few) for _ in range(2))
    assert (clip.id, clip.prompt, len(clip.examples)) == ("mars-clip-7-3", "unknown world", 2)
    assert [query.seconds for query in clip.queries] == [0, 60, 120, 180]
    places = torch.tensor([query.lat_lon for query in clip.queries])
    assert distance_km(places[0], places[-1]).item() == pytest.approx(3 * 460, abs=1)
    for one, other in zip(clip.queries, again.queries, strict=True):
        assert np.array_equal(one.photo, other.photo)


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


@pytest.mark.slow
def test_a_run_killed_at_any_byte_ends_with_the_same_rows(tmp_path):
    def photo(lon):
        return np.full((2, 2, 3), lon, dtype=np.uint8)

    episodes = [
        Episode(f"clip {c}", "moon", [], [
            Query(f"{c}/{i}", photo(20 * i), (0.0, 20.0 * i), seconds=60.0 * i) for i in range(3)
        ]) for c in range(2)
    ]  # fmt: skip
    runs = [(Pointing(), episode) for episode in episodes]
    frame = evaluate_sequences(runs, folder=tmp_path, speed_kmh=5.0)
    rows = list(known_rows(tmp_path).values())
    assert len(frame) == len(rows) == 2 * (3 + 1 + 3)
    whole = next(row for row in rows if row.locator == WHOLE)
    assert (whole.true_lat, whole.true_lon) == pytest.approx((0, 20))
    assert whole.distance_km == pytest.approx(distance_km((0, 0), (0, 20)).item())
    file = tmp_path / "predictions.jsonl"
    content = file.read_bytes()
    for size in range(0, len(content), 997):
        file.write_bytes(content[:size])
        assert evaluate_sequences(runs, folder=tmp_path, speed_kmh=5.0).equals(frame)
        assert file.read_bytes() == content
    few = evaluate_sequences(runs, folder=tmp_path / "few", speed_kmh=5.0, frames_alone=False)
    assert few.locator[:4].tolist() == [WHOLE, SMOOTHED, SMOOTHED, SMOOTHED]
