"""Tests of photos that are each given examples of their own, and of the order of examples."""

import pytest
import torch
import twins

import icgeo
from icgeo import maps
from icgeo.data.orbit import random_views
from icgeo.data.pixels import square_pixels
from icgeo.data.worlds import procedural_world
from icgeo.geolocator import Geolocator
from icgeo.prediction import locate_by_sets

UNKNOWN = "unknown world"


@pytest.fixture(scope="module")
def views():
    world = procedural_world("cells", generator=77, height=128)
    return random_views(world, 30, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def photos(views):
    return [image.permute(1, 2, 0).numpy() for image in views.images[24:]]


@pytest.fixture(scope="module")
def bank(views):
    pairs = zip(views.images[:24], views.lat_lon[:24].tolist(), strict=True)
    return [icgeo.Example(image.permute(1, 2, 0).numpy(), *place) for image, place in pairs]


@pytest.fixture(scope="module")
def klein(tmp_path_factory):
    style = maps.MapStyle.marker(height=32)
    folder = twins.klein(tmp_path_factory.mktemp("klein"))
    return icgeo.load(folder, attention="pairwise", photo_size=32, style=style)


def choices(rows, shots, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(24, generator=generator)[:shots] for _ in range(rows)])


def maps_of(predictions):
    return torch.stack([prediction.samples for prediction in predictions])


@pytest.mark.parametrize("attention", ["pairwise", pytest.param("joint", marks=pytest.mark.slow)])
def test_own_examples_are_those_that_are_shown(photos, bank, attention):
    """Against locating each photo alone with its examples; batches of 2 split the 3 photos."""
    locator = Geolocator("tiny", prompt=UNKNOWN, attention=attention, batch_size=2)
    chosen = choices(3, 5)
    found = maps_of(locator.locate_chosen(photos[:3], bank, chosen))
    for photo, own, drawn in zip(photos, chosen.tolist(), found, strict=False):
        alone = locator.locate([photo], [bank[i] for i in own])
        torch.testing.assert_close(drawn, alone[0].samples, atol=2e-5, rtol=0)


@pytest.mark.slow
def test_own_examples_with_samples_steps_views_and_guidance(photos, bank):
    options = {"samples": 2, "steps": 2, "augment": 1, "example_guidance": 1.5}
    locator = Geolocator("tiny", prompt=UNKNOWN, **options)
    chosen = choices(2, 4)
    found = locator.locate_chosen(photos[:2], bank, chosen)
    expected = locate_by_sets(locator.locate, photos[:2], bank, chosen)
    torch.testing.assert_close(maps_of(found), maps_of(expected), atol=1e-4, rtol=0)


def draw(model, bank, photos, chosen=None):
    """Draw without reading, which takes most of the time."""
    context = model.encode_context(
        square_pixels([example.image for example in bank], model.photo_size),
        torch.tensor([[example.lat, example.lon] for example in bank]),
    )
    context = context if chosen is None else context.choosing(chosen)
    return model.draw_maps(
        context, square_pixels(photos, model.photo_size), prompt=UNKNOWN, steps=1
    )


def test_pairs_of_a_pretrained_architecture_are_chosen_too(photos, bank, klein):
    chosen = choices(2, 2)
    found = draw(klein, bank, photos[:2], chosen)
    for photo, own, drawn in zip(photos, chosen.tolist(), found, strict=False):
        alone = draw(klein, [bank[i] for i in own], [photo])
        torch.testing.assert_close(drawn, alone[0], atol=1e-4, rtol=0)


def test_nobody_sees_what_was_not_chosen(photos, bank):
    chosen = choices(2, 3)
    blind = [
        example if number in chosen else icgeo.Example(0 * example.image, 0, 0)
        for number, example in enumerate(bank)
    ]
    first, second = (draw(icgeo.load("tiny"), b, photos[:2], chosen) for b in (bank, blind))
    torch.testing.assert_close(first, second, atol=0, rtol=0)


@pytest.mark.parametrize("attention", ["pairwise", "joint", "full"])
def test_order_means_nothing_to_tiny(photos, bank, attention):
    """All examples share one place, so that only sums are taken in another order."""
    model = icgeo.load("tiny", attention=attention)
    first, second = (draw(model, b, photos[:2]) for b in (bank[:6], bank[5::-1]))
    torch.testing.assert_close(first, second, atol=2e-5, rtol=0)


@pytest.mark.parametrize("attention", ["pairwise", "joint", "full"])
def test_order_means_something_where_each_image_has_its_place(photos, bank, attention, klein):
    model = klein.choosing(attention=attention)
    first, again, second = (draw(model, b, photos[:1]) for b in (bank[:3], bank[:3], bank[2::-1]))
    assert (first - again).abs().max() == 0
    assert (first - second).abs().max() > 1e-4


def test_choices_that_do_not_fit_are_refused(photos, bank):
    locator = Geolocator("tiny")
    with pytest.raises(ValueError, match="a choice for each of 6 photos, got 2"):
        locator.locate_chosen(photos, bank, choices(2, 3))
    with pytest.raises(ValueError, match="numbered 0 to 23, as many as the bank holds, got 0 to 2"):
        locator.locate_chosen(photos[:1], bank, torch.tensor([[0, 24]]))


def test_a_context_whose_examples_see_each_other_cannot_be_chosen_from(photos, bank):
    context = Geolocator("tiny", attention="joint").context(bank[:4])
    with pytest.raises(ValueError, match="expected attention 'pairwise' to choose"):
        context.choosing(torch.tensor([[0]]))
