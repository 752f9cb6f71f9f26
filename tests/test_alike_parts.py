"""Alike parts as a baseline: nothing learned, and the encoder of a model without the model."""

import math
from dataclasses import replace

import pytest
import torch

import icgeo
from icgeo import sphere
from icgeo.baselines import AlikeParts, pixel_cells
from icgeo.data.orbit import ViewOptions, random_views, views_to_examples
from icgeo.data.worlds import procedural_world
from icgeo.models import load

ALIKE = ViewOptions(field_of_view_deg=(35.0, 40.0), haze=(0.0, 0.2))


@pytest.fixture(scope="module")
def world():
    """Return views of a world that no training saw, enough of them that each has a neighbour."""
    views = random_views(
        procedural_world("cells", generator=5, height=192),
        100,
        generator=torch.Generator().manual_seed(0),
        options=ALIKE,
    )
    pairs = views_to_examples(views.images, views.lat_lon)
    photos, places = zip(*pairs[:8], strict=True)
    examples = [icgeo.Example(photo, *place) for photo, place in pairs[8:]]
    return list(photos), torch.tensor(places), examples


def median_km(predictions, places):
    points = torch.tensor([[one.lat, one.lon] for one in predictions])
    return sphere.distance_km(points, places).median()


def test_pixels_are_compared_free_of_exposure_and_haze():
    photos = torch.randint(0, 120, (2, 3, 64, 64), dtype=torch.uint8)
    brighter = (photos.float() * 1.5 + 20).to(torch.uint8)
    cosine = (pixel_cells(photos) * pixel_cells(brighter)).sum(-1)
    assert pixel_cells(photos).shape[:2] == (2, 256)
    assert cosine.min() > 0.99


@pytest.mark.parametrize("way", ["pixels", "learned"])
def test_alike_parts_locate_a_photo_beside_its_neighbours(world, way):
    photos, places, examples = world
    locator = AlikeParts() if way == "pixels" else AlikeParts.of(load("tiny"))
    predictions = locator.locate(photos, examples)
    assert median_km(predictions, places) < (1500 if way == "pixels" else 300)
    assert all(math.isclose(float(one.density.mass.sum()), 1, abs_tol=1e-6) for one in predictions)


def test_examples_of_their_own_change_nothing_but_the_batch(world):
    photos, _, examples = world
    chosen = torch.tensor([[0, 5, 9], [9, 5, 0], [3, 1, 2]])
    locator = AlikeParts.of(load("tiny"))
    together = locator.locate_chosen(photos[:3], examples, chosen)
    for photo, numbers, prediction in zip(photos, chosen.tolist(), together, strict=False):
        (alone,) = locator.locate([photo], [examples[number] for number in numbers])
        assert (alone.density.mass - prediction.density.mass).abs().sum() < 1e-3


def test_without_examples_they_guess():
    photo = torch.zeros(3, 64, 64, dtype=torch.uint8).permute(1, 2, 0).numpy()
    density = AlikeParts().locate([photo], [])[0].density
    assert density.entropy() == pytest.approx(math.log(4 * math.pi), abs=1e-6)


def test_the_model_without_a_prompt_knows_a_world_by_its_examples(world):
    """Told nothing, it answers as if told the right world; the prediction says which it took."""
    photos, places, examples = world
    told = icgeo.Geolocator(prompt="unknown world").locate(photos, examples[:16])
    free = icgeo.Geolocator().locate(photos, examples[:16])
    assert {one.world for one in free} == {"unknown world"}
    difference = [
        float(a.density.log_prob(place) - b.density.log_prob(place))
        for a, b, place in zip(told, free, places, strict=True)
    ]
    assert abs(sum(difference) / len(difference)) < 0.05


@pytest.mark.slow
def test_more_examples_sharpen_what_the_model_draws(world):
    photos, places, examples = world
    predictions = icgeo.predict(photos, examples, shots=8)
    assert median_km(predictions, places) < 300
    without = icgeo.predict(photos, examples, shots=8, matching=False)
    assert all(
        one.density.entropy() < other.density.entropy()
        for one, other in zip(predictions, without, strict=True)
    )


def test_an_answer_is_explained_by_the_examples_shown(world):
    """Numbers are those of the bank, of which a photo is shown some; evidence is that of all."""
    photos, places, examples = world
    locator = icgeo.Geolocator(shots=4)
    explained = locator.explain(photos[0], examples)
    (chosen,) = locator.choose_for(photos[0], examples).tolist()
    assert set(explained.example.tolist()) <= set(chosen)
    assert len(explained.probability) == 30
    assert ((explained.query_xy > 0) & (explained.query_xy < explained.photo_size)).all()
    best = sphere.to_lat_lon(sphere.healpix.cell_xyz(64)[explained.log_ratios.argmax()])
    assert sphere.distance_km(best, places[0]) < 500
    assert locator.explain(photos[0], []) is None
    assert icgeo.Geolocator(matching=False).explain(photos[0], examples) is None


@pytest.mark.parametrize(("prior", "evidence"), [(0.25, 0.8), (0.0, 0.5), (1.0, 0.0)])
def test_the_map_is_the_prior_and_each_counts_by_its_weight(world, prior, evidence):
    """The answer is prior^w evidence^v, normalised, beside a uniform share (Bayes' rule)."""
    photos, _, examples = world
    prompt, shown = "unknown world", examples[:4]
    model = load("tiny")
    settings = replace(
        model.settings, prior_weight={prompt: prior or 1e-9}, evidence_weight={prompt: evidence}
    )
    weighed = icgeo.Geolocator(replace(model, settings=settings), prompt=prompt)
    (answer,) = weighed.locate(photos[:1], shown)
    (drawn,) = icgeo.Geolocator(model, prompt=prompt, matching=False).locate(photos[:1], shown)
    log_ratios = weighed.explain(photos[0], shown).log_ratios.double()
    children = len(log_ratios) // len(drawn.density.mass)
    log_prior = drawn.density.mass.double().log().repeat_interleave(children)
    posterior = (prior * log_prior + evidence * log_ratios).softmax(0)
    floor = settings.matching.floor
    expected = (1 - floor) * posterior + floor / len(posterior)
    assert answer.density.mass.double() == pytest.approx(expected, rel=1e-3, abs=1e-9)
