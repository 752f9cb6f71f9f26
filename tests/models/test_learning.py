"""Each architecture learns: its velocity loss falls tenfold and it draws maps that read right.

Images are coded by tiny's codec of maps, so that what is drawn can be read: the VAE of a random
twin would lose it.
"""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import twins
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    FluxTransformer2DModel,
    WanTransformer3DModel,
    WanVACETransformer3DModel,
)
from einops import rearrange, repeat

import icgeo
from icgeo import maps, sampling, sphere
from icgeo.models.architectures import ARCHITECTURES, SPECS
from icgeo.models.backbones.flux import FluxBackbone, KontextBackbone
from icgeo.models.backbones.qwen import QwenBackbone
from icgeo.models.backbones.tiny import HEATMAP_WEIGHTS
from icgeo.models.backbones.wan import WanBackbone
from icgeo.models.context import Context
from icgeo.models.map_model import MapModel
from icgeo.models.prompts import Prompts

TINY = icgeo.load("tiny")
CODEC, STYLE = TINY.backbone.codec, TINY.settings.style
PATCH, CHANNELS, TEXT = 16, 36, 16
EPISODES, SHOTS = 8, 1
SHEET = 2 * STYLE.height * (STYLE.height + STYLE.width)
"""Pixels of a sheet of two pairs."""


def to_tokens(images):
    patches = rearrange(images, "n c (h y) (w x) -> n (h w) (c y x)", y=PATCH, x=PATCH)
    return patches.float() @ CODEC.encoder - CODEC.offset


# the principal components of a patch, whatever stands around it: pictures here have any size
WEIGHT = torch.tensor(HEATMAP_WEIGHTS).repeat_interleave(PATCH**2)
DECODER = torch.linalg.pinv(CODEC.encoder / WEIGHT[:, None]) / WEIGHT


def to_images(tokens, rows):
    patches = (tokens + CODEC.offset) @ DECODER
    return rearrange(patches, "n (h w) (c y x) -> n c (h y) (w x)", h=rows, y=PATCH, c=3)


class Coded:
    """Tiny's codec in place of a VAE of images."""

    patch = PATCH

    def encode(self, images):
        return to_tokens(images)

    def decode(self, tokens, *, rows):
        return to_images(tokens, rows)


class CodedFlux2(Coded, FluxBackbone):
    pass


class CodedKontext(Coded, KontextBackbone):
    pass


class CodedWan(WanBackbone):
    """Tiny's codec in place of a VAE of videos."""

    def encode(self, video):
        images = torch.cat((video[:, :, :1], video[:, :, 1::4]), dim=2)
        tokens = to_tokens((rearrange(images, "n c f h w -> (n f) c h w") + 1) / 2)
        rows = video.shape[-2] // PATCH
        return rearrange(tokens, "(n f) (h w) c -> n c f h w", n=len(video), h=rows)

    def decode(self, latents):
        rows = latents.shape[-2]
        tokens = rearrange(latents, "n c f h w -> (n f) (h w) c")
        images = rearrange(to_images(tokens, rows), "(n f) c h w -> n c f h w", n=len(latents))
        return repeat(images, "n c f h w -> n c (f four) h w", four=4)


class CodedQwen(Coded, QwenBackbone):
    pass


def qwen():
    """Its pipeline reads real photos and words; only the codec is tiny's."""
    with TemporaryDirectory() as folder:
        pipeline = icgeo.load(twins.qwen(Path(folder))).backbone.pipeline
    pipeline.register_modules(
        transformer=twins.spread(twins.qwen_transformer(2, channels=CHANNELS, heads=8))
    )
    return pipeline


def flux1():
    return FluxTransformer2DModel(
        in_channels=CHANNELS,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=4,
        joint_attention_dim=TEXT,
        pooled_projection_dim=TEXT,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    )


def wan(kind, **options):
    size = {"in_channels": CHANNELS, "out_channels": CHANNELS, "num_layers": 2}
    return kind(patch_size=(1, 1, 1), **size, **twins.WAN, **options)


def build(name):
    """A transformer of an architecture, about a hundred thousand parameters, in its layout."""
    torch.manual_seed(0)
    if name == "qwen":
        (spec,) = (spec for spec in SPECS if spec.transformer.startswith("Qwen"))
        settings = spec.settings({"_class_name": spec.pipelines[0]})
        settings = replace(settings, style=STYLE, photo_size=32)
        return MapModel(CodedQwen(qwen(), Prompts(list)), settings, name)
    backbone, transformer, pipeline = {
        "klein": (
            CodedFlux2,
            lambda: twins.flux2_transformer(1, TEXT, guidance=False, channels=CHANNELS),
            "Flux2KleinPipeline",
        ),
        "kontext": (CodedKontext, flux1, "FluxKontextPipeline"),
        "vace": (
            CodedWan,
            lambda: wan(
                WanVACETransformer3DModel, vace_layers=[0], vace_in_channels=2 * CHANNELS + PATCH**2
            ),
            "WanVACEPipeline",
        ),
        "ti2v": (CodedWan, lambda: wan(WanTransformer3DModel), "WanPipeline"),
    }[name]
    dynamic = not name.endswith(("vace", "ti2v"))
    pipeline_parts = SimpleNamespace(
        transformer=transformer(),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=dynamic),
        vae=SimpleNamespace(config=SimpleNamespace(z_dim=CHANNELS)),
        vae_scale_factor_spatial=PATCH,
        _execution_device=torch.device("cpu"),
    )
    text = {"encoder_hidden_states": torch.zeros(1, 2, TEXT)}
    if name == "kontext":
        text["pooled_projections"] = torch.zeros(1, TEXT)
    prompts = Prompts(lambda words: [text for _ in words])
    settings = ARCHITECTURES[pipeline].settings({"_class_name": pipeline})
    settings = replace(settings, style=STYLE, photo_size=32, guidance_scale=1.0, trained_area=SHEET)
    return MapModel(backbone(pipeline_parts, prompts), settings, name)


