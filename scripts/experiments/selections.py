"""Measure ways to choose examples: error against shots, and against the size of the bank.

Banks are drawn like the photos, or taken on an even grid over the whole world. Models are told that
the world is unknown, the Earth too: else they answer from memory.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle, repeat
from pathlib import Path
from typing import Any

import icgeo
from icgeo import config
from icgeo.options import UNKNOWN, ModelOptions, fields_of

VIEWS_AT_ONCE = 1024
BASE = "random"
"""The way that the others are compared with."""


@dataclass(frozen=True, kw_only=True)
class Options(ModelOptions):
    """Choose from banks of views of worlds never seen, and of the Earth; a stopped run goes on."""

    features: tuple[str, ...] = ("tiny", "pixels")
    """What photos are compared by: pixels, tiny, efficientnet-lite0, or a model of transformers."""
    held_out: int = 10
    """Episodes of families that were held out of training, each in a world of its own."""
    earth: int = 6
    """Episodes of Blue Marble."""
    queries: int = 12
    """Queries of an episode."""
    bank: int = 256
    """Examples to choose from."""
    shots: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Numbers of examples to show."""
    banks: tuple[int, ...] = (100, 1000)
    """Sizes of banks to compare with 16 shots, drawn like the photos and on an even grid."""
    bank_worlds: int = 4
    """Worlds of each kind for that; 0 leaves it out."""
    bank_queries: int = 12
    """Queries in each."""
    seed: int = 0
    """Seed of worlds and views."""
    name: str = "selections"
    """Run folder under runs/."""


def main(options: Options) -> None:
    """Locate; print and write tables as Markdown and Parquet, and figures."""
    from pandas import concat

    from icgeo.evaluation import evaluate, world_episode
    from icgeo.evaluation.episodes import name_groups

    folder = config.save_run(Path("runs") / options.name, options, may_differ=("device",))
    locator = icgeo.Geolocator(prompt=UNKNOWN, **fields_of(ModelOptions, options))
    features = {n: icgeo.features.open(n, device=options.device) for n in options.features}

    runs = []
    take = partial(world_episode, queries=options.queries, shots=options.bank, seed=options.seed)
    for episode in (take(*world) for world in worlds(options.held_out, options.earth)):
        runs += [(way, episode) for way in ways(locator, episode.examples, features)]
    if runs:
        rows = evaluate(runs, folder=folder, shots=options.shots, baselines=False)
        tell(name_groups(rows), folder, "strategies")

    tables = {}
    for world in worlds(options.bank_worlds, options.bank_worlds) if options.banks else []:
        views: dict[str, Any] = {"queries": options.bank_queries, "sizes": options.banks}
        episode, banks = world_with_banks(*world, **views, seed=options.seed)
        for (places, size), bank in banks.items():
            bank_episode = replace(episode, examples=bank)
            runs = [(way, bank_episode) for way in ways(locator, bank, features)]
            part = folder / "banks" / f"{places}-{size}"
            rows = name_groups(evaluate(runs, folder=part, shots=(16,), baselines=False))
            tables[part] = rows.assign(shots=size, world=rows.world + f", {places}")
    if tables:
        rows = concat(tables.values(), ignore_index=True)
        tell(rows, folder, "banks", label="examples in the bank")


def worlds(held_out: int, earth: int) -> list[tuple[str, int]]:
    """Name the worlds of so many episodes, families in turn."""
    from icgeo.data.worlds import HELD_OUT_FAMILIES
    from icgeo.evaluation.episodes import EARTH

    return [*zip(cycle(HELD_OUT_FAMILIES), range(held_out)), *zip(repeat(EARTH), range(earth))]


def ways(locator: Any, examples: Sequence[Any], features: Mapping[str, Any]) -> list[Any]:
    """Make ways to choose; the first features serve where one will do.

    `retrieval` answers with the example most alike, without the locator.
    """
    from icgeo.baselines import NearestPixels
    from icgeo.selection import Bank, Diverse, Nearest, Random, Selecting, Stratified, TwoStage

    banks = {name: Bank(examples, one) for name, one in features.items()}
    name, bank = next(iter(banks.items()))
    return [
        Selecting(locator, bank, Random(), name=BASE),
        Selecting(locator, bank, Stratified(), name="stratified"),
        *(Selecting(locator, by, Nearest(), name=f"nearest in {of}") for of, by in banks.items()),
        Selecting(locator, bank, Diverse(), name=f"diverse in {name}"),
        Selecting(locator, bank, TwoStage(locator), name="two-stage"),
        Selecting(NearestPixels(), bank, Nearest(), shots=1, name=f"retrieval in {name}"),
    ]


def world_with_banks(
    world: str, number: int = 0, *, queries: int, sizes: Sequence[int], seed: int = 0
) -> tuple[Any, dict[tuple[str, int], "list[icgeo.Example]"]]:
    """Take queries of a world, and banks of it: drawn ones, nested, and on an even grid."""
    from icgeo.data.orbit import take_views, to_uint8, views_to_examples
    from icgeo.evaluation.episodes import EARTH, EARTH_VIEWS, Query, world_picture, world_views
    from icgeo.seeds import seeded_generator
    from icgeo.sphere import fibonacci_grid, to_lat_lon

    name = f"{world}-banks-{seed}-{number}"
    make_generator = partial(seeded_generator, name)
    picture = world_picture(world, make_generator("world"))
    views = world_views(world, picture, queries, make_generator("queries"))
    query_list = [Query(f"{name}/{index}", *view) for index, view in enumerate(views)]
    take = partial(world_views, world, picture, VIEWS_AT_ONCE, make_generator("drawn"))
    examples: list[icgeo.Example] = []
    while len(examples) < max(sizes):
        examples += [icgeo.Example(image, *place) for image, place in take()]
    camera = EARTH_VIEWS if world == EARTH else None
    banks = {}
    for size in sizes:
        grid, generator = [], make_generator("grid")
        for xyz in fibonacci_grid(size).split(VIEWS_AT_ONCE):
            centre = xyz[None].float()
            images, _ = take_views(picture[None], centre, generator=generator, options=camera)
            grid += views_to_examples(to_uint8(images[0]), to_lat_lon(xyz))
        banks["drawn", size] = examples[:size]
        banks["grid", size] = [icgeo.Example(image, *place) for image, place in grid]
    return icgeo.evaluation.Episode(name, world, (), query_list), banks


def tell(rows: Any, folder: Path, name: str, *, label: str = "shots") -> None:
    """Print how ways compare to `BASE` in each world; write `name`.md, .parquet and .png."""
    from icgeo.evaluation import compare, comparison_table, score

    comparison = compare(rows, BASE, by=("world", "shots"))
    comparison.to_parquet(folder / f"{name}.parquet", index=False)
    parts = comparison.groupby("world", sort=False)
    text = "\n".join(f"{world}\n\n{comparison_table(part)}\n" for world, part in parts)
    (folder / f"{name}.md").write_text(text, encoding="utf-8")
    print(text)
    figure = icgeo.plots.plot_shots(score(rows), label=label, log=True)
    figure.savefig(folder / f"{name}.png", dpi=150)


if __name__ == "__main__":
    config.run(main, Options)
