"""Measure how a model learns from examples: worlds seen and unseen, settings, overlap, codec."""

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import icgeo
from icgeo import config
from icgeo.options import UNKNOWN, ModelOptions, fields_of


@dataclass(frozen=True, kw_only=True)
class Options(ModelOptions):
    """Evaluate on many episodes; a run that was stopped goes on."""

    held_out: int = 52
    """Episodes of families that were held out of training."""
    unseen: int = 52
    """Episodes of families that development never saw either."""
    seen: int = 15
    """Episodes of families that were trained on, in worlds that were not."""
    turned: int = 8
    """Episodes of the Earth, turned and recoloured."""
    near: int = 26
    """Episodes of each group but the last two, whose queries are shown the most alike of `bank`."""
    bank: int = 256
    """Examples to choose from there."""
    queries: int = 12
    """Queries of an episode."""
    by_heart: int = 256
    """Views of the Earth to locate without examples."""
    settings: int = 10
    """Held-out episodes on which 4 steps of 8 samples are tried against 1 step."""
    shots: tuple[int, ...] = (0, 1, 4, 8, 16)
    """Numbers of random examples."""
    half: Path | None = None
    """Checkpoint of half the training to compare, such as of `pretrain_parts.py --steps 2250`."""
    seed: int = 0
    """Seed of worlds and views."""
    name: str = "worlds"
    """Run folder under runs/."""


def main(options: Options) -> None:
    """Locate, print and write `evidence.md` and `evidence.json`."""
    from pandas import concat

    from icgeo.evaluation import episodes, evaluate, score, score_table

    folder = config.save_run(Path("runs") / options.name, options, may_differ=("device", "half"))
    model = icgeo.load(**fields_of(ModelOptions, options))
    make = partial(icgeo.Geolocator, model, prompt=UNKNOWN)
    take = partial(episodes.group_episodes, queries=options.queries, seed=options.seed)
    sizes = (options.held_out, options.unseen, options.seen, options.turned)
    counts = dict(zip(episodes.WORLD_GROUPS, sizes, strict=True))
    worlds = [episode for group, count in counts.items() for episode in take(group, count)]
    variants = ablations(model, options.half)
    rows = locate_each_way(worlds, make, variants, folder, shots=options.shots)
    groups = episodes.name_groups(rows)
    banks = [
        episode
        for group in (episodes.HELD_OUT, episodes.UNSEEN)
        for episode in take(group, min(options.near, counts[group]), shots=options.bank)
    ]
    near_rows = episodes.name_groups(locate_nearest(banks, make, folder / "near"))
    near_rows = near_rows.assign(world=near_rows.world + f", most alike of {options.bank}")

    views: dict[str, Any] = {"queries": options.by_heart, "shots": 0, "seed": options.seed}
    earth = episodes.world_episode(episodes.EARTH, **views)
    earth_rows = evaluate([(make(prompt=earth.prompt), earth)], folder=folder / "by-heart")

    settings = (make(steps=1, samples=1, name="1 step"), make(steps=4, samples=8, name="4 x 8"))
    runs = [(locator, episode) for locator in settings for episode in worlds[: options.settings]]
    by_settings = evaluate(runs, folder=folder / "settings", shots=(16,), baselines=False)
    by_settings = by_settings.assign(world=f"{episodes.HELD_OUT}, " + by_settings.locator)

    rows = concat([groups, near_rows, earth_rows, by_settings], ignore_index=True)
    values = {
        "share_of_queries_that_overlap": overlaps(worlds),
        "codec_and_ink_median_km": codec_and_heatmap_km(model),
    }
    text = json.dumps(values, indent=2) + "\n"
    (folder / "evidence.json").write_text(text, encoding="utf-8")
    evidence = f"{score_table(score(rows))}\n\n```json\n{text}```\n"
    (folder / "evidence.md").write_text(evidence, encoding="utf-8")
    print(evidence)


