"""Measure how a model learns from examples: worlds seen and unseen, calibration, steps, codec."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icgeo import config

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pandas import DataFrame, Series

    from icgeo.evaluation import Episode
    from icgeo.prediction import Locator


@dataclass(frozen=True)
class Options:
    """Evaluate on many episodes; a run that was stopped goes on."""

    model: str = "tiny"
    """A name, or a checkpoint folder."""
    device: str = "cpu"
    """Device on which the model runs."""
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
    seed: int = 0
    """Seed of worlds and views."""
    name: str = "worlds"
    """Run folder under runs/."""


def main(options: Options) -> None:
    """Locate, print and write `evidence.md`, `evidence.json` and figures."""
    from pandas import concat

    from icgeo import plots
    from icgeo.evaluation import evaluate, levels_by_world, score, world_episode
    from icgeo.evaluation.episodes import (
        EARTH,
        HELD_OUT,
        UNSEEN,
        WORLD_GROUPS,
        group_episodes,
        name_groups,
    )
    from icgeo.geolocator import Geolocator
    from icgeo.models import load

    folder = config.save_run(Path("runs") / options.name, options, may_differ=("device",))
    model = load(options.model, device=options.device)
    ask = partial(Geolocator, model, prompt="unknown world")
    take = partial(group_episodes, queries=options.queries, seed=options.seed)
    sizes = (options.held_out, options.unseen, options.seen, options.turned)
    counts = dict(zip(WORLD_GROUPS, sizes, strict=True))
    episodes = [episode for group, count in counts.items() for episode in take(group, count)]
    groups = name_groups(locate_each_way(episodes, ask, folder))
    banks = [
        episode
        for group in (HELD_OUT, UNSEEN)
        for episode in take(group, min(options.near, counts[group]), shots=options.bank)
    ]
    near = name_groups(locate_nearest(banks, ask, folder / "near"))
    near = near.assign(world=near.world + f", most alike of {options.bank}")

    earth = world_episode(EARTH, queries=options.by_heart, shots=0, seed=options.seed)
    memorised = evaluate([(ask(prompt=earth.prompt), earth)], folder=folder / "by-heart")
    plots.plot_shots(score(groups)).savefig(folder / "shots.png", dpi=150)
    levels = levels_by_world(concat([groups, memorised]))
    plots.plot_calibration(levels).savefig(folder / "calibration.png", dpi=150)

    settings = (ask(steps=1, samples=1, name="1 step"), ask(steps=4, samples=8, name="4 x 8"))
    runs = [(locator, episode) for locator in settings for episode in episodes[: options.settings]]
    tried = evaluate(runs, folder=folder / "settings", shots=(16,), baselines=False)
    tried = tried.assign(world=f"{HELD_OUT}, " + tried.locator)

    rows = concat([groups, near, memorised, tried], ignore_index=True)
    values = {
        "groups": {world: learning(part) for world, part in groups.groupby("world", sort=False)},
        "share_of_queries_that_overlap": overlaps(episodes),
        "codec_and_ink_median_km": codec_and_heatmap_km(model),
    }
    print(write_evidence(folder, rows, values))


def locate_each_way(
    episodes: "Sequence[Episode]", ask: "Callable[..., Locator]", folder: Path
) -> "DataFrame":
    """Locate by the model, by less of it, and by what could be done without; print differences.

    Return the rows of the model and of the baselines.
    """
    from icgeo import features
    from icgeo.baselines import AlikeParts, Retrieval
    from icgeo.evaluation import evaluate

    whole: Any = ask()
    ways: list[Locator] = [whole]
    less: list[Locator] = []
    if whole.loaded.matcher:
        less = [ask(prompt=None, name="not told"), ask(matching=False, name="drawn map alone")]
        retrieval = Retrieval(features.open("tiny"))
        ways += [*less, AlikeParts.of(whole.loaded), AlikeParts(), retrieval]
    runs = [(way, episode) for way in ways for episode in episodes]
    rows = evaluate(runs, folder=folder, shots=(0, 1, 4, 8, 16))
    print_differences(rows, [way.name for way in ways])
    return rows[~rows.locator.isin([way.name for way in less])]


def locate_nearest(
    episodes: "Sequence[Episode]", ask: "Callable[..., Locator]", folder: Path
) -> "DataFrame":
    """Show each query the most alike of its bank; print how the ways differ, return the rows."""
    from icgeo import features
    from icgeo.baselines import AlikeParts
    from icgeo.evaluation import choose_examples, evaluate

    whole: Any = ask()
    ways: list[Locator] = [whole, AlikeParts()]
    if whole.loaded.matcher:
        ways.append(AlikeParts.of(whole.loaded))
    runs, baselines = choose_examples(
        [(way, episode) for way in ways for episode in episodes],
        "nearest",
        features.open("tiny"),
        shots=16,
    )
    rows = evaluate([*runs, *baselines], folder=folder, shots=(1, 4, 16), baselines=False)
    print_differences(rows, [way.name for way in ways] + ["retrieval"])
    return rows


def print_differences(rows: "DataFrame", ways: "Sequence[str]") -> None:
    """Print how ways differ from the first, paired, on worlds that no training saw."""
    from icgeo.evaluation import compare, comparison_table
    from icgeo.evaluation.episodes import HELD_OUT, UNSEEN, name_groups

    groups = name_groups(rows)
    for group in (HELD_OUT, UNSEEN):
        part = groups[(groups.world == group) & (groups.shots >= 4) & groups.locator.isin(ways)]
        if len(part):
            print(group, comparison_table(compare(part, ways[0])), sep="\n")


def overlaps(episodes: "Sequence[Episode]", *, shots: int = 16) -> dict[str, dict[int, float]]:
    """Return the share of queries of which an example shows a tenth and a fifth, by shots."""
    import torch

    from icgeo.data.orbit import random_views
    from icgeo.seeds import seeded_generator

    blank, most = torch.zeros(3, 4, 8), []
    for episode in episodes:
        if episode.is_earth:
            continue
        # where views lie follows from the names of the episode, whatever the world looks like
        queries, examples = (
            random_views(blank, count, generator=seeded_generator(episode.id, name))
            for count, name in ((len(episode.queries), "queries"), (shots, "examples"))
        )
        most.append(queries.overlap(examples).cummax(1).values)
    if not most:
        return {}
    share = torch.cat(most)
    return {
        f"{least:.0%}": {
            shots: (share[:, shots - 1] > least).double().mean().item() for shots in (1, 4, 8, 16)
        }
        for least in (0.1, 0.2)
    }


def write_evidence(folder: Path, rows: "DataFrame", values: dict[str, Any]) -> str:
    """Write `evidence.json`, and `evidence.md` which is returned: scores, then values as JSON."""
    from icgeo.evaluation import score, score_table

    # JSON has no number that is not finite
    finite = json.loads(json.dumps(values), parse_constant=lambda _: None)
    text = json.dumps(finite, indent=2) + "\n"
    (folder / "evidence.json").write_text(text, encoding="utf-8")
    evidence = f"{score_table(score(rows))}\n\n```json\n{text}```\n"
    (folder / "evidence.md").write_text(evidence, encoding="utf-8")
    return evidence


def learning(rows: "DataFrame") -> dict[str, Any]:
    """Measure how the method improves from 1 to 16 shots on the rows of one group, ready for JSON.

    The median error with 16 shots over that with 1; its difference in km to the nearest example by
    pixels; coverage and median area, as a share of the sphere, of the 90 % regions.
    """
    from icgeo.baselines import NearestPixels
    from icgeo.evaluation import compare, score
    from icgeo.evaluation.scores import methods

    method = methods(rows)
    name = method.locator.iloc[0]
    measure = partial(compare, metrics=("median_km",))
    few = method[method.shots.isin((1, 16))]
    ratio = measure(few, 1, across="shots", by=("locator",), ratio=True).iloc[-1]
    many = rows[rows.locator.isin((name, NearestPixels.name)) & (rows.shots >= 4)]
    above = measure(many, NearestPixels.name).query("locator == @name").set_index("shots")
    scores = score(method, metrics=("covered", "area_share"), intervals=()).set_index("shots")

    def interval(line: "Series[Any]", effect: str) -> dict[str, float]:
        bounds = {"low": line.median_km_low, "high": line.median_km_high}
        return {"estimate": line[f"median_km_{effect}"], **bounds}

    return {
        "episodes": rows.episode.nunique(),
        "queries": int(method[method.nll.notna()].shots.eq(1).sum()),
        "median_16_over_1_shot": interval(ratio, "ratio"),
        "km_above_nearest_by_pixels": {
            shots: interval(line, "difference") for shots, line in above.iterrows()
        },
        "coverage_90": scores.covered.to_dict(),
        "area_90": scores.area_share.to_dict(),
    }


def codec_and_heatmap_km(model: Any, *, count: int = 256) -> float | None:
    """Compute the median error of maps drawn, coded and read: what no training can go below.

    None for a model whose codec cannot be tried alone.
    """
    import torch

    from icgeo import maps
    from icgeo.metrics import median_error
    from icgeo.sphere import distance_km, sample_uniform, to_lat_lon

    if not hasattr(model, "codec_round_trip"):
        return None
    places = to_lat_lon(sample_uniform(count, generator=torch.Generator().manual_seed(0)))
    readings = maps.read(model.codec_round_trip(places).float(), model.settings.style)
    answers = torch.stack([reading.density.best_point() for reading in readings])
    return median_error(distance_km(places, answers))


if __name__ == "__main__":
    config.run(main, Options)
