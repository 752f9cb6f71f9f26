"""Tests of pretrained pipelines: parity with diffusers in every layout, and contexts."""

from dataclasses import replace

import diffusers
import numpy as np
import pytest
import torch
import twins
from diffusers import Flux2KleinKVPipeline, FluxKontextPipeline, WanImageToVideoPipeline
from einops import rearrange
from PIL import Image

import icgeo
from icgeo import drawing, maps, sampling
from icgeo.models.attention import uninstall
from icgeo.models.context import Context
from icgeo.models.layouts.frames import framed
from icgeo.models.layouts.panel import panel_rows
from icgeo.models.prompts import instruction

STYLE = maps.MapStyle.marker(height=64, width=128, sigma_deg=10.0)
LARGE = maps.MapStyle.marker(height=96, width=160, sigma_deg=10.0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Twins of all architectures, made when asked for."""

    class Folders(dict):
        def __missing__(self, name):
            self[name] = twins.ALL[name](tmp_path_factory.mktemp(name))
            return self[name]

    return Folders()


@pytest.fixture
def folder(folders):
    return folders["klein"]


def load(folder, mode="joint", **settings):
    model = icgeo.load(folder, style=STYLE, photo_size=64, attention=mode, layout="references")
    return replace(model, settings=replace(model.settings, **settings))


def pixels(count, seed, width=64):
    return torch.randint(
        256, (count, 3, 64, width), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8
    )


def places(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 2, generator=generator) * 100 - 50


def pictures(images):
    return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]


def random_images(count, seed, height, width):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 3, height, width), generator=generator, dtype=torch.uint8)


def shown(model, shots, query=0):
    """A context of random pairs, a random query, and all of them as pictures for diffusers."""
    style = model.settings.style
    photos, asked = pixels(shots, 1), pixels(1, 3 + query)
    drawn = random_images(shots, 2, style.height, style.width)
    kept = model.layout.encode_pairs(photos / 255, drawn / 255) if shots else {}
    pairs = [
        image for pair in zip(pictures(photos), pictures(drawn), strict=True) for image in pair
    ]
    return Context(shots, kept, model.fingerprint), asked / 255, [*pairs, *pictures(asked)]


def denoise(model, shots, steps=3, query=0):
    """Latents of one query, and what diffusers needs to find the same."""
    context, asked, images = shown(model, shots, query)
    shape = model.layout.latent_shape(shots)
    noise = torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(4))
    queries = model.layout.encode_queries(context.tensors, asked)
    velocity = model.velocity(context, queries, "earth")
    found = sampling.euler(velocity, noise, model.layout.times(shots, steps))
    words = instruction("earth", shots=shots, layout=model.settings.layout)
    given = {
        "image": images,
        "prompt": words,
        "latents": noise[0],
        "num_inference_steps": steps,
        "height": model.settings.style.height,
        "width": model.settings.style.width,
        "output_type": "latent",
    }
    return found, given


def stock(model, kind, given):
    """Call a pipeline of diffusers with processors of its own."""
    kept = {"transformer": None, "vae": None}
    whole = type(model.backbone.pipeline).from_pretrained(model.origin.model, **kept)
    for_text = {n: x for n, x in whole.components.items() if n.startswith(("text_", "token"))}
    pipeline = kind(**{**model.backbone.pipeline.components, **for_text})
    if "is_distilled" in model.backbone.pipeline.config:
        pipeline.register_to_config(is_distilled=model.backbone.pipeline.config.is_distilled)
    pipeline.set_progress_bar_config(disable=True)
    if kind is not Flux2KleinKVPipeline and hasattr(pipeline.transformer, "transformer_blocks"):
        uninstall(pipeline.transformer)
    return pipeline(**given)


def flux2_latents(model, kind, given):
    """What a pipeline of FLUX.2 finds, as tokens; it undoes the normalisation."""
    rows = given["height"] // model.backbone.patch
    given |= {"latents": rearrange(given["latents"], "1 (h w) c -> 1 c h w", h=rows)}
    found = stock(model, kind, given).images
    if found.ndim == 3:  # dev gives tokens
        return found[None]
    vae = model.backbone.pipeline.vae
    deviation = (vae.bn.running_var + vae.config.batch_norm_eps).sqrt()
    patches = model.backbone.pipeline._patchify_latents(found)
    normal = (patches - vae.bn.running_mean[:, None, None]) / deviation[:, None, None]
    return rearrange(normal, "1 c h w -> 1 1 (h w) c")


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "shots"),
    [
        ("klein", 2),
        ("dev", 1),
        pytest.param("klein", 0, marks=pytest.mark.slow),
        pytest.param("dev", 0, marks=pytest.mark.slow),
    ],
)
def test_full_is_the_stock_pipeline_of_flux2(folders, name, shots):
    model = load(folders[name], "full")
    found, given = denoise(model, shots)
    if name == "dev":
        given["guidance_scale"] = model.settings.embedded_guidance
    expected = flux2_latents(model, type(model.backbone.pipeline), given)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("name", ["klein", "dev"])
def test_four_examples_another_query_and_another_size_are_the_stock_pipeline(folders, name):
    model = icgeo.load(folders[name], style=LARGE, photo_size=64)
    assert (model.settings.layout, model.settings.attention) == ("references", "full")
    for shots, query in ((4, 0), (3, 1)):
        found, given = denoise(model, shots, steps=2, query=query)
        if name == "dev":
            given["guidance_scale"] = model.settings.embedded_guidance
        expected = flux2_latents(model, type(model.backbone.pipeline), given)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize(
    ("style", "shots", "query"),
    [
        (STYLE, 1, 0),
        *(pytest.param(*more, marks=pytest.mark.slow) for more in ((LARGE, 0, 0), (LARGE, 4, 1))),
    ],
)
def test_full_with_guidance_is_the_stock_pipeline(tmp_path, style, shots, query):
    folder = twins.klein(tmp_path, distilled=False)
    model = load(folder, "full", guidance_scale=3.0, style=style)
    found, given = denoise(model, shots, query=query)
    given |= {"guidance_scale": 3.0}
    expected = flux2_latents(model, type(model.backbone.pipeline), given)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_without_examples_joint_is_the_key_value_pipeline(folder):
    model = load(folder, "joint")
    found, given = denoise(model, 0)
    expected = flux2_latents(model, Flux2KleinKVPipeline, given)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def kontext_latents(model, given, size, image, true_cfg_scale=1.0):
    """What `FluxKontextPipeline` finds of one image, unresized."""
    given |= {
        "image": image,
        "negative_prompt": "",
        "true_cfg_scale": true_cfg_scale,
        "guidance_scale": model.settings.embedded_guidance,
        "_auto_resize": False,
        "max_area": size[0] * size[1],
        "height": size[0],
        "width": size[1],
    }
    return stock(model, FluxKontextPipeline, given).images[None]


@torch.no_grad()
@pytest.mark.parametrize("query", [0, 1])
@pytest.mark.parametrize("style", [STYLE, LARGE], ids=["64 x 128", "96 x 160"])
def test_one_reference_is_the_stock_pipeline_of_kontext(folders, style, query):
    choices = {"layout": "references", "style": style, "photo_size": 64}
    model = icgeo.load(folders["kontext"], **choices)
    found, given = denoise(model, 0, query=query)
    size = (style.height, style.width)
    expected = kontext_latents(model, given, size, given["image"][0])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_true_guidance_is_that_of_kontext(folders):
    model = load(folders["kontext"], "full", guidance_scale=2.0)
    found, given = denoise(model, 0)
    expected = kontext_latents(model, given, (64, 128), given["image"][0], true_cfg_scale=2.0)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_panel_is_the_stock_pipeline_of_kontext(folders):
    model = icgeo.load(folders["kontext"], style=STYLE)
    model = replace(model, settings=replace(model.settings, trained_area=3 * 64 * (64 + 128)))
    assert (model.settings.layout, model.settings.attention) == ("panel", "full")
    photos, drawn = pixels(2, 1) / 255, pixels(2, 2, width=128) / 255
    context = Context(2, model.layout.encode_pairs(photos, drawn), model.fingerprint)
    asked = pixels(1, 3) / 255
    noise = torch.randn(1, 1, *model.layout.latent_shape(2))
    velocity = model.velocity(context, model.layout.encode_queries(context.tensors, asked), "earth")
    found = sampling.euler(velocity, noise, model.layout.times(2, 2))
    blank = maps.drawing.base_image(STYLE)[None]
    last = panel_rows(asked, blank)
    panel = torch.cat((*panel_rows(photos, drawn), *last), dim=-2)[None]
    assert panel.shape == (1, 3, 3 * 64, 64 + 128)
    torch.testing.assert_close(panel[0, :, :64, :64], photos[0])
    torch.testing.assert_close(panel[0, :, 128:, 64:], blank[0])
    given = {
        "prompt": instruction("earth", shots=2, layout="panel"),
        "image": panel,
        "latents": noise[0],
        "num_inference_steps": 2,
        "guidance_scale": 2.5,
        "_auto_resize": False,
        "max_area": panel[0, 0].numel(),
        "height": panel.shape[2],
        "width": panel.shape[3],
        "output_type": "latent",
    }
    expected = stock(model, FluxKontextPipeline, given).images[None]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def frames_of(images, height=64, width=128):
    """The same images on frames of a map's size, four of each but one of the first."""
    square = [
        image if image.shape[-1] == width else framed(image, height, width) for image in images
    ]
    frames = [square[0], *(x for image in square[1:] for x in 4 * [image])]
    return [frame[0] for frame in frames]


@torch.no_grad()
@pytest.mark.parametrize(
    ("style", "shots", "query"),
    [
        (STYLE, 1, 0),
        (LARGE, 2, 1),
        pytest.param(STYLE, 4, 1, marks=pytest.mark.slow),
        pytest.param(LARGE, 0, 0, marks=pytest.mark.slow),
    ],
)
def test_frames_are_the_stock_pipeline_of_vace(folders, style, shots, query):
    model = icgeo.load(folders["vace"], style=style)
    model = replace(model, settings=replace(model.settings, guidance_scale=2.0))
    found, given = denoise(model, shots, query=query)
    images = [
        torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255 for image in given["image"]
    ]
    size = (style.height, style.width)
    grey = torch.full((3, *size), 0.5)
    known = torch.stack([*frames_of(images, *size), *4 * [grey]])
    mask = torch.zeros_like(known)
    mask[-4:] = 1
    expected = stock(
        model,
        diffusers.WanVACEPipeline,
        {
            "video": known[None],
            "mask": mask[None],
            "prompt": given["prompt"],
            "negative_prompt": "",
            "latents": given["latents"],
            "num_frames": len(known),
            "num_inference_steps": 3,
            "guidance_scale": 2.0,
            "height": size[0],
            "width": size[1],
            "output_type": "latent",
        },
    ).frames
    torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize(("style", "query"), [(STYLE, 0), (LARGE, 1)], ids=["64 x 128", "96 x 160"])
def test_frames_are_the_stock_pipeline_of_ti2v(folders, style, query):
    model = icgeo.load(folders["ti2v"], style=style)
    model = replace(model, settings=replace(model.settings, guidance_scale=1.0))
    found, given = denoise(model, 0, query=query)
    photo = torch.from_numpy(np.array(given["image"][0])).permute(2, 0, 1)[None] / 255
    words = {"prompt": given["prompt"], "guidance_scale": 1.0}
    whole = diffusers.WanPipeline.from_pretrained(folders["ti2v"])
    components = {**whole.components, "image_encoder": None}
    components |= {"image_processor": None}
    pipeline = WanImageToVideoPipeline(**components, expand_timesteps=True)
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        image=frames_of([photo], style.height, style.width)[0][None],
        latents=given["latents"],
        num_frames=5,
        num_inference_steps=3,
        height=style.height,
        width=style.width,
        output_type="latent",
        **words,
    ).frames
    torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("name", "side"), [("klein", "right"), ("dev", "left")])
