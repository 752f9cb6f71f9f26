"""Pairs as pictures, on sheets and in panels, and photos of any shape, against stock pipelines."""

from dataclasses import replace

import pytest
import torch
from diffusers import FluxKontextPipeline
from einops import rearrange
from test_pipelines import STYLE, flux2_latents, folders, load, pictures, pixels, places, stock  # noqa: F401

import icgeo
from icgeo import sampling
from icgeo.maps.drawing import base_image
from icgeo.models.context import Context
from icgeo.models.layouts import references
from icgeo.models.prompts import instruction

ON_A_SHEET = 2
AREA = ON_A_SHEET * 64 * (64 + 128)


def shown_as(model, layout):
    return replace(model, settings=replace(model.settings, layout=layout, trained_area=AREA))


def blank_map(style):
    """The blank map as a file of 8 bits has it."""
    return (255 * base_image(style)).round() / 255


def reference_pictures(layout, photos, drawn, asked):
    """The reference images of pairs and a query, as a user of the stock pipeline makes them."""
    blank = (255 * blank_map(STYLE)[None]).round().to(torch.uint8)
    rows, query = torch.cat((drawn, photos), dim=-1), torch.cat((blank, asked), dim=-1)
    parts = rows.split(ON_A_SHEET if layout == "sheet" else 1) if len(rows) else []
    sheets = [rearrange(part, "k c h w -> c (k h) w") for part in parts]
    return pictures([*sheets, query[0]])


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "layout", "shots"),
    [
        ("klein", "pair", 2),
        ("klein", "sheet", 3),
        pytest.param("klein", "pair", 0, marks=pytest.mark.slow),
        pytest.param("dev", "pair", 1, marks=pytest.mark.slow),
        pytest.param("dev", "sheet", 4, marks=pytest.mark.slow),
    ],
)
def test_full_is_the_stock_pipeline(folders, name, layout, shots, monkeypatch):  # noqa: F811
    """Called with the instruction as a string and with pictures, given the same noise."""
    monkeypatch.setattr(references, "base_image", blank_map)
    model = shown_as(load(folders[name], "full"), layout)
    photos, drawn, asked = pixels(shots, 1), pixels(shots, 2, width=128), pixels(1, 3)
    kept = model.layout.encode_pairs(photos / 255, drawn / 255) if shots else {}
    context = Context(shots, kept, model.fingerprint)
    noise = torch.randn(1, 1, *model.layout.latent_shape(shots))
    queries = model.layout.encode_queries(kept, asked / 255)
    velocity = model.velocity(context, queries, "earth")
    found = sampling.euler(velocity, noise, model.layout.times(shots, 3))
    images = reference_pictures(layout, photos, drawn, asked)
    assert len(images) == model.layout.references(shots)
    given = {
        "image": images,
        "prompt": instruction("earth", shots=shots, layout=layout),
        "latents": noise[0],
        "num_inference_steps": 3,
        "height": 64,
        "width": 128,
        "output_type": "latent",
    }
    if name == "dev":
        given["guidance_scale"] = model.settings.embedded_guidance
    expected = flux2_latents(model, type(model.backbone.pipeline), given)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_query_alone_is_the_stock_pipeline_of_kontext(folders, monkeypatch):  # noqa: F811
    """One reference image, as its weights were trained; the map alone is drawn."""
    monkeypatch.setattr(references, "base_image", blank_map)
    model = shown_as(load(folders["kontext"], "full"), "pair")
    asked = pixels(1, 3)
    noise = torch.randn(1, 1, *model.layout.latent_shape(0))
    velocity = model.velocity(
        Context(0, {}, model.fingerprint), model.layout.encode_queries({}, asked / 255), "earth"
    )
    found = sampling.euler(velocity, noise, model.layout.times(0, 2))
    given = {
        "image": reference_pictures("pair", asked[:0], asked[:0], asked)[0],
        "prompt": instruction("earth", shots=0, layout="pair"),
        "latents": noise[0],
        "num_inference_steps": 2,
        "guidance_scale": 2.5,
        "_auto_resize": False,
        "max_area": 64 * 128,
        "height": 64,
        "width": 128,
        "output_type": "latent",
    }
    expected = stock(model, FluxKontextPipeline, given).images[None]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "layout",
    ["sheet", *(pytest.param(one, marks=pytest.mark.slow) for one in ("references", "pair"))],
)
def test_photos_of_several_shapes_are_located_as_each_alone(folders, layout):  # noqa: F811
    """Shown and asked, with examples of their own or the same for all."""
    model = shown_as(load(folders["klein"], "pairwise"), layout)
    assert model.settings.photo_shape == "own"
    shapes = ((80, 48), (48, 80), (64, 64))
    images = [torch.randint(256, (*shape, 3), dtype=torch.uint8).numpy() for shape in shapes]
    bank = [icgeo.Example(image, 10.0 * i, 20.0 * i) for i, image in enumerate(images)]
    locator = icgeo.Geolocator(model, steps=1, samples=1)
    found = locator.locate(images, bank)
    chosen = torch.tensor([[0, 1], [2, 1], [1, 0]])
    own = locator.locate_chosen(images, bank, chosen)
    for image, together, numbers, apart in zip(images, found, chosen.tolist(), own, strict=True):
        (alone,) = locator.locate([image], bank)
        torch.testing.assert_close(together.map, alone.map, atol=1e-5, rtol=0)
        (alone,) = locator.locate([image], [bank[i] for i in numbers])
        torch.testing.assert_close(apart.map, alone.map, atol=1e-5, rtol=0)


def test_what_a_wide_photo_shows_at_its_sides_counts(folders):  # noqa: F811
    """In their own shape; cut to the middle square, two photos that differ at the sides are one."""
    model = load(folders["klein"], "joint").choosing(photo_size=96)
    photo = torch.full((64, 128, 3), 99, dtype=torch.uint8).numpy()
    other = photo.copy()
    other[:, :32] = 200
    for shape, is_seen in (("own", True), ("square", False)):
        locator = icgeo.Geolocator(model.choosing(photo_shape=shape), steps=1, samples=1)
        first, second = (one.map for one in locator.locate([photo, other]))
        # noise is keyed by pixels: equal pixels, equal noise
        assert torch.equal(first, second) != is_seen
    with pytest.raises(icgeo.LoadError, match=r"expected photo_shape of .* got 'round'"):
        model.choosing(photo_shape="round")


@torch.no_grad()
@pytest.mark.parametrize(
    "shots", [pytest.param(0, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.slow), 4]
)
def test_a_panel_has_about_the_trained_area(folders, shots):  # noqa: F811
    model = load(folders["kontext"], "full").choosing(layout="panel")
    rows, columns = model.layout.grid(shots)
    area = rows * columns * model.backbone.patch**2
    assert 0.85 * 1024**2 < area <= 1024**2
    photos, lat_lon = pixels(shots, 1), places(shots)
    context = model.encode_context(photos, lat_lon)
    queries = model.layout.encode_queries(context.tensors, pixels(1, 2) / 255)
    assert queries.shape[1] == rows * columns
    assert model.layout.decode(queries[:, None], shots).shape == (1, 1, 3, 64, 128)
