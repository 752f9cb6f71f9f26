"""Time adapting against one target a pass, as diffusers' own LoRA loop trains.

Its LoRA scripts give a stock transformer the noisy target, then all references, as one sequence,
and take the loss on the target alone. Here the pairs of an episode go through once and all are
targets of one pass. Both get the same latents, LoRA and AdamW, and every target all other pairs;
both are timed in turn.
"""

import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Literal

from icgeo import config
from icgeo.options import EARTH
from icgeo.training.options import LoraOptions


@dataclass(frozen=True)
class Options:
    """Time models of random weights; every way in turn, medians of several repetitions."""

    preset: Literal["small", "klein-4b"] = "small"
    """Dimensions: some 10 million parameters, or those of FLUX.2 klein 4B."""
    views: tuple[int, ...] = (3, 5, 9, 17)
    """Pairs of an episode: each is a target, the others its examples."""
    rank: int = 16
    """Rank of the LoRA."""
    checkpointing: bool = False
    """Compute activations again in the backward pass."""
    repeats: int = 3
    """Repetitions, beside one for warming up."""
    device: str = "cpu"
    """Device on which the models run."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Dtype of the base."""
    name: str = "benchmark-lora"
    """Run folder under runs/."""


def main(options: Options) -> None:
    """Time, print a table, write it as JSON."""
    import torch
    from benchmark import timed

    from icgeo.training.episodes import sample_episode

    folder = config.save_run(Path("runs") / options.name, options)
    dtype, rows = getattr(torch, options.dtype), []
    settings: dict[str, Any] = {"rank": options.rank, "checkpointing": options.checkpointing}
    settings["mixed_precision"] = "bf16" if options.dtype == "bfloat16" else "no"
    for views in options.views:
        lora = LoraOptions(views=views, tracker="none", **settings)
        run = random_run(options.preset, lora, device=options.device, dtype=dtype)
        sample = sample_episode(run.gallery, lora, lora.seed)
        sample = replace(sample, visible=~torch.eye(views, dtype=torch.bool), has_text=True)
        step = partial(take_step, run, sample)
        ways = {"shared": None, "stock, one a pass": 1, f"stock, {views} a pass": views}
        steps = {way: (partial(step, at_once=count), views) for way, count in ways.items()}
        seconds = timed(steps, repeats=options.repeats)
        shared_seconds, *stock_seconds = (median(each) for each in seconds.values())
        ratio = min(stock_seconds) / shared_seconds
        rates = {way: round(1 / median(each), 2) for way, each in seconds.items()}
        rows.append({"views": views, "targets a second": rates, "ratio": ratio})
        print(f"{views} pairs: {rates} targets a second, {ratio:.2f} times the better stock loop")
    (folder / "benchmark.json").write_text(json.dumps({"rows": rows}, indent=2) + "\n")


def random_run(preset: str, options: LoraOptions, *, device: str, dtype: Any) -> Any:
    """Make a run on a klein of random weights, with random latents; an episode is all data."""
    import torch
    from benchmark import build

    from icgeo.training.episodes import Gallery
    from icgeo.training.lora import LoraTraining, make_accelerator
    from icgeo.training.losses import FlowLoss, Latents

    model = build(preset, 32, device=device, dtype=dtype).choosing(attention="pairwise")
    in_map, channels = model.layout.latent_shape(0)
    side = model.photo_size // model.backbone.patch
    generator = torch.Generator().manual_seed(options.seed)
    tensors = {
        name: torch.randn(options.views, *tokens, channels, generator=generator).to(dtype)
        for name, tokens in (("photos", (side, side)), ("maps", (in_map,)))
    }
    return LoraTraining(
        FlowLoss(model, EARTH),
        Latents(tensors),
        Gallery.of(torch.rand(options.views, 2, generator=generator), tensors["maps"][:, 0]),
        folder=Path(),
        options=options,
        accelerator=make_accelerator(options, Path()),
    )


def take_step(run: Any, sample: Any, *, at_once: int | None = None) -> None:
    """Take a step with all pairs of an episode as targets of one pass, or as diffusers does.

    There so many targets go through in a pass, each in a sequence with all other pairs.
    """
    import torch

    from icgeo.models.attention import install, uninstall

    losses = [partial(run.loss, run.latents, [sample])]
    if at_once:
        passes = torch.arange(len(sample.pairs)).split(at_once)
        losses = [partial(stock_loss, run, sample, rows) for rows in passes]
    (uninstall if at_once else install)(run.transformer)
    for loss in losses:
        with run.accelerator.autocast():
            value = loss() / len(losses)
        run.accelerator.backward(value)
    run.accelerator.clip_grad_norm_(run.weights, run.options.max_grad_norm)
    run.optimizer.step()
    run.optimizer.zero_grad()


def stock_loss(run: Any, sample: Any, rows: Any) -> Any:
    """Return the loss of some targets, each with all other pairs in one sequence."""
    import torch
    from einops import rearrange

    from icgeo import sampling
    from icgeo.models.layouts.layout import in_one_sequence
    from icgeo.training.losses import flow_error, mix

    model, shots = run.loss.model, len(sample.pairs) - 1
    layout: Any = model.layout
    photos, maps = (
        run.latents[name][sample.pairs].to(run.accelerator.device) for name in ("photos", "maps")
    )
    noise = sample.noise(*maps.shape).to(maps)
    t = sampling.shifted(sample.t[0], layout.shift(shots, model.settings.steps))
    numbers = torch.arange(shots + 1)
    indices = torch.stack([numbers[numbers != row] for row in rows])
    grid, photos = photos.shape[1:3], photos.flatten(1, 2)
    pairs = rearrange(torch.cat((photos, maps), dim=1)[indices], "n k t c -> n (k t) c")
    references = torch.cat((pairs, photos[rows]), dim=1)
    images = [layout.grid(0), *shots * [grid, layout.grid(0)], grid]
    predict = in_one_sequence(model.backbone, references, layout.ids(images, first=0))
    noisy = mix(maps, noise, t)[rows]
    velocity = predict(noisy[:, None], t.item(), layout.text(EARTH, shots))[:, 0]
    return flow_error(velocity, noise[rows], maps[rows])


if __name__ == "__main__":
    config.run(main, Options)