def test_trimmed_text_is_the_stock_text_without_its_padding(folders, name, side):
    model = load(folders[name])
    stock = model.layout.text("earth", 1)
    whole = model.backbone.pipeline.from_pretrained(folders[name])
    padded, _ = whole.encode_prompt(instruction("earth", shots=1))
    torch.testing.assert_close(stock["encoder_hidden_states"], padded)
    trimmed = model.choosing(text="trimmed").layout.text("earth", 1)["encoder_hidden_states"]
    length = trimmed.shape[1]
    assert 100 < length < 512
    words = padded[:, :length] if side == "right" else padded[:, -length:]
    torch.testing.assert_close(trimmed, words)
    assert (stock["is_word"][0, 0].item() is True) == (side == "right")


def test_text_that_is_unknown_or_fixed_is_refused(folders):
    with pytest.raises(icgeo.LoadError, match=r"expected text of .* got 'short'"):
        icgeo.load(folders["klein"], text="short")
    with pytest.raises(icgeo.LoadError, match="expected text of 'stock', which this model knows"):
        icgeo.load(folders["vace"], text="trimmed")


def test_trimmed_text_is_not_the_same(folders):
    model = load(folders["klein"], "joint")
    context, queries = model.encode_context(pixels(1, 1), places(1)), pixels(1, 3)
    maps_of = [
        one.draw_maps(context, queries, prompt="earth", steps=2)
        for one in (model, model.choosing(text="trimmed"))
    ]
    assert (maps_of[0] - maps_of[1]).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("name", "shots", "options", "expected"),
    [
        ("klein", 1, {"attention": "full"}, []),
        ("klein", 2, {"attention": "full"}, ["5 reference images, where 4 are documented"]),
        ("klein", 0, {}, []),
        (
            "klein",
            0,
            {"attention": "joint"},
            ["attention joint, where the weights were trained in full"],
        ),
        (
            "dev",
            3,
            {"attention": "full", "text": "trimmed"},
            ["7 reference images", "text trimmed"],
        ),
        ("kontext", 9, {}, []),
        ("kontext", 0, {"layout": "references"}, []),
        (
            "kontext",
            1,
            {"layout": "references"},
            ["3 reference images", "places 1 to 3 of images, where"],
        ),
        ("kontext", 0, {"layout": "pair"}, []),
        ("klein", 3, {"layout": "pair"}, []),
        ("klein", 4, {"layout": "pair"}, ["5 reference images, where 4 are documented"]),
        ("klein", 15, {"layout": "sheet"}, []),
        ("klein", 16, {"layout": "sheet"}, ["5 reference images, where 4 are documented"]),
        ("vace", 9, {}, []),
    ],
)
def test_what_weights_were_not_trained_on_is_said(folders, name, shots, options, expected):
    departures = icgeo.load(folders[name], **options).departures(shots)
    assert len(departures) == len(expected)
    assert all(map(str.startswith, departures, expected))


