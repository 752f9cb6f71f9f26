"""Tests of pretraining: episodes, losses, resuming, calibration."""

import json
import math
from dataclasses import replace

import pytest
import torch

from icgeo import maps, sphere
from icgeo.data.orbit import ViewOptions
from icgeo.models.map_model import MapModel
from icgeo.models.settings import Settings
from icgeo.sphere.density import Density
from icgeo.training import calibration, pretrain
from icgeo.training.episodes import (
    EARTH,
    PROMPTS,
    EpisodeOptions,
    WorldBank,
    draw_times,
    random_subsets,
    recolour,
    sample_episodes,
)
from icgeo.training.loop import train
from icgeo.training.losses import match_loss
from icgeo.training.pretrain import STYLE, Pretraining, build_learner

SMALL = EpisodeOptions(worlds=3, views=5)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    return WorldBank.build(tmp_path_factory.mktemp("bank"), per_family=1, height=48)


def test_a_bank_is_drawn_once_and_read_again(tmp_path, bank):
    first = WorldBank.build(tmp_path, families=("ice",), per_family=2, height=48)
    assert first.pictures.shape == (5, 3, 48, 96)
    assert first.real == 3
    again = WorldBank.build(tmp_path, families=("ice",), per_family=2, height=48)
    assert torch.equal(first.pictures, again.pictures)
    assert len(list(tmp_path.iterdir())) == 1
    assert torch.equal(bank.pictures[:3], first.pictures[:3])


def test_subsets_leave_the_query_out_and_have_every_size():
    visible = random_subsets(200, 9, generator=generator())
    assert not visible.diagonal(dim1=1, dim2=2).any()
    shots = visible.sum(-1).flatten()
    assert shots.unique().tolist() == list(range(9))


def test_episodes_hold_what_they_promise(bank):
    episodes = sample_episodes(bank, SMALL, generator=generator())
    assert episodes.photos.shape == (3, 5, 3, 64, 64)
    torch.testing.assert_close(episodes.xyz.norm(dim=-1), torch.ones(3, 5))
    again = sample_episodes(bank, SMALL, generator=generator())
    assert torch.equal(episodes.photos, again.photos)


def test_the_earth_is_upright_and_other_worlds_are_not(bank):
    """A picture whose red channel is latitude tells: on the Earth red rises with latitude."""
    ramp = torch.linspace(255, 0, 48)[:, None].expand(48, 96).to(torch.uint8)
    graded = WorldBank(ramp[None, None].expand(4, 3, 48, 96).clone(), real=3)
    options = replace(SMALL, worlds=6, views=12, cap_share=0.0)
    shares = {}
    for name, share in (("earth", 1.0), ("unknown", 0.0)):
        episodes = sample_episodes(
            graded,
            replace(options, earth_share=share),
            generator=generator(1),
            view_options=ViewOptions(haze=(0, 0), exposure_stops=(0, 0)),
        )
        rank = [
            torch.corrcoef(torch.stack((photos[:, 0].mean((1, 2)), xyz[:, 2])))[0, 1].item()
            for photos, xyz in zip(episodes.photos, episodes.xyz, strict=True)
        ]
        shares[name] = sum(abs(r) > 0.75 for r in rank) / len(rank)
        assert (episodes.prompt == (0 if name == "earth" else 1)).all()
    assert shares["earth"] == 1
    assert shares["unknown"] < 0.7


def test_recolouring_is_the_same_for_all_views_of_a_world():
    photos = torch.rand(1, 1, 3, 8, 8, generator=generator()).expand(4, 3, 3, 8, 8)
    found = recolour(photos, generator=generator(1))
    torch.testing.assert_close(found[:, 0], found[:, 2])
    assert (found[0] - found[1]).abs().mean() > 0.01
    assert found.min() >= 0
    assert found.max() <= 1


def test_overlap_and_the_earth_give_way_as_a_run_goes_on():
    start, end = SMALL.at(0), SMALL.at(1)
    assert start == SMALL
    for share in ("near_share", "cap_share", "earth_share"):
        assert 0 < getattr(end, share) < getattr(start, share)


def test_times_have_an_atom_at_one():
    t = draw_times(20000, share_at_t1=0.6, generator=generator())
    assert (t == 1).float().mean().item() == pytest.approx(0.6, abs=0.02)
    assert t.min() >= 0
    assert t[t < 1].mean().item() == pytest.approx(2 / 3, abs=0.01)  # density 2 t


def test_match_loss_is_that_of_a_hand_computed_case():
    """Two coincident views and one far away: each of the two should pick the other."""
    xyz = torch.tensor([[[1.0, 0, 0], [1.0, 0, 0], [-1.0, 0, 0]]])
    descriptors = torch.tensor([[[1.0, 0], [1.0, 0], [0.0, 1]]])
    scale = torch.tensor(2.0)
    found = match_loss(descriptors, xyz, scale)
    assert found.item() == pytest.approx(math.log(1 + math.exp(-2)), abs=1e-6)
    far = torch.eye(3)[None]
    assert match_loss(torch.eye(3)[None], far, scale) == 0


def small_run(bank, folder, steps=6):
    return Pretraining(
        build_learner(heads=2, single_layers=1, photo_channels=8, codec_places=400),
        bank,
        folder,
        1e-3,
        steps,
        warmup=2,
        episodes=SMALL,
        match_steps=2,
    )


