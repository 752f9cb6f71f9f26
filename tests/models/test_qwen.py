"""Tests of Qwen-Image 2.1: parity with the stock pipeline, and what is kept of examples.

The stock pipeline is called with the instruction as a string and with pictures. Its processor has
no part for videos, which needs torchvision: the whole `Qwen3VLProcessor` is not tested here.
"""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import twins
from diffusers import QwenImage21Pipeline
from diffusers.pipelines.qwenimage21 import pipeline_qwenimage21
from PIL import Image

import icgeo
from icgeo import maps, sampling
from icgeo.models import loading
from icgeo.models.backbones.qwen import Prefix, processor_of_parts
from icgeo.models.context import Context
from icgeo.models.layouts.interleaved import in_bytes
from icgeo.models.prompts import instruction
from icgeo.training.adapters import add_lora, learned, save_adapter, tie_kept

SIZES = {96: ((64, 128), 96), 136: ((96, 192), 128)}
"""Of a map and a photo, by the resolution for which the stock pipeline leaves both as they are."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return twins.qwen(tmp_path_factory.mktemp("qwen"))


def load(folder, resolution=96, **options):
    (height, width), side = SIZES[resolution]
    style = maps.MapStyle.marker(height=height, width=width, sigma_deg=10.0)
    return icgeo.load(folder, style=style, photo_size=side, **options)


def pixels(count, seed, side=96):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 3, side, side), generator=generator, dtype=torch.uint8)


def places(count, seed=0):
    return torch.rand(count, 2, generator=torch.Generator().manual_seed(seed)) * 100 - 50


def picture(image):
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def stock_maps(folder, model, photos, lat_lon, query, noise, resolution, **options):
    """What the stock pipeline draws of a query, as floats before they are clipped."""
    pipeline = QwenImage21Pipeline.from_pretrained(folder, processor=processor_of_parts(folder))
    pipeline.set_progress_bar_config(disable=True)
    drawn = in_bytes(maps.draw(lat_lon, model.settings.style))
    images = [picture(x) for pair in zip(photos, drawn, strict=True) for x in pair]
    style, shots = model.settings.style, len(photos)
    found = pipeline(
        prompt=instruction("earth", shots=shots),
        image=[*images, picture(query)],
        height=style.height,
        width=style.width,
        latents=noise[None],
        output_type="latent",
        output_resolution=resolution,
        **options,
    ).images
    return model.backbone.decode(found, rows=style.height // 16)[0]


@torch.no_grad()
@pytest.mark.parametrize(
    ("shots", "resolution"),
    [
        (0, 96),
        (1, 136),
        pytest.param(2, 96, marks=pytest.mark.slow),
        pytest.param(4, 96, marks=pytest.mark.slow),
    ],
)
def test_maps_are_those_of_the_stock_pipeline(folder, shots, resolution):
    model = load(folder, resolution)
    side = model.photo_size
    photos, lat_lon = pixels(shots, 1, side), places(shots)
    context, queries = model.encode_context(photos, lat_lon), pixels(2, 2, side)
    found = model.draw_maps(context, queries, prompt="earth", samples=2, steps=3, seed=5)
    noise = sampling.keyed_noise(
        [query.numpy().tobytes() for query in queries],
        model.layout.latent_shape(shots),
        samples=2,
        seed=5,
    )
    for number, query in enumerate(queries):
        given = (folder, model, photos, lat_lon, query, noise[number, 1], resolution)
        expected = stock_maps(*given, num_inference_steps=3)
        torch.testing.assert_close(found[number, 1], expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_guidance_is_that_of_the_stock_pipeline(folder):
    model = load(folder)
    model = replace(model, settings=replace(model.settings, guidance_scale=3.0))
    photos, lat_lon, queries = pixels(1, 1), places(1), pixels(1, 2)
    context = model.encode_context(photos, lat_lon)
    found = model.draw_maps(context, queries, prompt="earth", steps=2)
    shape, key = model.layout.latent_shape(1), queries[0].numpy().tobytes()
    noise = sampling.keyed_noise([key], shape, samples=1, seed=0)[0, 0]
    options = {"num_inference_steps": 2, "true_cfg_scale": 3.0, "negative_prompt": ""}
    expected = stock_maps(folder, model, photos, lat_lon, queries[0], noise, 96, **options)
    torch.testing.assert_close(found[0, 0], expected, atol=1e-5, rtol=0)


@pytest.mark.slow
@torch.no_grad()
def test_what_is_kept_is_what_the_stock_pipeline_computes_for_any_query(folder, monkeypatch):
    """Its cache begins with the same keys and values, whatever photo, noise and words follow."""
    model, shots = load(folder), 2
    photos, lat_lon = pixels(shots, 1), places(shots)
    kept = Prefix.from_tensors(model.encode_context(photos, lat_lon).tensors).transformer
    caches = []

    class Recorded(pipeline_qwenimage21.QwenImage21KVCache):
        def __init__(self, layers):
            super().__init__(layers)
            caches.append(self)

    monkeypatch.setattr(pipeline_qwenimage21, "QwenImage21KVCache", Recorded)
    for seed in (3, 4):
        noise = torch.randn(model.layout.latent_shape(shots))
        query = pixels(1, seed)[0]
        options = {"num_inference_steps": 2, "true_cfg_scale": 2.0, "negative_prompt": f"no {seed}"}
        stock_maps(folder, model, photos, lat_lon, query, noise, 96, **options)
    assert len(caches) == 4
    for cache in caches:
        for layer, key in kept.keys.items():
            found = cache.get_layer(layer)
            for x, expected in ((found.k, key), (found.v, kept.values[layer])):
                torch.testing.assert_close(x[:, : key.shape[1]], expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_context_is_the_same_to_the_bit_after_other_queries_words_and_noise(folder):
    model, photos, lat_lon = load(folder), pixels(2, 1), places(2)
    context = model.encode_context(photos, lat_lon)
    before = {name: x.clone() for name, x in context.tensors.items()}
    for seed, prompt in ((1, "earth"), (2, "unknown world")):
        model.draw_maps(context, pixels(2, seed), prompt=prompt, samples=2, steps=2, seed=seed)
    again = model.encode_context(photos, lat_lon).tensors
    assert set(again) == set(before)
    for name, x in before.items():
        assert torch.equal(context.tensors[name], x)
        assert torch.equal(again[name], x)


@torch.no_grad()
def test_a_context_grows_at_its_end_to_the_bit_and_survives_disk(folder, tmp_path):
    model, photos, lat_lon = load(folder), pixels(3, 1), places(3)
    whole = model.encode_context(photos, lat_lon)
    grown = None
    for number in range(3):
        one = slice(number, number + 1)
        grown = model.encode_context(photos[one], lat_lon[one], after=grown)
    assert grown.shots == 3
    assert all(torch.equal(grown.tensors[name], x) for name, x in whole.tensors.items())
    grown.save(tmp_path / "context.safetensors")
    again = Context.load(tmp_path / "context.safetensors")
    drawn = [model.draw_maps(one, pixels(1, 2), prompt="earth") for one in (whole, again)]
    assert torch.equal(*drawn)


def test_nothing_is_left_out_of_a_context_or_moved(folder):
    model = load(folder)
    context = model.encode_context(pixels(2, 1), places(2))
    with pytest.raises(ValueError, match=r"'pairwise' to choose among .* got 'causal', in which"):
        context.choosing(torch.tensor([[1, 0]]))
    with pytest.raises(ValueError, match=r"to extend a context, got 'causal'; encode_context\(.*"):
        context.extended(context)
    with pytest.raises(ValueError, match="this context was made with style"):
        load(folder, 136).encode_context(pixels(1, 1, 128), places(1), after=context)
    tiny = icgeo.load("tiny")
    photos = pixels(1, 1, 64)
    with pytest.raises(ValueError, match="'causal' to encode examples behind others"):
        tiny.encode_context(photos, places(1), after=tiny.encode_context(photos, places(1)))
    for mode in ("full", "joint", "pairwise"):
        with pytest.raises(icgeo.LoadError, match=r"expected attention of \('causal',\)"):
            model.choosing(attention=mode)


@torch.no_grad()
def test_examples_their_order_photo_and_words_all_move_the_map(folder):
    model, photos, lat_lon, query = load(folder), pixels(2, 1), places(2), pixels(1, 2)

    def drawn(photos=photos, lat_lon=lat_lon, prompt="earth", query=query):
        context, shape = model.encode_context(photos, lat_lon), model.layout.latent_shape(2)
        velocity = model.velocity(context, model.layout.encode_queries({}, query / 255), prompt)
        noise = torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(0))
        return model.layout.decode(sampling.euler(velocity, noise, model.layout.times(2, 2)))

    expected, order = drawn(), [1, 0]
    assert torch.equal(drawn(), expected)
    controls = {
        "another map": drawn(lat_lon=places(2, seed=9)),
        "swapped pairs": drawn(photos[order], lat_lon[order]),
        "swapped maps": drawn(lat_lon=lat_lon[order]),
        "another example": drawn(photos=pixels(2, 8)),
        "another photo": drawn(query=pixels(1, 9)),
        "other words": drawn(prompt="unknown world"),
    }
    moved = {name: (found - expected).abs().max().item() for name, found in controls.items()}
    assert min(moved.values()) > 1e-4, moved


def one_pass(model, transformer, readings, noisy, t):
    """The velocity of a map, by one stock pass over all that is read and the noise."""
    rows, columns = model.layout.grid(0)
    slots = torch.ones(1, rows * columns // 4, dtype=torch.bool)
    return transformer(
        hidden_states=torch.cat([*(reading.latents for reading in readings), noisy], dim=1),
        encoder_hidden_states=torch.cat([reading.states for reading in readings], dim=1),
        timestep=torch.tensor([t]),
        img_shapes=[[*(s for reading in readings for s in reading.shapes), (1, rows, columns)]],
        img_mask=torch.cat([*(reading.is_picture for reading in readings), slots], dim=1),
        return_dict=False,
    )[0][:, -rows * columns :]


@pytest.mark.parametrize("checkpointing", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_gradients_of_a_lora_are_those_of_one_stock_pass(folder, checkpointing):
    model, words = load(folder), instruction("earth", shots=2)
    backbone, transformer = model.backbone, model.backbone.transformer
    add_lora(transformer, rank=2, alpha=4)
    for number, weight in enumerate(learned(transformer)):
        weight.data.normal_(0, 0.3, generator=torch.Generator().manual_seed(number))
    photos, drawn = pixels(2, 1), in_bytes(maps.draw(places(2), model.settings.style))
    query, noisy = pixels(1, 2), torch.randn(1, *model.layout.latent_shape(2))
    prefix, readings = Prefix(), []
    for pair in zip(photos, drawn, strict=True):
        readings.append(backbone.read(pair, prefix))
        prefix = backbone.extended(prefix, pair)
    readings.append(backbone.read([query[0]], prefix, words))
    stock = copy.deepcopy(transformer)
    for block in stock.transformer_blocks:
        block.attn.set_processor(block.attn._default_processor_cls())
    if checkpointing:
        transformer.enable_gradient_checkpointing()
        transformer.register_forward_hook(tie_kept, with_kwargs=True)  # as where it is sharded
    kept = model.layout.encode_pairs(photos / 255, drawn / 255)
    predict = model.layout.predictor(kept, 2, query / 255)
    found = predict(noisy[:, None], 0.7, words)[:, 0]
    expected = one_pass(model, stock, readings, noisy, 0.7)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    for velocity in (found, expected):
        velocity.square().sum().backward()
    pairs = zip(learned(transformer), learned(stock), strict=True)
    for own, reference in pairs:
        scale = reference.grad.abs().max().item()
        assert scale > 0
        torch.testing.assert_close(own.grad, reference.grad, atol=1e-4 * scale, rtol=1e-4)


@pytest.mark.slow
def test_a_saved_lora_draws_the_same_and_keeps_its_alpha(folder, tmp_path):
    model = load(folder)
    add_lora(model.backbone.transformer, rank=2, alpha=6)
    for number, weight in enumerate(learned(model.backbone.transformer)):
        weight.data.normal_(0, 0.3, generator=torch.Generator().manual_seed(number))
    save_adapter(model.backbone.transformer, tmp_path / "adapter")
    again, plain = load(folder, adapter=tmp_path / "adapter"), load(folder)
    drawn = []
    for one in (model, again, plain):
        context = one.encode_context(pixels(1, 1), places(1))
        drawn.append(one.draw_maps(context, pixels(1, 2), prompt="earth", steps=2))
    assert torch.equal(drawn[0], drawn[1])
    assert (drawn[0] - drawn[2]).abs().max() > 1e-3


def test_no_map_is_drawn_without_its_examples(folder):
    """A stock pipeline of the same transformer draws as ever; other processors are refused."""
    model, lat_lon = load(folder), places(1)
    context = model.encode_context(pixels(1, 1), lat_lon)
    pipeline = QwenImage21Pipeline(**model.backbone.pipeline.components)
    pipeline.set_progress_bar_config(disable=True)
    given = {"prompt": "x", "height": 64, "width": 64, "num_inference_steps": 2}
    given |= {"latents": torch.randn(1, 16, 8), "output_type": "latent"}
    shared = pipeline(**given).images
    blocks = model.backbone.transformer.transformer_blocks
    before = model.draw_maps(context, pixels(1, 2), prompt="earth")
    for block in blocks:
        block.attn.set_processor(block.attn._default_processor_cls())
    assert torch.equal(pipeline(**given).images, shared)
    with pytest.raises(icgeo.LoadError, match="without which examples are ignored, got QwenImage"):
        model.draw_maps(context, pixels(1, 2), prompt="earth")
    again = load(folder)
    drawn = again.draw_maps(
        again.encode_context(pixels(1, 1), lat_lon), pixels(1, 2), prompt="earth"
    )
    assert torch.equal(drawn, before)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"photo_size": 80}, "multiples of 32 pixels, got 64 x 128 and 80"),
        ({"text": "trimmed"}, "expected text of 'stock', which this model knows alone"),
        ({"layout": "references"}, r"expected layout of \('interleaved',\)"),
    ],
)
def test_what_the_weights_do_not_know_is_refused(folder, options, words):
    with pytest.raises(icgeo.LoadError, match=words):
        load(folder).choosing(**options)


def test_pictures_that_the_encoder_would_resize_are_refused(folder):
    model = load(folder)
    model.backbone.pipeline.processor.image_processor.size = {
        "shortest_edge": 65536,
        "longest_edge": 2**24,
    }
    with pytest.raises(ValueError, match=r"does not resize, got .*96, 96.*65536"):
        model.encode_context(pixels(1, 1), places(1))


def test_small_photos_are_made_larger_as_the_stock_pipeline_does(folder, monkeypatch):
    model, sizes = load(folder), []
    original = type(model.backbone).read

    def read(self, pictures, *given):
        sizes.extend(tuple(one.shape[1:]) for one in pictures)
        return original(self, pictures, *given)

    monkeypatch.setattr(type(model.backbone), "read", read)
    photo = np.zeros((20, 30, 3), dtype=np.uint8)
    icgeo.Geolocator(model, steps=1, samples=1).locate(photo)
    assert model.settings.photo_size == 96
    assert sizes == [(64, 96)], "of about 96 x 96 pixels, in whole places"


def test_examples_may_be_chosen_for_each_query(folder):
    """Each set of examples is a prefix of its own."""
    model = load(folder)
    bank = [(picture(pixels(1, i)[0]), (10.0 * i, 20.0 * i)) for i in range(3)]
    queries = [picture(pixels(1, 7 + i)[0]) for i in range(2)]
    locator = icgeo.Geolocator(model, shots=1, samples=1, steps=1, features="pixels")
    chosen = locator.choose_for(queries, bank)
    together = locator.locate(queries, bank)
    for query, row, found in zip(queries, chosen.tolist(), together, strict=True):
        alone = replace(locator, shots=None).locate(query, [bank[number] for number in row])
        assert torch.equal(alone[0].density.mass, found.density.mass)


def test_a_locator_adds_to_the_context_that_it_keeps(folder, monkeypatch):
    model = load(folder)
    bank = [(picture(pixels(1, i)[0]), (10.0 * i, 20.0 * i)) for i in range(3)]
    locator, encoded = icgeo.Geolocator(model), []
    extended = type(model.backbone).extended

    def count(*given):
        encoded.append(given)
        return extended(*given)

    monkeypatch.setattr(type(model.backbone), "extended", count)
    locator.context(bank[:2])
    grown = locator.context(bank)
    assert len(encoded) == 3
    whole = icgeo.Geolocator(model).context(bank).tensors
    assert all(torch.equal(grown.tensors[name], x) for name, x in whole.items())


@pytest.mark.slow
def test_what_most_queries_see_stands_first_and_is_encoded_once(folder, monkeypatch):
    """Of six examples in three sets four are encoded: the common one, and each set's other."""
    model, encoded = load(folder), []
    bank = [icgeo.Example(picture(pixels(1, i)[0]), 10.0 * i, 20.0 * i) for i in range(4)]
    queries = [picture(pixels(1, 7 + i)[0]) for i in range(3)]
    locator, extended = icgeo.Geolocator(model, samples=1, steps=1), type(model.backbone).extended

    def count(*given):
        encoded.append(given)
        return extended(*given)

    monkeypatch.setattr(type(model.backbone), "extended", count)
    together = locator.locate_chosen(queries, bank, torch.tensor([[0, 1], [2, 1], [1, 3]]))
    assert len(encoded) == 4
    for query, other, found in zip(queries, (0, 2, 3), together, strict=True):
        (alone,) = icgeo.Geolocator(model, samples=1, steps=1).locate(query, [bank[1], bank[other]])
        assert torch.equal(alone.density.mass, found.density.mass)
    encoded.clear()
    same = replace(locator).locate_chosen(queries[:2], bank, torch.tensor([[0, 1], [1, 0]]))
    assert len(same) == len(encoded) == 2


def test_the_encoder_comes_from_the_hub_too(folder, monkeypatch):
    fetched = []

    def fetch(model, *, text=False, **_):
        fetched.append((model, text))
        return folder

    monkeypatch.setattr(loading.hub, "fetch", fetch)
    model = icgeo.load("Qwen/Qwen-Image-2.1")
    assert fetched == [("Qwen/Qwen-Image-2.1", False), ("Qwen/Qwen-Image-2.1", True)]
    assert model.backbone.pipeline.text_encoder is not None


def test_its_own_settings_and_departures(folder):
    model = icgeo.load(folder)
    settings = model.settings
    assert (settings.layout, settings.attention) == ("interleaved", "causal")
    assert (settings.steps, settings.photo_size, settings.guidance_scale) == (40, 352, 1.0)
    assert model.departures(4) == ()
    assert model.departures(5) == ("11 reference images, where 10 are documented",)