def test_a_locator_warns_of_it_once(folder, caplog):
    drawing._warn_once.cache_clear()
    locator = icgeo.Geolocator(
        folder, style=STYLE, photo_size=64, attention="joint", steps=1, samples=1
    )
    photos = pictures(pixels(2, 1))
    for photo in photos:
        locator.locate(photo, [(photo, 10.0, 20.0)])
    (record,) = [one for one in caplog.records if "were not trained on" in one.message]
    assert "attention joint, where the weights were trained in full" in record.message


@pytest.mark.parametrize(
    ("name", "mode"), [("klein", "joint"), ("dev", "pairwise"), ("kontext", "joint")]
)
def test_no_map_is_drawn_without_its_examples(folders, name, mode):
    """A stock pipeline of the same transformer takes the processors that look at them."""
    model = load(folders[name], mode)
    context = model.encode_context(pixels(1, 1), places(1))
    if name == "kontext":
        uninstall(model.backbone.transformer)
    else:
        Flux2KleinKVPipeline(**{**model.backbone.pipeline.components, "scheduler": None})
    with pytest.raises(icgeo.LoadError, match="without which examples are ignored, got Flux"):
        model.draw_maps(context, pixels(1, 3), prompt="earth", steps=1)


def test_pairwise_contexts_grow_and_survive_disk(folder, tmp_path):
    model = load(folder, "pairwise")
    photos, lat_lon, asked = pixels(3, 1), places(3), pixels(2, 2)

    def draw(context):
        return model.draw_maps(context, asked, prompt="earth", steps=2)

    whole = model.encode_context(photos, lat_lon)
    first = model.encode_context(photos[:2], lat_lon[:2])
    grown = first.extended(model.encode_context(photos[2:], lat_lon[2:]))
    grown.save(tmp_path / "context.safetensors")
    again = Context.load(tmp_path / "context.safetensors")
    assert again.shots == 3
    torch.testing.assert_close(draw(again), draw(whole), atol=1e-5, rtol=0)


