"""Adapt a model by a LoRA to a planet or to your photos, and compare it with zero-shot.

Both are compared with the same queries, examples and metrics, and with temperatures fitted on the
same validation photos, on which neither was trained. Examples come from the photos that it was
trained on, queries are new. Intervals resample whole episodes.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from icgeo import config
from icgeo.options import EARTH, UNKNOWN
from icgeo.training.options import LoraOptions

if TYPE_CHECKING:
    from pandas import DataFrame

    from icgeo.evaluation import Episode
    from icgeo.models import MapModel
    from icgeo.training.photo_sets import PhotoSet, Splits

CHOICES = ("attention", "layout", "photo_size", "quantization", "dtype")
"""Options that `icgeo.load` takes."""
ZERO, LORA, ALONE = "zero-shot", "LoRA", "LoRA, no examples"
OLD_EPISODES, OLD_QUERIES, OLD_SHOTS = 8, 12, 16
"""What the forgetting test locates, of the Earth and of unknown worlds, the latter with shots."""
QUERIES_EACH = 16
"""Queries of an episode, which share their examples."""


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
    """Other views, for validation and for fitting temperatures."""
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
    """Quantization of the base's weights: nf4, fp8 or int8."""
    dtype: str | None = None
    """Dtype of the base's weights; by default float32 on a CPU, bfloat16 elsewhere."""
    batch_size: int = 64
    """Queries at a time in the comparison."""
    licence: str = "apache-2.0"
    """Licence of the adapter."""
    push_to_hub: str | None = None
    """Repository of the hub (owner/name), private, that gets the adapter."""
    allow_outside: bool = False
    """Accept photos outside the folder of their manifest."""
    plan: bool = False
    """Say what memory and time the run would take, and stop."""
    name: str = "lora"
    """Run folder under runs/; a run that was stopped goes on."""

    @property
    def prompt(self) -> str:
        """Prompt of the world of the photos."""
        return EARTH if self.data else UNKNOWN

    @property
    def source(self) -> str:
        """What the photos are of, for episodes and reports."""
        return str(self.data or self.world)


def main(options: Options) -> None:
    """Train, compare, write the card."""
    import torch

    from icgeo.models import load
    from icgeo.training.adapters import push_to_hub, write_card
    from icgeo.training.loop import keep_freed_memory
    from icgeo.training.lora import LoraTraining, make_accelerator
    from icgeo.training.lora_cost import plan_lora

    choices = {name: getattr(options, name) for name in CHOICES}
    if options.plan:
        dtype = getattr(torch, choices.pop("dtype") or "bfloat16")
        print(plan_lora(options.model, options, dtype=dtype, **choices))
        return
    keep_freed_memory()
    folder = Path("runs") / options.name
    accelerator = make_accelerator(options, folder)
    if accelerator.is_main_process:
        config.save_run(folder, options, may_differ=("push_to_hub", "tracker"))
    load_base = partial(load, options.model, device=accelerator.device, **choices)
    model = load_base()
    splits = gather(options, model.photo_size, folder)
    LoraTraining.of(model, splits, options.prompt, folder, options, accelerator).run()
    del model
    if accelerator.is_main_process:
        adapter = folder / "adapter"
        report = compare_adapted(load_base, adapter, splits, folder / "comparison", options)
        write_card(
            adapter,
            base=options.model,
            data=f"{len(splits.training)} photos of {options.source}.",
            settings={field.name: getattr(options, field.name) for field in fields(LoraOptions)},
            results=report,
            licence=options.licence,
            choices={name: value for name, value in choices.items() if value is not None},
        )
        print(report)
        if options.push_to_hub:
            print(push_to_hub(adapter, options.push_to_hub))
    accelerator.wait_for_everyone()  # a launcher ends all processes where one ends badly
    accelerator.end_training()


def gather(options: Options, size: int, folder: Path) -> "Splits":
    """Read the user's photos, or take views of a planet."""
    from icgeo.training.photo_sets import photo_splits, view_splits

    if options.data:
        splits = photo_splits(
            options.data,
            size=size,
            seed=options.seed,
            skipped=folder / "skipped.txt",
            allow_outside=options.allow_outside,
        )
    else:
        counts = (options.photos, options.validation, options.queries)
        splits = view_splits(options.world, counts, size=size, seed=options.seed)
    splits.require(max(options.shots))
    return splits


