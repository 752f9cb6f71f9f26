"""Training of the encoder of parts: correspondences are exact, runs continue, likelihoods fit."""

from dataclasses import replace

import pytest
import torch

from icgeo import sphere
from icgeo.data.orbit import view_directions
from icgeo.models import load
from icgeo.models.matching import LocalEncoder, MatchSettings
from icgeo.training import episodes
from icgeo.training.calibration import fit_matching
from icgeo.training.episodes import EpisodeOptions, WorldBank, sample_episodes
from icgeo.training.loop import train
from icgeo.training.parts import PartTraining, cell_directions, contrast


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    return WorldBank.build(
        tmp_path_factory.mktemp("worlds"), families=("terrain", "bands"), per_family=2, height=48
    )


OPTIONS = EpisodeOptions(worlds=2, views=6, earth_share=0.0, mixed_share=0.5)


def test_cells_look_where_the_view_of_so_many_pixels_does(bank):
    sampled = sample_episodes(bank, OPTIONS, generator=torch.Generator().manual_seed(0))
    directions, width = cell_directions(sampled.looks, 16)
    edge = sphere.angle(sampled.looks[:, :, 0, 0], sampled.looks[:, :, 0, -1])
    assert directions.shape == (2, 6, 256, 3)
    assert ((16 * width) / edge).mean() == pytest.approx(1.0, abs=0.15)
    fov = torch.full((2, 6), 40.0)
    looks = view_directions(sampled.xyz, fov, size=64)
    coarse = view_directions(sampled.xyz, fov, size=16).flatten(2, 3)
    # the mean of 4 x 4 directions is that of the middle, to the curvature within a cell
    assert sphere.angle(cell_directions(looks, 16)[0], coarse).max() < 0.002


def test_cells_that_tell_their_direction_have_the_least_loss(bank):
    sampled = sample_episodes(bank, OPTIONS, generator=torch.Generator().manual_seed(0))
    directions, _ = cell_directions(sampled.looks, 16)
    generator = torch.Generator().manual_seed(1)
    waves = 10.0 * torch.randn(3, 64, generator=generator)
    phase = directions @ waves
    told = torch.nn.functional.normalize(torch.cat((phase.cos(), phase.sin()), -1), dim=-1)
    blind = torch.nn.functional.normalize(torch.randn(told.shape, generator=generator), dim=-1)
    scale = torch.tensor(20.0)
    losses = [
        contrast(cells, sampled.looks, scale, generator=torch.Generator().manual_seed(2))
        for cells in (told, blind)
    ]
    assert losses[0] < 0.7 * losses[1]


def run_of(bank, folder, steps):
    torch.manual_seed(0)
    encoder = LocalEncoder(channels=8, width=8, deep_width=8)
    return PartTraining(encoder, bank, folder, steps, episodes=OPTIONS)


def test_a_run_that_was_stopped_continues_bit_by_bit(bank, tmp_path, monkeypatch):
    monkeypatch.setattr(WorldBank, "build_held_out", lambda folder: bank)
    often = {"validate_every": 2, "save_every": 1}
    whole = run_of(bank, tmp_path / "whole", 4)
    train(whole, 4, **often, is_main=False)
    stopped = run_of(bank, tmp_path / "stopped", 4)
    train(stopped, 2, **often, is_main=False)
    again = run_of(bank, tmp_path / "stopped", 4)
    train(again, 4, **often, is_main=False)
    expected, weights = whole.average.state_dict(), again.average.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in expected.items())
    assert (tmp_path / "whole" / "log.jsonl").read_text().count("held_out") == 2


def test_worlds_are_mixed_along_a_line(bank):
    worlds = torch.stack((torch.zeros(3, 48, 96), torch.ones(3, 48, 96)))
    generator = torch.Generator().manual_seed(0)
    mixed = episodes.mix_worlds(worlds, bank, 1.0, generator=generator)
    for world, before in zip(mixed, worlds, strict=True):
        assert 0.1 < (world - before).abs().amax(0).gt(0.02).float().mean() < 0.95
    same = episodes.mix_worlds(worlds, bank, 0.0, generator=generator)
    assert torch.equal(same, worlds)


def test_without_the_package_of_real_bodies_training_goes_on(bank, monkeypatch, caplog):
    monkeypatch.setattr(episodes, "find_spec", lambda name: None)
    assert bank.with_bodies() is bank
    assert "icgeo[pretraining]" in caplog.text


@pytest.mark.slow
def test_the_likelihood_of_matches_is_fitted(bank):
    model = load("tiny")
    fitted = fit_matching(model.describe_parts, bank, episodes=1, evaluations=3, seed=0)
    assert fitted != MatchSettings()
    assert 0 < fitted.floor < 0.2
    assert replace(fitted, floor=0.0) != fitted