def test_joint_contexts_do_not_grow(folder):
    context = load(folder, "joint").encode_context(pixels(1, 1), places(1))
    with pytest.raises(ValueError, match="'pairwise' to extend a context, got 'joint'"):
        context.extended(context)


def test_contexts_of_another_mode_are_refused(folder):
    context = load(folder, "joint").encode_context(pixels(1, 1), places(1))
    with pytest.raises(ValueError, match="attention 'joint', not 'full'; encode its examples"):
        load(folder, "full").draw_maps(context, pixels(1, 2), prompt="earth")


@pytest.mark.parametrize("mode", ["full", "joint", "pairwise"])
def test_neither_company_nor_samples_change_a_map(folder, mode):
    model = load(folder, mode)
    context, asked = model.encode_context(pixels(2, 1), places(2)), pixels(3, 2)
    together = model.draw_maps(context, asked, prompt="earth", samples=2, steps=2)
    told = []
    alone = model.draw_maps(
        context,
        asked[1:2],
        prompt="earth",
        steps=2,
        callback_on_step_end=lambda *step: told.append(step),
    )
    assert len(told) == 2
    assert torch.equal(told[-1][0], alone)
    assert together.shape == (3, 2, 3, 64, 128)
    torch.testing.assert_close(alone[0, 0], together[1, 0], atol=1e-5, rtol=0)
    assert not np.allclose(together[0, 0], together[0, 1], atol=1e-3)


