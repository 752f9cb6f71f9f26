"""Tests of episodes for adapting: strategies, times, subsets, and their keys."""

from dataclasses import replace

import pytest
import torch
from scipy import stats

from icgeo import sampling, sphere
from icgeo.config import UsageError
from icgeo.training.episodes import (
    FAR_KM,
    Gallery,
    choose_pairs,
    draw_times,
    sample_episode,
    times_for,
)
from icgeo.training.options import EPISODE_CHOICES, EpisodeSamplingOptions


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def gallery():
    """Places along the equator, a degree apart; photos whose look goes around every 90 of them."""
    lon = torch.arange(-180.0, 180.0)
    turn = torch.deg2rad(4 * lon)
    return Gallery.of(
        torch.stack((torch.zeros_like(lon), lon), dim=-1).double(),
        torch.stack((turn.cos(), turn.sin()), dim=-1),
    )


def apart(lon):
    """Degrees from the middle of a run of longitudes, around the antimeridian too."""
    return ((lon[:, None] - lon[None] + 180) % 360 - 180).abs()


@pytest.mark.parametrize("name", EPISODE_CHOICES)
def test_every_choice_gives_each_photo_once_and_depends_on_the_seed_alone(gallery, name):
    found = choose_pairs(gallery, name, 9, generator(4))
    assert len(found.unique()) == 9
    assert torch.equal(found, choose_pairs(gallery, name, 9, generator(4)))


def test_a_choice_that_is_not_known_is_refused(gallery):
    with pytest.raises(ValueError, match=r"expected a choice of \('random', .*, got 'nearest'"):
        choose_pairs(gallery, "nearest", 9, generator())


def test_alike_photos_are_of_one_look(gallery):
    """The look comes back every 90 degrees: of 9 alike, places differ by 90 k plus at most 2."""
    for seed in range(5):
        chosen = choose_pairs(gallery, "alike", 9, generator(seed))
        residue = (apart(chosen.double()) + 45) % 90 - 45
        assert residue.abs().max() <= 4


def test_near_photos_come_with_distractors(gallery):
    spans = []
    for seed in range(5):
        chosen = choose_pairs(gallery, "near", 10, generator(seed)).double()
        assert apart(chosen[:5]).max() <= 4
        spans.append(apart(chosen).max().item())
    assert max(spans) > 90


def test_confusing_photos_are_alike_but_far(gallery):
    first, *others = choose_pairs(gallery, "confusing", 10, generator(1)).tolist()
    km = sphere.EARTH_RADIUS_KM * sphere.angle(gallery.xyz[others], gallery.xyz[first])
    assert km.min() > FAR_KM
    likeness = gallery.features[others] @ gallery.features[first]
    assert likeness.min() > 0.99


def test_confusing_takes_the_farthest_where_none_is_far():
    lat_lon = torch.stack((torch.zeros(6), torch.arange(6.0)), dim=-1).double()
    near = Gallery.of(lat_lon, torch.rand(6, 3, generator=generator()))
    assert len(choose_pairs(near, "confusing", 6, generator()).unique()) == 6


def test_times_are_logit_normal_with_an_atom():
    t = draw_times(20000, share_at_t1=0.25, mean=0.5, scale=1.0, generator=generator())
    assert (t == 1).double().mean().item() == pytest.approx(0.25, abs=0.01)
    logits = torch.logit(t[t < 1].double())
    assert stats.kstest(logits.numpy(), "norm", args=(0.5, 1.0)).pvalue > 0.01


def test_times_are_shifted_as_those_of_sampling():
    uniform = torch.linspace(1, 0, 8, dtype=torch.float64)
    assert torch.equal(sampling.shifted(uniform, 3.0), sampling.time_grid(7, shift=3.0))
    half = sampling.shifted(torch.tensor(0.5), 3.0)
    assert half.item() == pytest.approx(0.75)  # 3 / 2 over 1 + 2 / 2


@pytest.mark.parametrize(("steps", "share"), [(None, 0.6), (1, 0.6), (4, 0.6), (28, 1 / 28)])
def test_times_are_those_of_the_steps_that_are_meant(steps, share):
    """For many, as often below 0.5 as sampling is, at the shift of klein base for 28 steps."""
    options = EpisodeSamplingOptions(for_steps=steps)
    t = draw_times(40000, **times_for(options), generator=generator())
    assert (t == 1).double().mean().item() == pytest.approx(share, abs=0.01)
    low = (sampling.shifted(t, 6.1) < 0.5).double().mean().item()
    assert low == pytest.approx(0.136 if steps == 28 else 0.004, abs=0.006)
    chosen = times_for(replace(options, share_at_t1=0.25, time_mean=0.1))
    assert (chosen["share_at_t1"], chosen["mean"]) == (0.25, 0.1)


def test_no_step_is_refused():
    with pytest.raises(UsageError, match="expected for_steps of at least 1, got 0"):
        EpisodeSamplingOptions(for_steps=0)


def test_an_episode_follows_from_its_key(gallery):
    options = EpisodeSamplingOptions(views=7, drop_examples=0.5, drop_text=0.5)
    first, again, other = (
        sample_episode(gallery, options, *key) for key in ((0, 3), (0, 3), (0, 4))
    )
    for name in ("pairs", "visible", "t"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert torch.equal(first.noise(2, 3), again.noise(2, 3))
    assert not torch.equal(first.pairs, other.pairs)
    assert not torch.equal(first.noise(2, 3), other.noise(2, 3))


def test_targets_never_see_themselves_and_some_see_nothing(gallery):
    options = EpisodeSamplingOptions(views=6, drop_examples=0.3, drop_text=0.4)
    drawn = [sample_episode(gallery, options, i) for i in range(400)]
    shots = torch.stack([one.visible.sum(1) for one in drawn])
    assert not any(one.visible.diagonal().any() for one in drawn)
    assert set(shots.unique().tolist()) == set(range(6))
    assert 0.3 < (shots == 0).double().mean() < 0.6
    assert sum(not one.has_text for one in drawn) / 400 == pytest.approx(0.4, abs=0.07)
    everyone = EpisodeSamplingOptions(views=6, drop_examples=0.0, drop_text=0.0)
    assert all(sample_episode(gallery, everyone, i).has_text for i in range(20))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"choices": ("nearest",)}, r"choices of \['alike', .*\], got \['nearest'\]"),
        ({"choices": ()}, r"got \[\]"),
        ({"views": 1}, "at least 2 views an episode, got 1"),
    ],
)
def test_options_that_cannot_be(options, words):
    with pytest.raises(UsageError, match=words):
        EpisodeSamplingOptions(**options)
