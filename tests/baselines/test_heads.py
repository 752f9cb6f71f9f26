"""Tests of trainable ways: they learn by heart, densities are densities, runs go on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch.nn.functional import normalize

from icgeo import config
from icgeo.baselines.constant import Chance, MeanOfExamples, Population
from icgeo.baselines.head import Head, HeadLocator, PointingHead, TrainingSettings
from icgeo.baselines.mixture import MixtureSettings, VmfMixture
from icgeo.baselines.registry import WAYS
from icgeo.baselines.retrieval import KernelRetrieval
from icgeo.data.orbit import random_views, views_to_examples
from icgeo.data.worlds import procedural_world
from icgeo.features import open as open_features
from icgeo.prediction import Example, Locator
from icgeo.sphere import (
    distance_km,
    healpix,
    sample_uniform,
    sample_von_mises_fisher,
    to_lat_lon,
    to_xyz,
)
from icgeo.training.heads import HeadTraining, InContextHead, train_head

SMALL = {"width": 16, "batch_size": 8}
CONFIGS = Path(__file__).parents[2] / "configs" / "baselines"

pytestmark = pytest.mark.usefixtures("forget_accelerator")


def photos(count, seed=0):
    """Random features and places."""
    generator = torch.Generator().manual_seed(seed)
    features = normalize(torch.randn(count, 24, generator=generator), dim=-1)
    return features, sample_uniform(count, generator=generator).float()


def photos_for(way, count):
    """Features as a way looks at photos, random ones, and places."""
    features, xyz = photos(count)
    if way.features is not None:
        pictures = np.random.default_rng(0).integers(256, size=(count, 32, 32, 3), dtype=np.uint8)
        features = way.features.encode(list(pictures))
    return features, xyz


def answers(head, features):
    with torch.inference_mode():
        if isinstance(head, PointingHead):
            return head.points(features).double()
        return torch.stack([density.best_point() for density in head.densities(features)])


@pytest.fixture(scope="module")
def trained():
    """Every way, trained a little on eight photos, with what it was trained on."""
    heads = {}
    for name, way in WAYS.items():
        features, xyz = photos_for(way, 8)
        settings = replace(way.on_examples().settings, **SMALL)
        head = replace(way, settings=settings).head(features, xyz)
        head = train_head(head, features, xyz, steps=20, settings=settings)
        heads[name] = (head, features, xyz)
    return heads


@pytest.mark.parametrize("name", WAYS)
def test_densities_integrate_to_one_and_samples_agree_with_them(trained, name):
    """On a grid of equal areas, finer than theirs; counts of samples in octants by chi-square."""
    head, features, _ = trained[name]
    assert isinstance(head, Head)
    with torch.inference_mode():
        density = head.densities(features[:1])[0]
    generator = torch.Generator().manual_seed(3)
    points = healpix.cell_xyz(2 * density.nside)
    value = density.log_prob(to_lat_lon(points)).exp()
    assert (value.mean() * 4 * np.pi).item() == pytest.approx(1, abs=1e-3)
    octant = (points > 0).long() @ torch.tensor([1, 2, 4])
    expected = torch.bincount(octant, value, 8) / value.sum()
    sampled = (to_xyz(density.sample(4000, generator)) > 0).long() @ torch.tensor([1, 2, 4])
    counts = torch.bincount(sampled, minlength=8)
    kept = expected > 1e-3
    assert (
        chisquare(counts[kept], (expected / expected[kept].sum())[kept] * counts[kept].sum()).pvalue
        > 1e-3
    )


@pytest.mark.parametrize("name", WAYS)
def test_training_lowers_the_loss(trained, name):
    learned, features, xyz = trained[name]
    settings = replace(WAYS[name].on_examples().settings, **SMALL)
    fresh = replace(WAYS[name], settings=settings).head(features, xyz)
    before, after = (
        head.loss(features, xyz, torch.Generator().manual_seed(1)).item()
        for head in (fresh, learned)
    )
    assert after < before


@pytest.mark.slow
@pytest.mark.parametrize("name", WAYS)
def test_every_way_learns_32_photos_by_heart(name):
    """To under 100 km in the median, in six seconds of the processor."""
    way = WAYS[name].on_examples()
    features, xyz = photos_for(way, 32)
    head = way.head(features, xyz)
    train_head(head, features, xyz, seconds=6, settings=way.settings)
    assert distance_km(answers(head, features), to_lat_lon(xyz.double())).median() < 100


def test_a_mixture_finds_the_distribution_that_photos_come_from():
    """Photos that look alike, around two places: as likely as under the truth, to 0.1 nats."""
    generator = torch.Generator().manual_seed(0)
    centres = to_xyz(torch.tensor([[40.0, 0.0], [-20.0, 120.0]], dtype=torch.float64))
    xyz = sample_von_mises_fisher(centres.repeat(200, 1), 50.0, generator=generator).float()
    features = torch.ones(len(xyz), 4)
    features[:, 0] = 2
    settings = MixtureSettings(components=2, width=16, learning_rate=0.03)
    head = VmfMixture(features, xyz, settings)
    train_head(head, features, xyz, steps=200, settings=settings)
    truth = (
        np.log(50 / (2 * np.pi) / 2) - 1
    )  # entropy of half of a narrow vMF, with its sign turned
    assert head.loss(features, xyz, generator).item() == pytest.approx(-truth, abs=0.1)


def test_a_run_goes_on_where_it_stopped(tmp_path):
    features, xyz = photos(20)
    settings = MixtureSettings(**SMALL)

    def training(folder):
        torch.manual_seed(0)
        head = VmfMixture(features, xyz, settings)
        return HeadTraining(head, features, xyz, settings, steps=10, folder=folder)

    whole = training(None).run()
    stopped = training(tmp_path)
    for _ in range(4):
        stopped.update()
    stopped.save()
    again = training(tmp_path).run()
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    assert (tmp_path / "log.jsonl").exists()


def test_time_ends_a_run():
    features, xyz = photos(8)
    settings = MixtureSettings(**SMALL)
    training = HeadTraining(
        VmfMixture(features, xyz, settings), features, xyz, settings, seconds=0.2
    )
    training.run()
    assert 0.2 <= training.spent < 0.6
    assert training.step > 3


def test_a_budget_is_steps_or_seconds_and_photos_have_places():
    features, xyz = photos(4)
    head = VmfMixture(features, xyz, MixtureSettings(**SMALL))
    with pytest.raises(ValueError, match="expected either steps or seconds"):
        train_head(head, features, xyz)
    with pytest.raises(ValueError, match="expected a place for each"):
        train_head(head, features, xyz[:3], steps=1)


@pytest.fixture(scope="module")
def views():
    world = procedural_world("terrain", generator=3, height=128)
    seen = random_views(world, 14, generator=torch.Generator().manual_seed(0))
    examples = [Example(image, *at) for image, at in views_to_examples(seen.images, seen.lat_lon)]
    return examples[:8], [one.image for one in examples[8:]]


def test_heads_are_locators_with_and_without_examples(views):
    examples, queries = views
    pixels = open_features("pixels")
    way = replace(WAYS["vmf"], settings=MixtureSettings(**SMALL))
    locator = InContextHead(pixels.encode, way, "vmf", steps=30)
    assert isinstance(locator, Locator)
    known = locator.fit(examples)
    assert isinstance(known, HeadLocator)
    once, again = locator.locate(queries, examples), locator.locate(queries, examples)
    assert [(p.lat, p.lon) for p in once] == [(p.lat, p.lon) for p in again]
    assert all(p.located and p.seconds > 0 for p in once)
    nothing = [(p.lat, p.lon) for p in locator.locate(queries, [])]
    assert nothing == [(p.lat, p.lon) for p in Chance().locate(queries, [])]
    assert known.locate([], examples) == []


def test_kernel_retrieval_is_right_where_examples_come_again(views):
    examples, _ = views
    locator = KernelRetrieval(open_features("pixels"))
    predictions = locator.locate([one.image for one in examples], examples)
    true = torch.tensor([[one.lat, one.lon] for one in examples], dtype=torch.float64)
    nll = [-p.density.log_prob(place).item() for p, place in zip(predictions, true, strict=True)]
    assert np.mean(nll) < np.log(4 * np.pi) - 1
    (alone,) = locator.locate([examples[0].image], examples[:1])
    assert distance_km((alone.lat, alone.lon), true[0]) < 250  # half a cell of 4 degrees


def test_the_mean_of_examples_is_that_of_their_vectors():
    """Four places around the pole: its concentration is that of their resultant, of five."""
    examples = [Example(np.zeros((4, 4, 3), np.uint8), 60, lon) for lon in (-180, -90, 0, 90)]
    (answer,) = MeanOfExamples().locate([examples[0].image], examples)
    assert answer.lat == pytest.approx(90)
    length = 4 * np.sin(np.radians(60)) / 5
    kappa = length * (3 - length**2) / (1 - length**2)
    ratio = answer.density.log_prob([80, 10]) - answer.density.log_prob([-80, 10])
    assert ratio.item() == pytest.approx(2 * kappa * np.sin(np.radians(80)), rel=0.05)


def test_people_live_in_cities_and_everywhere_a_little():
    (answer,) = Population().locate([np.zeros((4, 4, 3), np.uint8)], [])
    delhi, pacific = answer.density.log_prob([[28.6, 77.2], [-48.9, -123.4]])
    assert delhi > -np.log(4 * np.pi) + 3
    assert pacific.item() == pytest.approx(np.log(0.05 / (4 * np.pi)), abs=0.01)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_published_settings_are_settings_of_a_way(path):
    way = WAYS[path.stem.replace("-", " ")]
    settings = config.parse(type(way.settings), ["--config", str(path)])
    assert isinstance(settings, TrainingSettings)
    assert settings != way.settings


def test_every_way_has_its_published_settings():
    assert {path.stem.replace("-", " ") for path in CONFIGS.glob("*.yaml")} >= set(WAYS)
