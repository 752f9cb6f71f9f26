"""Adapt a model by a LoRA to a planet or to your photos, and compare it with zero-shot."""

from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path

from icgeo import adaptation, config
from icgeo.adaptation import Trial
from icgeo.layout import EARTH, UNKNOWN
from icgeo.models import LoadOptions, load
from icgeo.training.cards import push_to_hub, write_card
from icgeo.training.lora import LoraOptions, LoraTraining, make_accelerator
from icgeo.training.memory import keep_freed_memory
from icgeo.training.pools import Division, photo_division


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
    name: str = "lora"
    """Run folder under runs/; a run that was stopped goes on."""


def gather(options: Options, size: int, folder: Path) -> Division:
    """Take the user's photos, or views of a planet."""
    if options.data:
        return photo_division(
            options.data,
            size=size,
            seed=options.seed,
            skipped=folder / "skipped.txt",
            allow_outside=options.allow_outside,
        )
    counts = {
        "training": options.photos, "validation": options.validation, "test": options.queries
    }  # fmt: skip
    return adaptation.planet_views(options.world, size=size, seed=options.seed, **counts)


def main(options: Options) -> None:
    """Train, compare, write the card."""
    keep_freed_memory()
    folder = Path("runs") / options.name
    accelerator = make_accelerator(options, folder)
    if accelerator.is_main_process:
        config.save_run(folder, options, may_differ=("push_to_hub", "tracker"))
    chosen = {
        f.name: getattr(options, f.name) for f in fields(LoadOptions) if hasattr(options, f.name)
    }
    take = partial(load, options.model, device=accelerator.device, **chosen)
    model = take()
    division = gather(options, model.photo_size, folder)
    division.require(max(options.shots))
    prompt = EARTH if options.data else UNKNOWN
    world = str(options.data or options.world)
    trial = Trial(division, prompt, options.shots, world=Path(world).stem, seed=options.seed)
    run = LoraTraining.of(model, trial.division, prompt, folder, options, accelerator)
    run.run()
    if not accelerator.is_main_process:
        return
    del run, model
    report = adaptation.compare_adapted(
        lambda adapter: take(adapter=adapter),
        folder / "adapter",
        trial,
        folder / "comparison",
        with_old=options.model == "tiny",
        batch_size=options.batch_size,
    )
    print(report)
    settings = {f.name: asdict(options)[f.name] for f in fields(LoraOptions)}
    write_card(
        folder / "adapter",
        base=options.model,
        data=f"{len(division.training)} photos of {world}.",
        settings=settings,
        results=report,
        licence=options.licence,
        choices={name: value for name, value in chosen.items() if value is not None},
    )
    if options.push_to_hub:
        print(push_to_hub(folder / "adapter", options.push_to_hub))


if __name__ == "__main__":
    config.run(main, Options)
