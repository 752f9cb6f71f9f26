"""Tests of FLUX.2 klein with pairs as references: parity with diffusers, contexts, learning."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import twins
from diffusers import Flux2KleinKVPipeline, Flux2KleinPipeline
from einops import rearrange
from PIL import Image

import icgeo
from icgeo import layout, maps, sampling
from icgeo.models.base import Context
from icgeo.models.prefix import uninstall
from icgeo.models.references import ReferenceMapModel

STYLE = maps.MapStyle.marker(height=64, width=128, spread_deg=10.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return twins.klein(tmp_path_factory.mktemp("klein"))


def load(folder, mode="joint", **settings):
    model = ReferenceMapModel.load(folder, dtype=torch.float32)
    chosen = replace(model.settings, style=STYLE, attention=mode, **settings)
    return replace(model, settings=chosen, photo_size=64)


def pixels(count, seed, width=64):
    return torch.randint(
        256, (count, 3, 64, width), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8
    )


def places(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 2, generator=generator) * 100 - 50


def pictures(images):
    return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]


def denoise(model, shots, steps=3):
    """Latents of one map, from 8 bit pictures of pairs and photo, and the same for diffusers."""
    photos, drawn, asked = pixels(shots, 1), pixels(shots, 2, width=128), pixels(1, 3)
    context = Context(0, {}, model.made_by)
    if shots:
        encoded = (model.encode_images(x / 255) for x in (photos, drawn))
        context = model.encode_pairs(*encoded)
    noise = torch.randn(1, 1, 32, 16, generator=torch.Generator().manual_seed(4))
    velocity = model.velocity(context, model.encode_images(asked / 255), "earth")
    found = sampling.euler(velocity, noise, model.times(32, steps))
    pairs = [
        image for pair in zip(pictures(photos), pictures(drawn), strict=True) for image in pair
    ]
    given = {
        "image": [*pairs, *pictures(asked)],
        "prompt_embeds": model.text("earth", shots=shots),
        "latents": rearrange(noise, "1 1 (h w) c -> 1 c h w", h=4),
        "num_inference_steps": steps,
        "height": 64,
        "width": 128,
        "output_type": "latent",
    }
    return found, given


def stock_latents(model, pipeline, given):
    """What a pipeline of diffusers finds, as tokens; it undoes the normalisation."""
    pipeline.set_progress_bar_config(disable=True)
    if type(pipeline) is Flux2KleinPipeline:
        uninstall(pipeline.transformer)
    found = pipeline(**given).images
    bn = model.pipeline.vae.bn
    deviation = (bn.running_var + model.pipeline.vae.config.batch_norm_eps).sqrt()
    normal = (pipeline._patchify_latents(found) - bn.running_mean[:, None, None]) / deviation[
        :, None, None
    ]
    return rearrange(normal, "1 c h w -> 1 1 (h w) c")


@torch.no_grad()
@pytest.mark.parametrize("shots", [0, 2])
def test_full_is_the_stock_pipeline(folder, shots):
    model = load(folder, "full")
    found, given = denoise(model, shots)
    expected = stock_latents(model, model.pipeline, given)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_full_with_guidance_is_the_stock_pipeline(tmp_path):
    model = load(twins.klein(tmp_path, distilled=False), "full", guidance_scale=3.0)
    found, given = denoise(model, 1)
    negative = model.text("", shots=1)
    given |= {"guidance_scale": 3.0, "negative_prompt_embeds": negative}
    expected = stock_latents(model, model.pipeline, given)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_without_examples_joint_is_the_key_value_pipeline(folder):
    model = load(folder, "joint")
    found, given = denoise(model, 0)
    stock = Flux2KleinKVPipeline(**model.pipeline.components)
    expected = stock_latents(model, stock, given)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_instructions_are_trimmed(folder):
    model = load(folder)
    text = model.text("earth", shots=1)
    padded, _ = model.pipeline.encode_prompt(next(iter(model.texts)))
    assert text.shape[1] < padded.shape[1] == 512
    torch.testing.assert_close(text, padded[:, : text.shape[1]], atol=1e-5, rtol=0)


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
    alone = model.draw_maps(context, asked[1:2], prompt="earth", samples=1, steps=2)
    assert together.shape == (3, 2, 3, 64, 128)
    torch.testing.assert_close(alone[0, 0], together[1, 0], atol=1e-5, rtol=0)
    assert not np.allclose(together[0, 0], together[0, 1], atol=1e-3)


def test_predict_locates_with_a_pipeline(folder):
    """End to end; random weights know nothing, so only the way of the data is tested."""
    shown = [(pixels(1, i)[0].permute(1, 2, 0).numpy(), (10.0 * i, 20.0 * i)) for i in range(2)]
    asked = [pixels(1, 9)[0].permute(1, 2, 0).numpy()]
    model = load(folder, "pairwise")
    (found,) = icgeo.predict(asked, shown, model=model, steps=2, samples=2)
    assert found.map.shape == (3, 64, 128)
    assert found.density.mass.sum().item() == pytest.approx(1, abs=1e-6)


def velocity_loss(model, episode, generator):
    """Flow matching on one episode: two examples, one query, eight noises, times of 0.3 to 1."""
    pairs, photo, drawn = episode
    velocity = model.velocity(model.encode_pairs(*pairs), photo, "earth")
    t = 0.3 + 0.7 * torch.rand((), generator=generator).item()
    noise = torch.randn(1, 8, *drawn.shape[-2:], generator=generator)
    found = velocity((1 - t) * drawn[:, None] + t * noise, t)
    return (found - (noise - drawn[:, None])).square().mean()


def standardise(model, drawn):
    """Let the VAE's statistics be those of the maps, as they are in a trained one."""
    tokens, bn = model.encode_images(drawn).flatten(0, 1), model.pipeline.vae.bn
    deviation = (bn.running_var + model.pipeline.vae.config.batch_norm_eps).sqrt()
    bn.running_mean.add_(tokens.mean(0) * deviation)
    bn.running_var.copy_((tokens.std(0) * deviation).square())


def test_the_twin_learns(tmp_path):
    """Trained on 8 fixed episodes, its loss falls tenfold and it draws each of their maps."""
    style = maps.MapStyle(height=32, width=64)
    model = load(twins.klein(tmp_path, layers=1)).choosing(style=style)
    model = replace(model, photo_size=32)
    model.texts[layout.words("earth", shots=2)] = torch.zeros(1, 4, 48)  # letters cost time
    standardise(model, maps.draw(places(64, seed=99), style))
    episodes = []
    for i in range(8):
        xy = places(3, seed=i)
        photos = model.encode_images(pixels(3, seed=50 + i)[..., :32, :32] / 255)
        drawn = model.encode_images(maps.draw(xy, style))
        episodes.append(((photos[:2], drawn[:2]), photos[2:], drawn[2:]))
    transformer = model.pipeline.transformer.requires_grad_(True)
    optimizer = torch.optim.AdamW(transformer.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for step in range(320):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1.0, (320 - step) / 160)
        loss = velocity_loss(model, episodes[step % 8], generator)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(transformer.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-40:]) < np.mean(losses[:8]) / 10
    truths = torch.cat([drawn for *_, drawn in episodes])
    with torch.no_grad():
        for i, (pairs, photo, _) in enumerate(episodes):
            noise = torch.randn(1, 1, *truths.shape[1:], generator=generator)
            velocity = model.velocity(model.encode_pairs(*pairs), photo, "earth")
            drawn = sampling.euler(velocity, noise, model.times(8, 4))[0]
            assert (drawn - truths).square().mean(dim=(1, 2)).argmin() == i
