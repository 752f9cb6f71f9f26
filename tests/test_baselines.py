"""Tests of the baselines: what they know, what they answer, and nothing else."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from icgeo.baselines import Chance, NearestOracle, NearestPixels
from icgeo.data.orbit import develop, random_views, to_uint8
from icgeo.data.worlds import procedural_world
from icgeo.prediction import Example


def array(image):
    return image.permute(1, 2, 0).numpy()


@pytest.fixture(scope="module")
def views():
    world = procedural_world("terrain", generator=3, height=128)
    return random_views(world, 24, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def examples(views):
    places = views.lat_lon.tolist()
    return [Example(array(image), *at) for image, at in zip(views.images, places, strict=True)][:16]


@pytest.fixture(scope="module")
def queries(views):
    return [array(image) for image in views.images[16:]]


@pytest.fixture(scope="module")
def truth(views):
    return views.lat_lon[16:]


def haversine_km(a, b):
    """Distance by the haversine formula (Sinnott 1984), which the package does not use."""
    lat, lon, to_lat, to_lon = map(math.radians, (*a, *b))
    half = math.sin((to_lat - lat) / 2) ** 2
    half += math.cos(lat) * math.cos(to_lat) * math.sin((to_lon - lon) / 2) ** 2
    return 2 * 6371.0 * math.asin(math.sqrt(half))


def test_without_examples_all_answer_as_chance_does(queries, truth):
    chance = Chance(seed=4).locate(queries, [])
    for baseline in (NearestPixels(seed=4), NearestOracle(truth, seed=4)):
        predictions = baseline.locate(queries, [])
        assert [(p.lat, p.lon) for p in predictions] == [(p.lat, p.lon) for p in chance]
        assert all(p.density.entropy() == pytest.approx(math.log(4 * math.pi)) for p in predictions)


def test_chance_is_uniform_and_follows_seed_and_content():
    generator = np.random.default_rng(0)
    photos = list(generator.integers(256, size=(800, 4, 4, 3), dtype=np.uint8))
    predictions = Chance().locate(photos, [])
    sine = [math.sin(math.radians(p.lat)) for p in predictions]
    assert kstest(sine, "uniform", (-1, 2)).pvalue > 0.01
    assert kstest([p.lon for p in predictions], "uniform", (-180, 360)).pvalue > 0.01
    backwards = Chance().locate(photos[::-1][:5], [])
    assert [p.lat for p in backwards] == [p.lat for p in predictions[::-1][:5]]
    assert Chance(seed=1).locate(photos[:1], [])[0].lat != predictions[0].lat


@given(st.floats(0, 0.3), st.floats(-0.5, 0.2), st.integers(0, 15))
def test_pixels_find_the_example_through_haze_and_exposure(views, examples, haze, stops, number):
    image = views.images[number] / 255
    seen = develop(image, haze=torch.tensor(haze), exposure_stops=torch.tensor(stops))
    (prediction,) = NearestPixels().locate([array(to_uint8(seen))], examples)
    assert (prediction.lat, prediction.lon) == (examples[number].lat, examples[number].lon)


def test_pixels_do_not_mind_the_order_of_examples(queries, examples):
    forth, back = (NearestPixels().locate(queries, e) for e in (examples, examples[::-1]))
    assert [(p.lat, p.lon) for p in forth] == [(p.lat, p.lon) for p in back]


def test_the_oracle_is_nearest_of_all_that_answer_with_an_example(queries, examples, truth):
    predictions = NearestOracle(truth).locate(queries, examples)
    for prediction, place in zip(predictions, truth.tolist(), strict=True):
        least = min(haversine_km((e.lat, e.lon), place) for e in examples)
        assert haversine_km((prediction.lat, prediction.lon), place) == pytest.approx(least)


def test_the_oracle_refuses_photos_that_it_knows_nothing_of(queries, examples, truth):
    with pytest.raises(ValueError, match="expected the 8 photos whose places"):
        NearestOracle(truth).locate(queries[:3], examples)


def test_densities_are_von_mises_fisher_around_the_answer(queries, examples, truth):
    """Their formula: kappa / (4 pi sinh kappa) exp(kappa cos d); cells of 4 degrees round d."""
    kappa = 5.0
    for prediction in NearestOracle(truth, kappa=kappa).locate(queries, examples):
        for angle in (0, 40, 90):
            lat = prediction.lat - math.copysign(angle, prediction.lat)
            expected = math.log(kappa / (4 * math.pi * math.sinh(kappa)))
            expected += kappa * math.cos(math.radians(angle))
            assert prediction.density.log_prob([lat, prediction.lon]).item() == pytest.approx(
                expected, abs=0.25
            )


def test_nothing_asked_is_nothing_answered(examples):
    for baseline in (Chance(), NearestPixels(), NearestOracle(torch.empty(0, 2))):
        assert baseline.locate([], examples) == []