@pytest.mark.slow
def test_a_killed_run_ends_with_the_weights_of_one_never_killed(bank, tmp_path, monkeypatch):
    monkeypatch.setattr(Pretraining, "validate", lambda self: {"held-out": 0.0})
    whole = small_run(bank, tmp_path / "whole")
    train(whole, 6, validate_every=3, save_every=2)
    killed = small_run(bank, tmp_path / "killed")
    for _ in range(4):
        killed.update()
    killed.save()
    killed.update()  # after the checkpoint: lost, and drawn again
    resumed = small_run(bank, tmp_path / "killed")
    train(resumed, 6, validate_every=3, save_every=2)
    assert resumed.step == whole.step == 6
    for name, weight in whole.learner.state_dict().items():
        assert torch.equal(weight, resumed.learner.state_dict()[name]), name
    log = (tmp_path / "whole" / "log.jsonl").read_text().splitlines()
    assert json.loads(log[-1])["step"] == 6


def test_validation_reports_each_kind_of_world(bank, tmp_path, monkeypatch):
    monkeypatch.setattr(WorldBank, "build_held_out", lambda folder: bank)
    few = lambda bank, options, **more: sample_episodes(bank, replace(options, worlds=2), **more)  # noqa: E731
    monkeypatch.setattr(pretrain, "sample_episodes", few)  # for time
    run = small_run(bank, tmp_path)
    found = run.validate()
    assert set(found) == {
        "seen families, 1 shots",
        "seen families, 16 shots",
        "held-out families, 1 shots",
        "held-out families, 4 shots",
        "held-out families, 16 shots",
        "Earth, 0 shots",
        "Earth, 16 shots",
    }
    assert all(0 < error < 20016 for error in found.values())
    assert run.learner.training


@pytest.mark.slow
def test_the_learner_learns(bank, tmp_path):
    """On one batch over and over the flow loss falls well under that of an untrained model."""
    run = small_run(bank, tmp_path)
    run.match_steps, run.share_at_t1 = 0, 1.0
    episodes = sample_episodes(bank, SMALL, generator=generator(3))
    optimizer = torch.optim.AdamW(run.learner.parameters(), lr=3e-3)
    found = []
    for _ in range(60):
        loss = run.losses(episodes)["flow"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert sum(found[-5:]) < 0.5 * sum(found[:5])


def test_tokens_must_fit_the_width():
    with pytest.raises(ValueError, match="at most 64 channels a token for 2 heads, got 180"):
        build_learner(heads=2)


def test_the_learning_rate_warms_up_and_falls(bank, tmp_path):
    run = replace(small_run(bank, tmp_path, 1000), learning_rate=1.0, warmup=100, fall=0.5)
    assert run.rate(0) == pytest.approx(0.01)
    assert run.rate(99) == run.rate(400) == 1
    assert run.rate(750) == pytest.approx(0.5)
    assert run.rate(999) == pytest.approx(0.02)


@pytest.mark.slow
def test_the_best_temperature_undoes_overconfidence():
    """Truth drawn from vMF(20), densities of kappa 80: a temperature of 4 is right."""
    centres = sphere.sample_uniform(300, generator=generator())
    truth = sphere.to_lat_lon(sphere.sample_von_mises_fisher(centres, 20.0, generator=generator(1)))
    densities = [
        Density.from_mixture(place[None], 80.0, nside=16) for place in sphere.to_lat_lon(centres)
    ]
    assert calibration.best_temperature(densities, truth) == pytest.approx(4.0, rel=0.2)
    plain = calibration.negative_log_likelihood(densities, truth)
    expected = -sum(d.log_prob(p) for d, p in zip(densities, truth, strict=True)).item() / 300
    assert plain == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_calibration_fills_the_settings(bank, monkeypatch):
    monkeypatch.setattr(calibration, "SHOTS", (0, 2))  # for time
    monkeypatch.setattr(calibration, "NOISES", calibration.NOISES[::4])
    learner = (
        build_learner(heads=2, single_layers=1, photo_channels=8, codec_places=400)
        .eval()
        .requires_grad_(False)
    )
    model = MapModel(learner, Settings(STYLE, PROMPTS, default_prompt=EARTH))
    monkeypatch.setattr(calibration, "CORRELATIONS", (0.0, 1.0))
    settings = calibration.calibrate(model, bank, episodes=1, clips=1, seed=0).settings
    assert settings.noise in calibration.NOISES
    assert set(settings.calibration) == set(PROMPTS)
    assert set(settings.calibration[EARTH]) == {str(shots) for shots in calibration.SHOTS}
    assert set(settings.frame_correlation) == set(PROMPTS)
    assert settings.temperature_in_sequence(EARTH, 8) in (8.0, 1.0)
    assert isinstance(settings.noise, maps.Noise)


@pytest.mark.parametrize(("shared", "correlation"), [(True, 1.0), (False, 0.0)])
def test_frames_that_are_wrong_together_count_as_one(shared, correlation, monkeypatch):
    """Eight frames of one place, off by 12 degrees as they say: all alike, or each in its way."""
    monkeypatch.setattr(calibration, "CORRELATIONS", (0.0, 0.3, 1.0))
    kappa, draws = math.radians(12) ** -2, generator(0)
    clips = []
    for truth in sphere.sample_uniform(16, 1, generator=draws):
        said = truth.expand(1 if shared else 8, 3)
        said = sphere.to_lat_lon(sphere.sample_von_mises_fisher(said, kappa, generator=draws))
        frames = [Density.from_mixture(place, kappa, nside=8) for place in said.expand(8, 2)]
        clips.append((frames, sphere.to_lat_lon(truth).expand(8, 2)))
    assert calibration.best_correlation(clips) == correlation