def test_steps_are_told_where_queries_have_examples_of_their_own(folder):
    """They go through one after the other: each tells its own steps."""
    model = load(folder, "pairwise")
    context = model.encode_context(pixels(3, 1), places(3)).choosing(torch.tensor([[0, 2], [1, 2]]))
    steps = []
    drawn = model.draw_maps(
        context,
        pixels(2, 2),
        prompt="earth",
        steps=2,
        callback_on_step_end=lambda maps, t: steps.append((maps, t)),
    )
    assert [len(maps) for maps, _ in steps] == 4 * [1]
    assert [t == 1 for _, t in steps] == [True, False, True, False]
    assert torch.equal(torch.cat([steps[1][0], steps[3][0]]), drawn)


def test_predict_locates_with_a_pipeline(folder):
    """End to end; random weights know nothing, so only the way of the data is tested."""
    shown = [(pixels(1, i)[0].permute(1, 2, 0).numpy(), (10.0 * i, 20.0 * i)) for i in range(2)]
    asked = [pixels(1, 9)[0].permute(1, 2, 0).numpy()]
    model = load(folder, "pairwise")
    (found,) = icgeo.predict(asked, shown, model=model, steps=2, samples=2)
    assert found.map.shape == (3, 64, 128)
    assert found.density.mass.sum().item() == pytest.approx(1, abs=1e-6)


def test_guidance_by_examples_leans_away_from_none(folder):
    model = load(folder, "pairwise")
    context, asked = model.encode_context(pixels(2, 1), places(2)), pixels(1, 2)
    x = torch.randn(1, 1, *model.layout.latent_shape(2))
    queries = model.layout.encode_queries(context.tensors, asked / 255)

    def velocity(scale, context):
        chosen = replace(model, settings=replace(model.settings, example_guidance=scale))
        return chosen.velocity(context, queries, "earth")(x, 0.7)

    with_, without = velocity(1.0, context), velocity(2.5, Context(0, {}, model.fingerprint))
    expected = without + 2.5 * (with_ - without)
    torch.testing.assert_close(velocity(2.5, context), expected, atol=1e-5, rtol=0)
    with pytest.raises(icgeo.LoadError, match=r"example_guidance of 1 where .* one picture"):
        model.choosing(layout="panel", example_guidance=2.0)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in ("ti2v", "vace") else name
        for name in sorted(twins.ALL)
    ],
)
def test_every_architecture_locates_a_clip(folders, name):
    """End to end; random weights know nothing, so only the way of the data is tested."""
    model = icgeo.load(folders[name], style=STYLE, photo_size=64)
    model = replace(model, settings=replace(model.settings, trained_area=3 * 64 * (64 + 128)))
    shown = [(pixels(1, i)[0].permute(1, 2, 0).numpy(), (10.0 * i, 20.0 * i)) for i in range(2)]
    frames = [pixels(1, 7 + i)[0].permute(1, 2, 0).numpy() for i in range(2)]
    locator = icgeo.Geolocator(model, steps=1, samples=1)
    clip = locator.locate_sequence(frames, shown, speed_kmh=900.0, seconds=60.0)
    assert len(clip.frames) == 2
    for prediction in (*clip.frames, clip.whole):
        assert prediction.density.mass.sum().item() == pytest.approx(1, abs=1e-6)
    alone = [found.density.mass for found in locator.locate(frames, shown)]
    assert not torch.equal(clip.frames[0].density.mass, alone[0])
