"""Time adapting against one target a pass, as diffusers' own LoRA loop trains.

Its LoRA scripts give a stock transformer the noisy target, then all references, as one sequence,
and take the loss on the target alone. Here the pairs of an episode go through once and all are
targets of one pass. Both get the same latents, LoRA and AdamW, and every target all other pairs;
both are timed in turn.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal, cast

from icgeo import config
from icgeo.options import EARTH
from icgeo.training.options import LoraOptions

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from icgeo.models.layouts.references import References
    from icgeo.training.episodes import EpisodeSample
    from icgeo.training.lora import LoraTraining


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
    from benchmark import memory_peak, spread, timed

    from icgeo.training.episodes import sample_episode

    folder = config.save_run(Path("runs") / options.name, options)
    rows = []
    for views in options.views:
        lora = LoraOptions(
            views=views,
            rank=options.rank,
            checkpointing=options.checkpointing,
            mixed_precision="bf16" if options.dtype == "bfloat16" else "no",
            tracker="none",
        )
        dtype = getattr(torch, options.dtype)
        run = random_run(options.preset, lora, device=options.device, dtype=dtype)
        sample = sample_episode(run.gallery, lora, lora.seed)
        sample = replace(sample, visible=~torch.eye(views, dtype=torch.bool), has_text=True)
        ways = {"shared": None, "stock, one a pass": 1, f"stock, {views} a pass": views}
        steps = {
            way: (partial(take_step, run, sample, at_once=at_once), views)
            for way, at_once in ways.items()
        }
        seconds = timed(steps, repeats=options.repeats)
        shared, *stock = (median(each) for each in seconds.values())
        ratio = min(stock) / shared
        rates = {way: round(1 / median(each), 2) for way, each in seconds.items()}
        spreads = {way: round(spread(each), 3) for way, each in seconds.items()}
        rows.append({"views": views, "targets a second": rates, "spread": spreads, "ratio": ratio})
        print(f"{views} pairs: {rates} targets a second, {ratio:.2f} times the better stock loop")
    result = {"rows": rows, "memory peak, bytes": memory_peak(options.device)}
    (folder / "benchmark.json").write_text(json.dumps(result, indent=2) + "\n")


def random_run(
    preset: Literal["small", "klein-4b"], options: LoraOptions, *, device: str, dtype: "torch.dtype"
) -> "LoraTraining":
    """Make a run on a klein of random weights, with random latents; an episode is all data."""
    import torch
    from benchmark import build

    from icgeo.training.episodes import Gallery
    from icgeo.training.lora import LoraTraining, make_accelerator
    from icgeo.training.losses import FlowLoss, Latents

    model = build(preset, device=device, dtype=dtype)
    model = replace(model, settings=replace(model.settings, attention="pairwise"))
    in_map, channels = cast("References", model.layout).latent_shape(0)
    in_photo = (model.settings.photo_size // model.backbone.patch) ** 2
    generator = torch.Generator().manual_seed(options.seed)
    tensors = {
        name: torch.randn(options.views, tokens, channels, generator=generator).to(dtype)
        for name, tokens in (("photos", in_photo), ("maps", in_map))
    }
    return LoraTraining(
        FlowLoss(model, EARTH),
        Latents(tensors),
        Gallery.of(torch.rand(options.views, 2, generator=generator), tensors["maps"][:, 0]),
        folder=Path(),
        options=options,
        accelerator=make_accelerator(options, Path()),
    )


def take_step(run: "LoraTraining", sample: "EpisodeSample", *, at_once: int | None = None) -> None:
    """Take a step with all pairs of an episode as targets of one pass, or as diffusers does.

    There so many targets go through in a pass, each in a sequence with all other pairs.
    """
    import torch

    from icgeo.models.attention import install, uninstall

    losses: list[Callable[[], Tensor]] = [lambda: run.loss(run.latents, [sample])]
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


def stock_loss(run: "LoraTraining", sample: "EpisodeSample", rows: "Tensor") -> "Tensor":
    """Return the loss of some targets, each with all other pairs in one sequence."""
    import torch
    from einops import rearrange

    from icgeo import sampling
    from icgeo.models.backbones.flux import FluxBackbone
    from icgeo.training.losses import flow_error

    model = run.loss.model
    layout, shots = cast("References", model.layout), len(sample.pairs) - 1
    device = run.accelerator.device
    photos, data = (run.latents[name][sample.pairs].to(device) for name in ("photos", "maps"))
    noise = sample.noise(*data.shape).to(data)
    t = sampling.shifted(sample.t[0], layout.shift(shots, model.settings.steps)).item()
    numbers = torch.arange(shots + 1)
    others = torch.stack([numbers[numbers != row] for row in rows])
    pairs = rearrange(torch.cat((photos, data), dim=1)[others], "n k t c -> n (k t) c")
    noisy = ((1 - t) * data + t * noise)[rows]
    ids = layout.ids(*range(2 * shots + 2))
    text: Any = model.layout.text(EARTH, shots)
    tokens = torch.cat((noisy, pairs, photos[rows]), dim=1)
    backbone = cast(FluxBackbone, model.backbone)
    velocity = backbone.forward(tokens, t, ids, text=text)[:, : noisy.shape[1]]
    return flow_error(velocity, noise[rows], data[rows])


if __name__ == "__main__":
    config.run(main, Options)
