"""Ways to choose examples from banks, and banks of any size to choose from.

Conventions: a bank is drawn like the photos, or taken on an even grid over the whole world. Models
are told that the world is unknown, the Earth too: else they answer from memory.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from icgeo.baselines import NearestPixels
from icgeo.data.orbit import take_views, to_uint8, views_to_examples
from icgeo.evaluation.benchmarks import (
    EARTH,
    EARTH_VIEWS,
    Episode,
    Query,
    world_picture,
    world_views,
)
from icgeo.evaluation.comparison import compare, comparison_table
from icgeo.evaluation.evidence import HELD_OUT, by_group
from icgeo.evaluation.rows import Row
from icgeo.evaluation.run import evaluate
from icgeo.evaluation.legacy import RETRIEVAL
from icgeo.features import Features
from icgeo.prediction import Example, Locator
from icgeo.seeds import seeded_generator
from icgeo.selection import (
    Bank,
    Diverse,
    Nearest,
    Random,
    Selecting,
    Stratified,
    TwoStage,
    make_strategy,
)
from icgeo.sphere import fibonacci_grid, to_lat_lon

VIEWS_AT_ONCE = 1024
RANDOM = "random"
"""The way that the others are compared with."""
GROUPS: dict[str, tuple[str, ...]] = {HELD_OUT: ("craters", "cells"), EARTH: (EARTH,)}
Banks = Mapping[tuple[str, int], Sequence[Example]]
"""By how their places are taken, "drawn" or "grid", and by their size."""


def choosing(
    runs: Iterable[tuple[Locator, Episode]], choice: str, features: Features | None, *, shots: int
) -> tuple[list[tuple[Locator, Episode]], list[tuple[Locator, Episode]]]:
    """Let locators choose from all examples of their episodes, of which `shots` are left to count.

    Returns:
        runs of these locators, and runs of their baseline where the truth is known: `RETRIEVAL`, the
        place of the example most alike in the same features, which choices without features need
        not have.
    """
    banks: dict[int, Bank] = {}  # episodes of a benchmark share their examples
    chosen: list[tuple[Locator, Episode]] = []
    baselines: list[tuple[Locator, Episode]] = []
    for locator, episode in runs:
        bank = banks.setdefault(id(episode.examples), Bank(episode.examples, features))
        shown = replace(episode, examples=episode.examples[:shots])
        strategy = make_strategy(choice, locator)
        chosen.append((Selecting(locator, bank, strategy, name=locator.name), shown))
        known = [query for query in episode.queries if query.lat_lon is not None]
        if known and len(bank) and features:
            nearest = Selecting(NearestPixels(), bank, Nearest(), shots=1, name=RETRIEVAL)
            baselines.append((nearest, replace(shown, queries=known)))
    return chosen, baselines


def ways(
    locator: Locator, examples: Sequence[Example], features: Mapping[str, Features]
) -> list[Selecting]:
    """Ways to choose from examples in some features; the first of these serve where one will do.

    `retrieval` answers with the example most alike, without the locator.
    """
    banks = {name: Bank(examples, own) for name, own in features.items()}
    name, bank = next(iter(banks.items()))
    choose: Callable[..., Selecting] = partial(Selecting, locator, bank)
    return [
        choose(Random(), name=RANDOM),
        choose(Stratified(), name="stratified"),
        *(
            Selecting(locator, own, Nearest(), name=f"nearest in {called}")
            for called, own in banks.items()
        ),
        choose(Diverse(), name=f"diverse in {name}"),
        choose(TwoStage(locator), name="two-stage"),
        Selecting(NearestPixels(), bank, Nearest(), shots=1, name=f"retrieval in {name}"),
    ]


def numbered(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """Name the worlds of so many episodes of each of `GROUPS`, families in turn."""
    return [
        (GROUPS[group][number % len(GROUPS[group])], number)
        for group, count in counts.items()
        for number in range(count)
    ]


def compare_ways(
    locator: Locator,
    features: Mapping[str, Features],
    episodes: Iterable[Episode],
    *,
    folder: Path,
    shots: Sequence[int] = (1, 2, 4, 8, 16),
) -> list[Row]:
    """Locate queries with examples chosen from those of their episode, in all `ways`."""
    runs = [
        (way, episode) for episode in episodes for way in ways(locator, episode.examples, features)
    ]
    return by_group(evaluate(runs, folder=folder, shots=shots, baselines=False))


def world_with_banks(
    world: str, number: int = 0, *, queries: int, sizes: Sequence[int], seed: int = 0
) -> tuple[Episode, Banks]:
    """Take queries of a world, and banks of each size from it; drawn ones are nested."""
    episode = f"{world}-banks-{seed}-{number}"
    picture = world_picture(world, seeded_generator(episode, "world"))
    asked = world_views(world, picture, queries, seeded_generator(episode, "queries"))
    drawn: list[Example] = []
    draws = seeded_generator(episode, "drawn")
    while len(drawn) < max(sizes):
        drawn += [Example(i, *p) for i, p in world_views(world, picture, VIEWS_AT_ONCE, draws)]
    banks: dict[tuple[str, int], Sequence[Example]] = {}
    for size in sizes:
        banks["drawn", size] = drawn[:size]
        banks["grid", size] = _grid(world, picture, size, seeded_generator(episode, "grid"))
    questions = [Query(f"{episode}/{n}", *view) for n, view in enumerate(asked)]
    return Episode(episode, world, (), questions), banks


def _grid(
    world: str,
    picture: Float[Tensor, "3 height width"],
    size: int,
    generator: torch.Generator,
) -> list[Example]:
    """Take views on an even grid over land and sea."""
    options = EARTH_VIEWS if world == EARTH else None
    found: list[Example] = []
    for xyz in fibonacci_grid(size).split(VIEWS_AT_ONCE):
        images, _ = take_views(
            picture[None], xyz[None].float(), generator=generator, options=options
        )
        views = views_to_examples(to_uint8(images[0]), to_lat_lon(xyz))
        found += [Example(image, *place) for image, place in views]
    return found


def compare_banks(
    locator: Locator,
    features: Mapping[str, Features],
    worlds: Iterable[tuple[Episode, Banks]],
    *,
    folder: Path,
    shots: int = 16,
) -> list[Row]:
    """Locate the same queries with examples chosen from banks of each size, in all `ways`.

    Returns:
        rows whose `shots` are the size of the bank, not the number shown; their worlds are named
        with the places of the bank.
    """
    rows: dict[tuple[str, int], list[Row]] = {}
    for asked, banks in worlds:
        for (places, size), bank in banks.items():
            runs = [(way, replace(asked, examples=bank)) for way in ways(locator, bank, features)]
            own = folder / f"{places}-{size}"
            rows[places, size] = evaluate(runs, folder=own, shots=(shots,), baselines=False)
    return [
        replace(row, shots=size, world=f"{row.world}, {places}")
        for (places, size), found in rows.items()
        for row in by_group(found)
    ]


def write_comparison(folder: Path, rows: Sequence[Row], *, name: str) -> str:
    """Write how ways compare to `RANDOM`: `name`.parquet, and `name`.md which is returned."""
    import pandas

    parts: list[str] = []
    records: list[dict[str, object]] = []
    for world in dict.fromkeys(row.world for row in rows):
        found = compare([row for row in rows if row.world == world], RANDOM)
        parts.append(f"{world}\n\n{comparison_table(found)}\n")
        records += [{"world": world, **asdict(one)} for one in found]
    pandas.json_normalize(records).to_parquet(folder / f"{name}.parquet", index=False)
    text = "\n".join(parts)
    (folder / f"{name}.md").write_text(text, encoding="utf-8")
    return text
