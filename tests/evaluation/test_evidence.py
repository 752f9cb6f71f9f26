"""Tests of the evidence: what is measured comes out as it was put in."""

import json
from dataclasses import replace

import pytest
import torch

from icgeo import maps
from icgeo.baselines import NearestPixels
from icgeo.evaluation import Row
from icgeo.evaluation.evidence import (
    HELD_OUT,
    SEEN,
    by_group,
    codec_and_heatmap_km,
    family_episodes,
    learning,
    write_evidence,
)
from icgeo.sphere import AREA_KM2


def rows_of(locator, shots, scale):
    errors = 1000 + 4000 * torch.rand(40, generator=torch.Generator().manual_seed(1)).double()
    return [
        Row(
            locator=locator,
            episode=f"craters-{i % 8}",
            world="craters",
            id=str(i),
            shots=shots,
            true_lat=0.0,
            true_lon=0.0,
            lat=0.0,
            lon=0.0,
            distance_km=scale * error,
            nll=1.0,
            level=i / 40,
            area_90_km2=AREA_KM2 / 10,
            seconds=0.01,
        )
        for i, error in enumerate(errors.tolist())
    ]


@pytest.fixture
def rows():
    own = [row for shots in (1, 4, 16) for row in rows_of("icgeo", shots, 1 / shots)]
    return own + [row for shots in (1, 4, 16) for row in rows_of(NearestPixels.name, shots, 1.0)]


def test_learning_is_told_with_intervals(rows):
    """Errors fall as 1 / shots in every row, so the ratio is 1 / 16 in every resample."""
    found = learning(rows)
    assert (found["episodes"], found["queries"]) == (8, 40)
    ratio = found["median_16_over_1_shot"]
    assert [ratio[name] for name in ("estimate", "low", "high")] == pytest.approx(3 * [1 / 16])
    assert set(found["km_above_nearest_by_pixels"]) == {4, 16}
    assert found["km_above_nearest_by_pixels"][4]["high"] < 0
    assert found["coverage_90"][16] == pytest.approx(37 / 40)
    assert found["area_90"][16] == pytest.approx(0.1)


def test_families_become_groups(rows):
    other = [replace(rows[0], world=name) for name in ("terrain", "blue-marble")]
    assert {row.world for row in by_group(rows)} == {HELD_OUT}
    assert [row.world for row in by_group(other)] == [SEEN, "blue-marble"]


def test_evidence_is_written_as_tables_and_json(rows, tmp_path):
    alone = [replace(row, world="settings") for row in rows if row.shots == 16]
    text = write_evidence(tmp_path, by_group(rows) + alone, {"codec_and_ink_median_km": 12.0})
    assert text == (tmp_path / "evidence.md").read_text()
    assert text.startswith("| world")
    values = json.loads((tmp_path / "evidence.json").read_text())
    assert set(values["groups"]) == {HELD_OUT}
    assert values["codec_and_ink_median_km"] == 12.0
    assert HELD_OUT in text
    assert "settings" in text


class Perfect:
    """A codec that loses nothing."""

    style = maps.MapStyle.three_widths(height=32, width=64)

    def codec_round_trip(self, lat_lon):
        return maps.draw(lat_lon, self.style)


def test_a_perfect_codec_costs_less_than_a_pixel():
    """A pixel at the equator has 360 / 64 degrees: 625 km."""
    assert 0 < codec_and_heatmap_km(Perfect(), Perfect.style, count=16) < 625 / 4
    assert codec_and_heatmap_km(object(), Perfect.style) is None


def test_each_episode_of_a_group_has_a_world_of_its_own():
    first, second = family_episodes(SEEN, 2, queries=1)
    assert first.world != second.world
    assert len(first.examples) == 16
