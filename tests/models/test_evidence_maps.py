"""What another way says of a photo, shown to pretrained models as one more map."""

from dataclasses import replace

import pytest
import torch
from test_pipelines import STYLE, denoise, flux2_latents, folders, load, pictures, pixels  # noqa: F401

import icgeo
from icgeo import baselines, sampling
from icgeo.data.base_maps import open_map
from icgeo.models.cost import plan_loaded
from icgeo.models.prompts import instruction
from icgeo.sphere.best_point import best_points

LAYOUTS = [("klein", "references", "joint")]
MORE = [("klein", "pair", "pairwise")]
MORE += [("klein", "references", "full"), ("klein", "references", "pairwise")]
MORE += [("klein", "sheet", "full"), ("kontext", "panel", "full")]
MORE += [("vace", "frames", "full"), ("ti2v", "frames", "full")]
LAYOUTS += [pytest.param(*more, marks=pytest.mark.slow) for more in MORE]


class Fixed:
    """Says the same of every photo that it is given examples for."""

    name = "fixed"

    def __init__(self, lat, lon):
        self.density = icgeo.Density.from_mixture([lat, lon], 30.0, nside=16)

    def locate(self, photos, examples):
        assert examples
        (point,) = best_points(self.density.mass[None].float())
        answer = icgeo.Prediction.from_density(self.density, point, legibility=1.0, seconds=0.0)
        return len(photos) * [answer]


def model_of(folders, name, layout, attention):  # noqa: F811
    choices = {"layout": layout, "attention": attention, "photo_size": 64, "style": STYLE}
    model = icgeo.load(folders[name], photo_shape="square", **choices)
    return replace(model, settings=replace(model.settings, trained_area=3 * 64 * (64 + 128)))


@pytest.fixture(scope="module")
def images():
    return [photo.permute(1, 2, 0).numpy() for photo in pixels(4, 7)]


@pytest.mark.parametrize(("name", "layout", "attention"), LAYOUTS)
def test_it_counts_with_examples_and_not_without(folders, images, name, layout, attention):  # noqa: F811
    model = model_of(folders, name, layout, attention)
    bank = [icgeo.Example(image, 10.0 * i, 20.0 * i) for i, image in enumerate(images[:2])]
    locate = [
        icgeo.Geolocator(model, steps=1, samples=1, evidence=evidence).locate
        for evidence in (None, Fixed(50.0, 10.0), Fixed(50.0, 10.0), Fixed(-50.0, 90.0))
    ]
    plain, here, again, there = (one(images[2], bank)[0].map for one in locate)
    assert torch.equal(here, again)
    assert not torch.equal(here, there)
    assert not torch.equal(here, plain)
    alone = [one(images[2], [])[0].map for one in locate[:2]]
    assert torch.equal(*alone)


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "attention"), [("references", "joint")])
def test_the_base_map_of_a_window_is_one_more_reference(folders, images, layout, attention):  # noqa: F811
    """Imagery under the maps of a window, shown once more without a mark, and told so."""
    place = {"base": "blue-marble", "sigma_deg": (3.0,), "colour": (0.85, 0.05, 0.05)}
    style = replace(STYLE, **place).window(-20.0, 30.0, 40.0, 60.0)
    choices = {"layout": layout, "attention": attention, "photo_size": 64, "style": style}
    model = icgeo.load(folders["klein"], photo_shape="square", **choices)
    bank = [icgeo.Example(image, 40.0 + i, 10.0 * i) for i, image in enumerate(images[:2])]
    plain, shown = (
        icgeo.Geolocator(model, steps=1, samples=1, evidence=evidence)
        for evidence in (None, "base map")
    )
    assert not torch.equal(*(one.locate(images[2], bank)[0].map for one in (plain, shown)))
    assert torch.equal(*(one.locate(images[2], [])[0].map for one in (plain, shown)))
    (drawn,) = shown._drawer.evidence_maps(images[2:3], bank, torch.tensor([[0, 1]]))
    planet = open_map("blue-marble").window(style.pixel_lat_lon())[0] / 255
    torch.testing.assert_close(drawn, planet)
    words = instruction("earth", shots=1, evidence=shown.loaded.settings.shows_evidence)
    assert "the same map without a dot" in words
    with pytest.raises(ValueError, match="evidence of a locator or 'base map'"):
        icgeo.Geolocator(model, evidence="map")