def episodes_of(model, shots=SHOTS):
    """Fixed episodes: latents of examples, of the query, of what is to be drawn, and its place."""
    found = []
    for i in range(EPISODES):
        generator = torch.Generator().manual_seed(i)
        seen = torch.rand(shots + 1, 2, generator=generator) * 120 - torch.tensor([60.0, 150.0])
        photos = maps.draw(seen, STYLE).float()[..., :32]  # what tiny's codec can code
        lat_lon = torch.rand(shots + 1, 2, generator=generator) * 120 - 60
        drawn = maps.draw(lat_lon, STYLE).float()
        shown, asked = (photos[:shots], drawn[:shots]), photos[shots:]
        kept = model.layout.encode_pairs(*shown)
        queries = model.layout.encode_queries(kept, asked)
        target = model.layout.encode_answers(kept, asked, drawn[shots:])
        found.append((shown, queries, target, lat_lon[shots:].double()))
    return found


def context_of(model, shown):
    """Encode the examples with the weights of now, gradients included."""
    return Context(len(shown[0]), model.layout.encode_pairs(*shown), model.fingerprint)


def velocity_loss(model, episode, generator):
    """Flow matching, four noises, times of 0.6 to 1."""
    shown, queries, target, _ = episode
    velocity = model.velocity(context_of(model, shown), queries, "earth")
    t = 0.6 + 0.4 * torch.rand((), generator=generator).item()
    noise = torch.randn(1, 4, *target.shape[1:], generator=generator)
    found = velocity((1 - t) * target[:, None] + t * noise, t)
    return (found - (noise - target[:, None])).square().mean()


def train(model, episodes, *, steps, rate=1e-2):
    weights = list(model.backbone.pipeline.transformer.parameters())
    optimizer = torch.optim.AdamW(weights, betas=(0.9, 0.95), weight_decay=0.0)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for step in range(steps):
        scale = min(1.0, (step + 1) / 20, (steps - step) / (0.6 * steps))
        optimizer.param_groups[0]["lr"] = rate * scale
        loss = velocity_loss(model, episodes[step % EPISODES], generator)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize(
    ("name", "settings", "shots", "steps"),
    [
        pytest.param("klein", {"attention": "joint"}, SHOTS, 300, marks=pytest.mark.slow),
        pytest.param(
            "klein", {"layout": "pair", "attention": "joint"}, SHOTS, 300, marks=pytest.mark.slow
        ),
        pytest.param("klein", {"layout": "sheet"}, 4, 500, marks=pytest.mark.slow),
        pytest.param("kontext", {}, SHOTS, 800, marks=pytest.mark.slow),
        pytest.param("vace", {}, SHOTS, 1200, marks=pytest.mark.slow),
        pytest.param("ti2v", {}, SHOTS, 500, marks=pytest.mark.slow),
        pytest.param("qwen", {}, SHOTS, 600, marks=pytest.mark.slow),
    ],
)
def test_an_architecture_learns(name, settings, shots, steps):
    """8 fixed episodes from memory: the loss, the nearest map in latents, the place in km."""
    model = build(name)
    model = replace(model, settings=replace(model.settings, **settings))
    episodes = episodes_of(model, shots)
    losses = train(model, episodes, steps=steps, rate=3e-3 if name == "qwen" else 1e-2)
    assert np.mean(losses[-40:]) < np.mean(losses[:8]) / 10
    truths, errors = torch.cat([target for *_, target, _ in episodes]), []
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for i, (shown, queries, target, place) in enumerate(episodes):
            velocity = model.velocity(context_of(model, shown), queries, "earth")
            noise = torch.randn(1, 8, *target.shape[1:], generator=generator)
            latents = sampling.euler(velocity, noise, sampling.time_grid(1))
            distances = (latents.mean(1) - truths).square().flatten(1).mean(dim=1)
            assert distances.argmin() == i
            (reading,) = maps.read(model.layout.decode(latents, shots).mean(1), STYLE)
            errors.append(sphere.distance_km(reading.point[None], place).item())
    assert np.median(errors) < 300