def ablations(model: Any, half: Path | None) -> list[Any]:
    """Return locators that lack a part of the model, or half of its training."""
    from icgeo.baselines import AlikeParts

    make = partial(icgeo.Geolocator, prompt=UNKNOWN)
    variants = [make(icgeo.load(half), name="half the training")] if half else []
    if not model.matcher:
        return variants
    bare_model = replace(model, backbone=copy.deepcopy(model.backbone))
    bare_model.backbone.codec.describe.weight.zero_()  # of whole photos; what each token sees stays
    return [
        AlikeParts.of(model),
        make(model, matching=False, name="drawn map alone"),
        make(bare_model, name="no pooled descriptor"),
        make(bare_model, matching=False, name="drawn map alone, no pooled descriptor"),
        *variants,
    ]


def locate_each_way(
    episodes: Sequence[Any],
    make: Callable[..., Any],
    variants: Sequence[Any],
    folder: Path,
    *,
    shots: Sequence[int],
) -> Any:
    """Locate by the model, by less of it, and by what could be done without; print differences."""
    from icgeo.baselines import AlikeParts, Retrieval

    ways = [make(), *variants]
    if ways[0].loaded.matcher:
        retrieval = Retrieval(icgeo.features.open("tiny"))
        ways += [make(prompt=None, name="not told"), AlikeParts(), retrieval]
    runs = [(way, episode) for way in ways for episode in episodes]
    rows = icgeo.evaluation.evaluate(runs, folder=folder, shots=shots)
    print_differences(rows, [way.name for way in ways])
    return rows


def locate_nearest(episodes: Sequence[Any], make: Callable[..., Any], folder: Path) -> Any:
    """Show each query the most alike of its bank; print how the ways differ, return the rows."""
    from icgeo.baselines import AlikeParts
    from icgeo.evaluation import choose_examples, evaluate

    ways = [make(), AlikeParts()]
    if (model := ways[0].loaded).matcher:
        ways.append(AlikeParts.of(model))
    runs = [(way, episode) for way in ways for episode in episodes]
    runs, baselines = choose_examples(runs, "nearest", icgeo.features.open("tiny"), shots=16)
    rows = evaluate([*runs, *baselines], folder=folder, shots=(1, 4, 16), baselines=False)
    print_differences(rows, [*(way.name for way in ways), "retrieval"])
    return rows


def print_differences(rows: Any, ways: Sequence[str]) -> None:
    """Print how ways differ from the first, paired, on worlds that no training saw."""
    from icgeo.evaluation import compare, comparison_table
    from icgeo.evaluation.episodes import HELD_OUT, UNSEEN, name_groups

    groups = name_groups(rows)
    for group in (HELD_OUT, UNSEEN):
        part = groups[(groups.world == group) & (groups.shots >= 4) & groups.locator.isin(ways)]
        if len(part):
            print(group, comparison_table(compare(part, ways[0])), sep="\n")


def overlaps(episodes: Sequence[Any]) -> dict[str, dict[int, float]]:
    """Return the share of queries of which an example shows a tenth and a fifth, by shots."""
    import torch

    from icgeo.data.orbit import random_views
    from icgeo.seeds import seeded_generator

    # where views lie follows from the names of the episode, whatever the world looks like
    views = partial(random_views, torch.zeros(3, 4, 8))
    most = [torch.empty(0, 16)]
    for episode in episodes:
        queries, examples = (
            views(count, generator=seeded_generator(episode.id, name))
            for count, name in ((len(episode.queries), "queries"), (16, "examples"))
        )
        most.append(queries.overlap(examples).cummax(1).values)
    share = torch.cat(most)
    return {
        f"{limit:.0%}": {n: (share[:, n - 1] > limit).double().mean().item() for n in (1, 4, 8, 16)}
        for limit in (0.1, 0.2)
    }


def codec_and_heatmap_km(model: Any, *, count: int = 256) -> float | None:
    """Compute the median error of maps drawn, coded and read: what no training can go below.

    None for a model whose codec cannot be tried alone.
    """
    import torch

    from icgeo.sphere import distance_km, sample_uniform, to_lat_lon

    if not hasattr(model, "codec_round_trip"):
        return None
    places = to_lat_lon(sample_uniform(count, generator=torch.Generator().manual_seed(0)))
    readings = icgeo.maps.read(model.codec_round_trip(places).float(), model.settings.style)
    answers = torch.stack([reading.density.best_point() for reading in readings])
    return icgeo.metrics.median_error(distance_km(places, answers))


if __name__ == "__main__":
    config.run(main, Options)
