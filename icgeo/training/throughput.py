"""Targets a second of adapting, against one target a pass as diffusers' own loop trains.

Its LoRA scripts give a stock transformer the noisy target, then all references, as one sequence,
and take the loss on the target alone. Here the pairs of an episode go through once and all are
asked for in one pass. Both get the same latents, LoRA and AdamW, and every target all other pairs;
both are timed in turn.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from icgeo import sampling
from icgeo.models.attention import install, uninstall
from icgeo.models.backbones.flux2 import Flux2Backbone
from icgeo.models.benchmark import Timing, build, timed
from icgeo.models.layouts.references import References
from icgeo.options import EARTH
from icgeo.training.episode_sampling import EpisodeSample, Gallery, sample_episode
from icgeo.training.lora import LoraTraining
from icgeo.training.losses import FlowLoss, Latents, flow_error
from icgeo.training.options import LoraOptions


def random_run(size: str, options: LoraOptions, *, device: str, dtype: torch.dtype) -> LoraTraining:
    """Make a run on a klein of random weights, with random latents.

    Args:
        size: of `icgeo.models.benchmark.SIZES`.
        options: of the run; an episode is all of the data.
        device: where it runs.
        dtype: of the base.
    """
    model = build(size, device=device, dtype=dtype)
    model = replace(model, settings=replace(model.settings, attention="pairwise"))
    shown = cast(References, model.layout)
    patch, channels = model.backbone.patch, shown.latent_shape(0)[1]
    of_photo = (model.settings.photo_size // patch) ** 2
    generator = torch.Generator().manual_seed(options.seed)
    tensors = {
        name: torch.randn(options.views, tokens, channels, generator=generator).to(dtype)
        for name, tokens in (("photos", of_photo), ("maps", shown.latent_shape(0)[0]))
    }
    return LoraTraining(
        FlowLoss(model, EARTH),
        Latents(tensors),
        Gallery.of(torch.rand(options.views, 2, generator=generator), tensors["maps"][:, 0]),
        validation_set=None,
        folder=Path(),
        options=options,
    )


def _step(run: LoraTraining, losses: list[Callable[[], Tensor]]) -> None:
    """Take one step of the optimiser on the mean of losses, each with its own pass."""
    for loss in losses:
        with run.accelerator.autocast():
            value = loss() / len(losses)
        run.accelerator.backward(value)
    run.accelerator.clip_grad_norm_(run.weights, run.options.max_grad_norm)
    run.optimizer.step()
    run.optimizer.zero_grad()


def shared_step(run: LoraTraining, draw: EpisodeSample) -> None:
    """Ask for all pairs of an episode in one pass."""
    install(run.transformer)
    _step(run, [lambda: run.objective(run.latents, [draw])])


def stock_step(run: LoraTraining, draw: EpisodeSample, *, at_once: int) -> None:
    """Ask for all pairs, so many sequences a pass; each holds all other pairs."""
    uninstall(run.transformer)
    rows = torch.arange(len(draw.pairs)).split(at_once)
    _step(run, [partial(stock_loss, run, draw, part) for part in rows])


def stock_loss(
    run: LoraTraining, draw: EpisodeSample, rows: Int[Tensor, " rows"]
) -> Float[Tensor, ""]:
    """Return the loss of some targets, each with all other pairs in one sequence."""
    model = run.objective.model
    shown, shots = cast(References, model.layout), len(draw.pairs) - 1
    device = run.accelerator.device
    photos, data = (run.latents[name][draw.pairs].to(device) for name in ("photos", "maps"))
    noise = draw.noise(*data.shape).to(data)
    t = sampling.shifted(draw.t[0], shown.shift(shots, model.settings.steps)).item()
    numbers = torch.arange(shots + 1)
    others = torch.stack([numbers[numbers != row] for row in rows])
    pairs = rearrange(torch.cat((photos, data), dim=1)[others], "n k t c -> n (k t) c")
    noisy = ((1 - t) * data + t * noise)[rows]
    ids = torch.cat((shown.map_ids, shown.reference_ids(shots)))
    text: Any = model.layout.text(EARTH, shots)
    tokens = torch.cat((noisy, pairs, photos[rows]), dim=1)
    backbone = cast(Flux2Backbone, model.backbone)
    found = backbone.forward(tokens, t, ids, text=text)[:, : noisy.shape[1]]
    return flow_error(found, noise[rows], data[rows])


def compare(
    size: str,
    options: LoraOptions,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.bfloat16,
    repeats: int = 3,
) -> dict[str, Timing]:
    """Time both loops; the stock one with one sequence a pass, and with all of an episode.

    Returns:
        seconds a target, by way.
    """
    run = random_run(size, options, device=device, dtype=dtype)
    gallery, views = run.gallery, options.views
    draw = sample_episode(gallery, options, options.seed)
    draw = replace(draw, visible=~torch.eye(views, dtype=torch.bool), is_told=True)
    ways = {
        "shared": (partial(shared_step, run, draw), views),
        "stock, one a pass": (partial(stock_step, run, draw, at_once=1), views),
        f"stock, {views} a pass": (partial(stock_step, run, draw, at_once=views), views),
    }
    return timed(ways, repeats=repeats)
