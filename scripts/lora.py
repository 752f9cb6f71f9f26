"""Adapt a model by a LoRA to a planet or to your photos, and compare it with zero-shot.

Both are compared with the same queries, examples and metrics, and with temperatures fitted on the
same validation photos, on which neither was trained. Examples come from the photos that it was
trained on, queries are new. Intervals resample whole episodes.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import icgeo
from icgeo import config
from icgeo.options import EARTH, SETTINGS, UNKNOWN, fields_of
from icgeo.training.options import LoraOptions

NOT_COUNTED = "with --data the options world, photos, validation and queries do not count"
CHOICES = (*SETTINGS, "quantization", "dtype")
"""Options that `icgeo.load` takes."""
ZERO, LORA, ALONE = "zero-shot", "LoRA", "LoRA, no examples"
MAP_ALONE = ", map alone"
OLD_EPISODES, OLD_QUERIES, OLD_SHOTS = 8, 12, 16
"""What the forgetting test locates, of the Earth and of unknown worlds, the latter with shots."""
QUERIES_EACH = 16
"""Queries of an episode, which share their examples."""


@dataclass(frozen=True)
class Options(LoraOptions):
    """Adapt to one planet that the model has never seen, or to your photos; then compare."""

    data: Path | None = None
    """Your photos with their locations (CSV, Parquet or a folder), instead of a planet; those of
    one place, or nearly the same, stay in one part of the split."""
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
    model: str | None = None
    """A name, a checkpoint folder, or a hub id; by default tiny, where it can know the photos."""
    attention: str | None = None
    """Who sees whom: full, joint, pairwise or causal; by default the model's own."""
    layout: str | None = None
    """How examples are shown: references, pair, sheet or panel; by default the model's own."""
    photo_size: int | None = None
    """Height and width of photos in pixels, where the model can choose."""
    photo_shape: Literal["square"] = "square"
    """Photos are cut to their middle square, for those of a batch have one shape; so the LoRA sees
    them wherever it is loaded with the call of its card."""
    text: str | None = None
    """How it reads instructions: stock (padded, as pipelines do) or trimmed to their words."""
    quantization: str | None = None
    """Quantization of the base's weights: nf4, fp8 or int8."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
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


def main(options: Options) -> None:
    """Train, compare, write the card."""
    from icgeo.training.adapters import push_to_hub, write_card
    from icgeo.training.loop import keep_freed_memory
    from icgeo.training.lora import LoraTraining, make_accelerator

    base, may_refuse = options.model or "tiny", options.model is None
    options = replace(options, model=base)
    choices = {name: getattr(options, name) for name in CHOICES}
    if options.plan:
        print_plan(options, choices)
        return
    keep_freed_memory()
    accelerator = make_accelerator(options, folder := Path("runs") / options.name)
    if accelerator.is_main_process:
        config.save_run(folder, options, may_differ=("push_to_hub", "tracker"))
    load_base = partial(icgeo.load, base, device=accelerator.device, **choices)
    model = load_base()
    splits = gather(options, model.photo_size, folder)
    accelerator.print(f"{splits}; {NOT_COUNTED}" if options.data else splits)
    if options.data and may_refuse:
        require_in_domain(model, splits.training.photos)
    run = LoraTraining.of(
        model, splits, EARTH if options.data else UNKNOWN, folder, options, accelerator
    )
    run.run()
    settings = fields_of(LoraOptions, run.options)
    del model, run
    if accelerator.is_main_process:
        print(report := compare_adapted(load_base, splits, folder, options))
        write_card(
            folder / "adapter",
            base=base,
            data=f"{len(splits.training)} photos of {options.data or options.world}.",
            settings=settings,
            results=report,
            licence=options.licence,
            choices={name: value for name, value in choices.items() if value is not None},
        )
        if options.push_to_hub:
            print(push_to_hub(folder / "adapter", options.push_to_hub))
    accelerator.wait_for_everyone()  # a launcher ends all processes where one ends badly
    accelerator.end_training()


def print_plan(options: Options, choices: dict[str, Any]) -> None:
    """Say what memory and time the run would take on the device that is here."""
    import torch

    from icgeo.training.lora_cost import plan_lora
    from icgeo.training.photo_sets import read_records

    if options.data:
        records = read_records(options.data, allow_outside=options.allow_outside)
        print(f"{len(records)} photos; {NOT_COUNTED}")
    dtype = getattr(torch, choices["dtype"] or "bfloat16")
    device = str(torch.accelerator.current_accelerator() or "cpu")
    print(
        plan_lora(options.model or "tiny", options, **{**choices, "dtype": dtype, "device": device})
    )


def gather(options: Options, size: int, folder: Path) -> Any:
    """Read the user's photos, or take views of a planet."""
    from icgeo.training.photo_sets import photo_splits, view_splits

    if options.data:
        skipped, allow_outside = folder / "skipped.txt", options.allow_outside
        read = partial(photo_splits, options.data, skipped=skipped, allow_outside=allow_outside)
    else:
        counts = (options.photos, options.validation, options.queries)
        read = partial(view_splits, options.world, counts)
    splits = read(size=size, seed=options.seed)
    splits.require(max(options.shots))
    return splits


def require_in_domain(model: Any, photos: Any) -> None:
    """Raise UsageError for photos of which most are unlike all that the model was trained on."""
    in_domain = model.in_domain(photos)
    if in_domain is not None and (count := int((~in_domain).sum())) > len(photos) / 2:
        raise config.UsageError(
            f"expected --model: tiny knows views from orbit, and {count} of {len(photos)} photos "
            "are unlike these; name one such as black-forest-labs/FLUX.2-klein-base-4B, or tiny "
            "to take it nevertheless"
        )


