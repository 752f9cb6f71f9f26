"""Tests of the evidence: what is measured comes out as it was put in; end to end on few."""

import json
from types import SimpleNamespace

import pytest
import torch
from pandas import concat
from script_runs import load_script, run, untrained

from icgeo import maps
from icgeo.baselines import NearestPixels
from icgeo.evaluation import Row, to_frame
from icgeo.evaluation.episodes import HELD_OUT, SEEN, name_groups
from icgeo.sphere import AREA_KM2

module = load_script("experiments/worlds")


@pytest.mark.slow
def test_evidence_is_gathered(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    few = (
        "--queries",
        3,
        "--held_out",
        0,
        "--unseen",
        1,
        "--near",
        1,
        "--bank",
        20,
        "--seen",
        2,
        "--turned",
        1,
        "--by_heart",
        2,
        "--settings",
        1,
    )
    run("experiments/worlds", "--model", untrained(), *few)
    out = capsys.readouterr().out
    folder = tmp_path / "runs" / "worlds"
    evidence = json.loads((folder / "evidence.json").read_text())
    assert set(evidence["groups"]) == {"unseen families", "seen families", "turned-earth"}
    assert evidence["groups"]["seen families"]["queries"] == 6
    assert evidence["codec_and_ink_median_km"] > 0
    assert 0 <= evidence["share_of_queries_that_overlap"]["20%"]["16"] <= 1
    assert "held-out families, 4 x 8" in out
    assert "unseen families, most alike of 20" in out
    assert "blue-marble" in out
    names = {path.name for path in folder.iterdir()}
    assert {"evidence.md", "shots.png", "calibration.png", "options.yaml"} <= names


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
    pixels = [row for shots in (1, 4, 16) for row in rows_of(NearestPixels.name, shots, 1.0)]
    return to_frame([*own, *pixels])


def test_learning_is_told_with_intervals(rows):
    """Errors fall as 1 / shots in every row, so the ratio is 1 / 16 in every resample."""
    found = module.learning(rows)
    assert (found["episodes"], found["queries"]) == (8, 40)
    ratio = found["median_16_over_1_shot"]
    assert [ratio[name] for name in ("estimate", "low", "high")] == pytest.approx(3 * [1 / 16])
    assert set(found["km_above_nearest_by_pixels"]) == {4, 16}
    assert found["km_above_nearest_by_pixels"][4]["high"] < 0
    assert found["coverage_90"][16] == pytest.approx(37 / 40)
    assert found["area_90"][16] == pytest.approx(0.1)


def test_families_become_groups(rows):
    other = rows[:2].assign(world=["terrain", "blue-marble"])
    assert set(name_groups(rows).world) == {HELD_OUT}
    assert name_groups(other).world.tolist() == [SEEN, "blue-marble"]


def test_evidence_is_written_as_tables_and_json(rows, tmp_path):
    alone = rows[rows.shots == 16].assign(world="settings")
    values = {
        "groups": {HELD_OUT: module.learning(rows)},
        "codec_and_ink_median_km": 12.0,
        "unknown": float("nan"),
    }
    text = module.write_evidence(tmp_path, concat([name_groups(rows), alone]), values)
    assert text == (tmp_path / "evidence.md").read_text()
    assert text.startswith("| world")
    values = json.loads((tmp_path / "evidence.json").read_text())
    assert set(values["groups"]) == {HELD_OUT}
    assert (values["codec_and_ink_median_km"], values["unknown"]) == (12.0, None)
    assert HELD_OUT in text
    assert "settings" in text


class Perfect:
    """A codec that loses nothing."""

    settings = SimpleNamespace(style=maps.MapStyle(height=32, width=64))

    def codec_round_trip(self, lat_lon):
        return maps.draw(lat_lon, self.settings.style)


def test_a_perfect_codec_costs_less_than_a_pixel():
    """A pixel at the equator has 360 / 64 degrees: 625 km."""
    assert 0 < module.codec_and_heatmap_km(Perfect(), count=16) < 625 / 4
    assert module.codec_and_heatmap_km(object()) is None