def compare_adapted(
    load_base: "Callable[..., MapModel]",
    adapter: Path,
    splits: "Splits",
    folder: Path,
    options: Options,
) -> str:
    """Locate with the model before and after; write `comparison.md`, rows and a figure.

    What is in the folder is not located again. One model is in memory at a time. Where it is tiny,
    both also locate what tiny was trained for, to see what the adapter forgot.
    """
    import torch

    from icgeo import plots
    from icgeo.evaluation import evaluate
    from icgeo.geolocator import Geolocator
    from icgeo.maps import draw
    from icgeo.training.calibration import fit_temperatures, validation_episodes

    split = partial(
        validation_episodes, splits.training, shots=max(options.shots), queries_each=QUERIES_EACH
    )
    validation = list(split(splits.validation, seed=options.seed + 1))
    tests = [
        to_episode(f"{options.source}/{number}", options.source, *parts)
        for number, parts in enumerate(split(splits.test, seed=options.seed + 2))
    ]
    queries, size, old = tests[0].queries[:4], options.batch_size, {}
    photos, maps = [query.photo for query in queries], {}
    for name, lora in ((ZERO, None), (LORA, adapter)):
        model = load_base(adapter=lora)
        if options.model == "tiny":
            old = locate_old(model, name, folder / "old")
        calibrated = fit_temperatures(model, validation, shots=options.shots, prompt=options.prompt)
        locator = Geolocator(
            calibrated,
            prompt=options.prompt,
            matching=False,  # what is drawn is compared, which the LoRA changes
            name=name,
            batch_size=size,
        )
        runs = [(locator, episode) for episode in tests]
        rows = evaluate(runs, folder=folder, shots=options.shots, batch_size=size, baselines=False)
        drawn = [one.map for one in locator.locate(photos, tests[0].examples)]
        maps[name] = torch.stack([one for one in drawn if one is not None])
        style = model.settings.style
        del model, calibrated, locator, runs
    truth = draw([query.lat_lon or (0.0, 0.0) for query in queries], style)
    plots.plot_maps(photos, {"truth": truth, **maps}).savefig(folder / "maps.png", dpi=150)
    report = format_report(rows, old, splits, options.source)
    (folder / "comparison.md").write_text(f"# Zero-shot against LoRA\n\n{report}", encoding="utf-8")
    return report


def to_episode(name: str, world: str, bank: "PhotoSet", queries: "PhotoSet") -> "Episode":
    """Make an episode of examples and queries."""
    from icgeo.data.orbit import views_to_examples
    from icgeo.evaluation import Episode, Query
    from icgeo.prediction import Example

    pairs = views_to_examples(bank.photos, bank.lat_lon)
    photos = views_to_examples(queries.photos, queries.lat_lon)
    examples = [Example(photo, *location) for photo, location in pairs]
    return Episode(
        name, world, examples, [Query(f"{name}/{i}", *photo) for i, photo in enumerate(photos)]
    )


def locate_old(model: "MapModel", name: str, folder: Path) -> "dict[int, DataFrame]":
    """Locate what tiny was trained for, by shots and with the model's own calibration.

    It is the Earth from memory, and unknown worlds.
    """
    from icgeo.evaluation import evaluate, world_episode
    from icgeo.evaluation.episodes import EARTH as BLUE_MARBLE
    from icgeo.evaluation.episodes import HELD_OUT, group_episodes
    from icgeo.geolocator import Geolocator

    earth = [
        world_episode(BLUE_MARBLE, number, queries=OLD_QUERIES, shots=0)
        for number in range(OLD_EPISODES)
    ]
    tables = {}
    unknown = group_episodes(HELD_OUT, OLD_EPISODES, queries=OLD_QUERIES)
    for shots, episodes in ((0, earth), (OLD_SHOTS, unknown)):
        ask = partial(Geolocator, model, matching=False, name=name)
        runs = [(ask(prompt=one.prompt), one) for one in episodes]
        path = folder / f"{shots}-shots"
        tables[shots] = evaluate(runs, folder=path, shots=(shots,), baselines=False)
    return tables


def format_report(
    rows: "DataFrame", old: "dict[int, DataFrame]", splits: "Splits", world: str
) -> str:
    """Lay out the comparison as Markdown, without a heading.

    The adapted model's answers without examples stand beside those with each number of shots.
    """
    import torch
    from pandas import concat

    from icgeo.evaluation import compare, comparison_table
    from icgeo.evaluation.episodes import HELD_OUT
    from icgeo.sphere import distance_km

    known = splits.training.lat_lon
    nearest = torch.stack([distance_km(place, known).min() for place in splits.test.lat_lon])
    alone = rows[(rows.locator == LORA) & (rows.shots == 0)].assign(locator=ALONE)
    copies = [alone.assign(shots=count) for count in sorted(rows.shots.unique())]
    lines = [
        f"{len(splits.test)} queries of {world} in episodes of {QUERIES_EACH}, examples out "
        f"of {len(known)} training photos, both tempered on "
        f"{len(splits.validation)} validation photos. A query is {nearest.median():.0f} km from "
        "the nearest training photo in the median. Differences are to zero-shot on the same "
        "queries and examples, with 95 % intervals by the bootstrap over episodes; NLL in nats "
        "per steradian.",
        "",
        comparison_table(compare(concat([rows, *copies]), ZERO)),
    ]
    titles = {0: "The Earth upright", OLD_SHOTS: f"Unknown worlds ({HELD_OUT}, {UNKNOWN!r})"}
    for shots, old_rows in old.items():
        table = comparison_table(compare(old_rows, ZERO))
        lines += ["", f"{titles[shots]}, before and after, own calibration:", "", table]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    config.run(main, Options)