def compare_adapted(load_base: Any, splits: Any, run: Path, options: Options) -> str:
    """Locate with the model before and after; write `comparison.md`, rows and a figure.

    What is in the folder is not located again. One model is in memory at a time. Where it is tiny,
    both also locate what tiny was trained for, to see what the adapter forgot.
    """
    import torch

    from icgeo.evaluation import evaluate
    from icgeo.training.calibration import fit_temperatures, validation_episodes

    world, folder, size = str(options.data or options.world), run / "comparison", options.batch_size
    prompt = EARTH if options.data else UNKNOWN
    counts: dict[str, Any] = {"shots": max(options.shots), "queries_each": QUERIES_EACH}
    split: Any = partial(validation_episodes, splits.training, **counts)
    validation = list(split(splits.validation, seed=options.seed + 1))
    tests = [
        to_episode(f"{world}/{number}", world, *parts)
        for number, parts in enumerate(split(splits.test, seed=options.seed + 2))
    ]
    queries, maps, old_tables, departs = tests[0].queries[:4], {}, {}, tuple[str, ...]()
    photos = [query.photo for query in queries]
    for name, lora in ((ZERO, None), (LORA, run / "adapter")):
        model = load_base(adapter=lora).choosing(steps=options.for_steps)
        if options.model == "tiny":
            old_tables = locate_old(model, name, folder / "old")
        calibrated_model = fit_temperatures(model, validation, shots=options.shots, prompt=prompt)
        make: Any = partial(icgeo.Geolocator, calibrated_model, prompt=prompt, batch_size=size)
        ways = [make(name=name), make(matching=False, name=name + MAP_ALONE)]
        ways = ways if model.matcher else ways[:1]
        runs = [(way, episode) for way in ways for episode in tests]
        rows = evaluate(runs, folder=folder, shots=options.shots, batch_size=size, baselines=False)
        map_images = [one.map for one in ways[0].locate(photos, tests[0].examples)]
        maps[name] = torch.stack([one for one in map_images if one is not None])
        style, departs = model.settings.style, departs + model.departures(max(options.shots))
        del model, calibrated_model, ways, runs
    truth = icgeo.maps.draw([query.lat_lon or (0.0, 0.0) for query in queries], style)
    figure = icgeo.plots.plot_maps(photos, {"truth": truth, **maps})
    figure.savefig(folder / "maps.png", dpi=150)
    report = format_report(rows, old_tables, splits, world) + "".join(
        f"{ZERO} is not as the weights were trained: {departure}\n" for departure in departs
    )
    (folder / "comparison.md").write_text(f"# Zero-shot against LoRA\n\n{report}", encoding="utf-8")
    return report


def to_episode(name: str, world: str, bank: Any, queries: Any) -> "icgeo.evaluation.Episode":
    """Make an episode of examples and queries."""
    from icgeo.data.orbit import views_to_examples
    from icgeo.evaluation import Episode, Query

    bank_views, query_views = (
        views_to_examples(part.photos, part.lat_lon) for part in (bank, queries)
    )
    examples = [icgeo.Example(photo, *place) for photo, place in bank_views]
    return Episode(
        name, world, examples, [Query(f"{name}/{i}", *view) for i, view in enumerate(query_views)]
    )


def locate_old(model: Any, name: str, folder: Path) -> dict[int, Any]:
    """Locate what tiny was trained for, by shots and with the model's own calibration.

    It is the Earth from memory, and unknown worlds.
    """
    from icgeo.evaluation import episodes, evaluate

    take = partial(episodes.world_episode, episodes.EARTH, queries=OLD_QUERIES, shots=0)
    earth = [take(number) for number in range(OLD_EPISODES)]
    unknown_worlds = episodes.group_episodes(episodes.HELD_OUT, OLD_EPISODES, queries=OLD_QUERIES)
    make, tables = partial(icgeo.Geolocator, model, name=name), {}
    for shots, group in ((0, earth), (OLD_SHOTS, unknown_worlds)):
        runs, path = [(make(prompt=one.prompt), one) for one in group], folder / f"{shots}-shots"
        tables[shots] = evaluate(runs, folder=path, shots=(shots,), baselines=False)
    return tables


def format_report(rows: Any, old_tables: dict[int, Any], splits: Any, world: str) -> str:
    """Lay out the comparison as Markdown, without a heading.

    The adapted model's answers without examples stand beside those with each number of shots.
    """
    import torch
    from pandas import concat

    from icgeo.evaluation import compare, comparison_table
    from icgeo.evaluation.episodes import HELD_OUT

    training_places, distance_km = splits.training.lat_lon, icgeo.sphere.distance_km
    gap_km = torch.stack(
        [distance_km(place, training_places).min() for place in splits.test.lat_lon]
    )
    zero_shot = rows[(rows.locator == LORA) & (rows.shots == 0)].assign(locator=ALONE)
    copies = [zero_shot.assign(shots=count) for count in sorted(rows.shots.unique())]
    lines = [
        f"{len(splits.test)} queries of {world} in episodes of {QUERIES_EACH}, examples out "
        f"of {len(training_places)} training photos, both tempered on "
        f"{len(splits.validation)} validation photos. A query is {gap_km.median():.0f} km from "
        "the nearest training photo in the median. Differences are to zero-shot on the same "
        "queries and examples, with 95 % intervals by the bootstrap over episodes; NLL in nats "
        "per steradian.",
        "",
        comparison_table(compare(concat([rows, *copies]), ZERO)),
    ]
    titles = {0: "The Earth upright", OLD_SHOTS: f"Unknown worlds ({HELD_OUT}, {UNKNOWN!r})"}
    for shots, old_rows in old_tables.items():
        table = comparison_table(compare(old_rows, ZERO))
        lines += ["", f"{titles[shots]}, before and after, own calibration:", "", table]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    config.run(main, Options)