@torch.no_grad()
def test_it_is_one_more_reference_image_of_the_stock_pipeline(folders):  # noqa: F811
    """Behind the photo; called with the instruction as a string and with pictures."""
    model = load(folders["klein"], "full")
    model = replace(model, settings=replace(model.settings, shows_evidence=True))
    _, given = denoise(model, 1)
    guess = pixels(1, 9, width=128)
    words = instruction("earth", shots=1, evidence=True)
    given |= {"image": [*given["image"], *pictures(guess)], "prompt": words}
    assert len(given["image"]) == model.layout.references(1)
    photos, drawn, asked = (pixels(1, n, width=w) / 255 for n, w in ((1, 64), (2, 128), (3, 64)))
    kept = model.layout.encode_pairs(photos, drawn) | {"evidence": guess / 255}
    context = icgeo.models.Context(1, kept, model.fingerprint)
    velocity = model.velocity(context, model.layout.encode_queries(kept, asked), "earth")
    found = sampling.euler(velocity, given["latents"][None], model.layout.times(1, 3))
    expected = flux2_latents(model, type(model.backbone.pipeline), given)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "attention"), [("references", "pairwise"), ("pair", "full")])
def test_each_photo_has_its_own(folders, images, layout, attention):  # noqa: F811
    """From the examples that it is shown, whoever is located beside it."""
    model = model_of(folders, "klein", layout, attention)
    bank = [icgeo.Example(image, 10.0 * i, 20.0 * i) for i, image in enumerate(images)]
    way = baselines.NearestPixels()
    locator = icgeo.Geolocator(model, steps=1, samples=2, augment=1, evidence=way)
    chosen = torch.tensor([[0, 1], [2, 3]])
    together = locator.locate_chosen(images[:2], bank, chosen)
    for image, numbers, one in zip(images, chosen.tolist(), together, strict=False):
        (alone,) = locator.locate([image], [bank[i] for i in numbers])
        torch.testing.assert_close(one.map, alone.map, atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "layout", "maps"),
    [
        ("klein", "references", 1),
        ("klein", "pair", 0),
        ("kontext", "panel", 0),
        ("vace", "frames", 1),
    ],
)
def test_it_costs_a_map_where_it_stands_alone(folders, name, layout, maps):  # noqa: F811
    model = icgeo.load(folders[name], layout=layout, style=STYLE)
    shown = replace(model, settings=replace(model.settings, shows_evidence=True))
    for shots, more in ((0, 0), (2, maps)):
        plans = [plan_loaded(one, shots, batch_size=1) for one in (model, shown)]
        plain, evident = (plan.tokens.photo + plan.tokens.drawn for plan in plans)
        assert evident - plain == more * 64 * 128 // model.backbone.patch**2


def test_what_cannot_show_it_refuses(folders, images, tmp_path):  # noqa: F811
    with pytest.raises(icgeo.LoadError, match=r"expected no evidence .* 'stacked'"):
        _ = icgeo.Geolocator(evidence=Fixed(0.0, 0.0))
    locator = icgeo.Geolocator(folders["klein"], evidence=Fixed(0.0, 0.0))
    with pytest.raises(ValueError, match="expected no evidence of another way to save"):
        locator.save_pretrained(tmp_path / "locator")
    model = locator.loaded
    context = model.encode_context(pixels(1, 1), torch.zeros(1, 2).double())
    with pytest.raises(ValueError, match=r"expected maps of evidence .* evidence of 0 queries"):
        model.draw_maps(context, pixels(1, 2), prompt="earth")


def test_a_base_map_as_evidence_is_saved(folders, tmp_path):  # noqa: F811
    choices = {"attention": "joint", "photo_size": 64, "style": STYLE}
    locator = icgeo.Geolocator(folders["klein"], evidence="base map", **choices)
    folder = locator.save_pretrained(tmp_path / "locator")
    again = icgeo.Geolocator.from_pretrained(folder)
    assert again.evidence == again.loaded.settings.shows_evidence == "base map"
    without = icgeo.Geolocator.from_pretrained(folder, evidence=None)
    assert not without.loaded.settings.shows_evidence
