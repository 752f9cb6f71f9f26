"""Adapt a model by a LoRA to a planet or to your photos, and compare it with zero-shot."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icgeo import config
from icgeo.training.options import LoraOptions

if TYPE_CHECKING:
    from icgeo.adaptation import Trial
    from icgeo.models import MapModel
    from icgeo.training.plan import LoraPlan

CHOICES = ("attention", "layout", "photo_size", "quantization", "dtype")
"""Options that `icgeo.load` takes."""


@dataclass(frozen=True)
class Options(LoraOptions):
    """Adapt to one planet that the model has never seen, or to your photos; then compare."""

    data: Path | None = None
    """Your photos with their locations (CSV, Parquet or a folder), instead of a planet."""
    world: str = "craters"
    """A family of procedural worlds, of which one is taken, or a picture of a whole planet."""
    photos: int = 1024
    """Views of the planet to train on."""
    validation: int = 96
    """Other views, for validation and for tempering."""
    queries: int = 320
    """Other views, to compare on."""
    shots: tuple[int, ...] = (0, 1, 4, 8, 16)
    """Numbers of examples to compare with."""
    model: str = "tiny"
    """A name, a checkpoint folder, or a hub id."""
    attention: str | None = None
    """Who sees whom: full, joint or pairwise; by default the model's own."""
    layout: str | None = None
    """How examples are shown: references or panel; by default the model's own."""
    photo_size: int | None = None
    """Height and width of photos in pixels, where the model can choose."""
    quantization: str | None = None
    """Of the base's weights: nf4, fp8 or int8."""
    dtype: str | None = None
    """Of the base's weights; by default float32 on a CPU, bfloat16 elsewhere."""
    batch_size: int = 64
    """Queries at a time in the comparison."""
    licence: str = "apache-2.0"
    """Of the adapter."""
    push_to_hub: str | None = None
    """Repository of the hub (owner/name), private, that gets the adapter."""
    allow_outside: bool = False
    """Accept photos outside the folder of their manifest."""
    plan: bool = False
    """Say what memory and time the run would take, and stop."""
    name: str = "lora"
    """Run folder under runs/; a run that was stopped goes on."""


def gather(options: Options, size: int, folder: Path) -> "Trial":
    """Take the user's photos, or views of a planet."""
    from icgeo.adaptation import Trial, planet_views
    from icgeo.options import EARTH, UNKNOWN
    from icgeo.training.photo_sets import photo_splits

    seed = options.seed
    if options.data:
        outside, skipped = options.allow_outside, folder / "skipped.txt"
        found = photo_splits(
            options.data, size=size, seed=seed, skipped=skipped, allow_outside=outside
        )
        trial = Trial(found, EARTH, options.shots, world=str(options.data), seed=seed)
    else:
        counts = (options.photos, options.validation, options.queries)
        found = planet_views(options.world, counts, size=size, seed=seed)
        trial = Trial(found, UNKNOWN, options.shots, world=options.world, seed=seed)
    found.require(max(options.shots))
    return trial


def planned(options: Options, *, dtype: str | None, **chosen: Any) -> "LoraPlan":
    """Plan the run."""
    import torch

    from icgeo.training.plan import plan_lora

    return plan_lora(options.model, options, dtype=getattr(torch, dtype or "bfloat16"), **chosen)


def main(options: Options) -> None:
    """Train, compare, write the card."""
    from icgeo.models import load
    from icgeo.training.lora import LoraTraining, make_accelerator
    from icgeo.training.memory import keep_freed_memory

    chosen = {name: getattr(options, name) for name in CHOICES}
    if options.plan:
        print(planned(options, **chosen))
        return
    keep_freed_memory()
    folder = Path("runs") / options.name
    accelerator = make_accelerator(options, folder)
    if accelerator.is_main_process:
        config.save_run(folder, options, may_differ=("push_to_hub", "tracker"))
    take = partial(load, options.model, device=accelerator.device, **chosen)
    model = take()
    trial = gather(options, model.photo_size, folder)
    LoraTraining.of(model, trial.division, trial.prompt, folder, options, accelerator).run()
    del model
    if accelerator.is_main_process:
        compare(options, trial, folder, take)
    accelerator.wait_for_everyone()  # a launcher ends all processes where one ends badly
    accelerator.end_training()


def compare(
    options: Options, trial: "Trial", folder: Path, take: "Callable[..., MapModel]"
) -> None:
    """Compare with zero-shot, write the model card, and put both on the hub if asked to."""
    from icgeo.adaptation import compare_adapted
    from icgeo.training.cards import push_to_hub, write_card

    adapter = folder / "adapter"
    report = compare_adapted(
        lambda lora: take(adapter=lora),
        adapter,
        trial,
        folder / "comparison",
        with_old=options.model == "tiny",
        batch_size=options.batch_size,
    )
    write_card(
        adapter,
        base=options.model,
        data=f"{len(trial.division.training)} photos of {trial.world}.",
        settings={field.name: getattr(options, field.name) for field in fields(LoraOptions)},
        results=report,
        licence=options.licence,
        choices={n: getattr(options, n) for n in CHOICES if getattr(options, n) is not None},
    )
    print(report)
    if options.push_to_hub:
        print(push_to_hub(adapter, options.push_to_hub))


if __name__ == "__main__":
    config.run(main, Options)
