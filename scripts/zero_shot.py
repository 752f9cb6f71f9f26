"""Locate views from orbit, your photos or a video, from a few examples and without training."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from icgeo import config
from icgeo.options import Choice, LoadOptions, LocateOptions, fields_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pandas import DataFrame

    from icgeo.evaluation import Episode, Shard
    from icgeo.features import Features
    from icgeo.geolocator import Geolocator
    from icgeo.prediction import Locator


@dataclass(frozen=True, kw_only=True)
class Options(LocateOptions, LoadOptions):
    """Locate fresh views of Blue Marble and of two worlds never seen, or your own photos."""

    queries: Path | None = None
    """Your photos (CSV, Parquet or a folder), instead of views of worlds."""
    benchmark: str | None = None
    """A published benchmark instead, such as osv5m or im2gps3k."""
    root: Path | None = None
    """The folder that `benchmark` was unpacked to."""
    split: str | None = None
    """Split of `benchmark`; by default its first."""
    leakage_km: float | None = None
    """Leave out examples within so many km of a query of `benchmark`, and its near duplicates."""
    examples: Path | None = None
    """Photos whose locations are known, in the forms of `queries`, to show with other photos."""
    video: Path | None = None
    """A video instead: where each frame was taken, given all of them, and the whole."""
    speed_kmh: float | None = None
    """Speed limit of the camera of `video` in km/h, with room; inf for none."""
    every_seconds: float = 1.0
    """Time between the frames taken from `video`, in seconds."""
    world: str | None = None
    """Beside Blue Marble, or alone with a map: a family of procedural worlds, or a picture of a
    planet; by default one world of each family that the model in the box has never seen, or the map
    itself."""
    count: int = 48
    """Views of each world to locate."""
    shots: tuple[int, ...] = (0, 1, 4, 16)  # type: ignore[assignment]
    """Numbers of examples; where no truth is known, the largest only."""
    select: Choice | None = None
    """How examples are chosen for each photo, out of `bank`; by default your own photos all see the
    same, and views of worlds the nearest, beside the same random ones for all."""
    bank: int = 256
    """Examples to choose from; of your own, at most so many."""
    seed: int = 0
    """Seed of worlds, views and noise."""
    allow_outside: bool = False
    """Accept photos outside the folder of their manifest."""
    name: str = "zero-shot"
    """Run folder under runs/; a run that was stopped goes on."""


def is_own(options: Options) -> bool:
    """Return whether the photos are no views of worlds."""
    return any((options.queries, options.video, options.benchmark))


def is_shared(options: Options) -> bool:
    """Return whether all photos see the same examples, and these alone."""
    return is_own(options) and not (options.select or options.map)


def gather(options: Options) -> "list[Episode]":
    """Gather examples and queries: the user's, or of some worlds."""
    from icgeo import data, evaluation
    from icgeo.data.leakage import LeakageGuard
    from icgeo.data.worlds import HELD_OUT_FAMILIES
    from icgeo.evaluation.episodes import EARTH

    shots = max(options.shots) if is_shared(options) else options.bank
    read = partial(
        evaluation.read_examples,
        shots=shots,
        seed=options.seed,
        allow_outside=options.allow_outside,
    )
    if options.benchmark:
        benchmark = data.open(options.benchmark, options.root, split=options.split)
        within_km = options.leakage_km
        guard = None if within_km is None else LeakageGuard(benchmark, within_km=within_km)
        examples = read(options.examples, guard=guard) if options.examples else []
        return list(evaluation.benchmark_episodes(benchmark, examples))
    if options.video and (options.speed_kmh is None or options.select):
        raise config.UsageError(
            "expected --speed_kmh with --video, the speed limit of its camera, and no --select"
        )
    if options.video:
        examples = read(options.examples) if options.examples else []
        every = options.every_seconds
        return [evaluation.video_episode(options.video, examples, every_seconds=every)]
    if options.queries:
        examples = read(options.examples) if options.examples else []
        allow_outside = options.allow_outside
        return [evaluation.photo_episode(options.queries, examples, allow_outside=allow_outside)]
    worlds = [EARTH, options.world] if options.world else [EARTH, *HELD_OUT_FAMILIES]
    if options.map:
        worlds = [options.world or options.map]
    take = partial(evaluation.world_episode, queries=options.count, shots=shots, seed=options.seed)
    return [take(world) for world in dict.fromkeys(worlds)]


def open_features(options: Options, locator: "Geolocator") -> "Features | None":
    """Open what examples are chosen by, if they are chosen by their looks."""
    from icgeo import features
    from icgeo.selection import BY_FEATURES

    if locator.zooms:
        if options.select or options.features:
            raise config.UsageError(
                "expected --zoom=false with --select and --features, which choose views of a map"
            )
        return None

    by_looks = options.select in BY_FEATURES or not (options.select or is_shared(options))
    if options.features and not by_looks:
        raise config.UsageError(f"expected --select of {sorted(BY_FEATURES)} with --features")
    if not by_looks:
        return None
    return features.open(
        options.features or features.suited(locator.loaded.settings), device=options.device
    )


def locate(
    options: Options,
    runs: "Sequence[tuple[Geolocator, Episode]]",
    folder: Path,
    shard: "Shard",
    features: "Features | None",
) -> "DataFrame":
    """Locate all queries; the main process draws figures and keeps cases for the report."""
    from icgeo import evaluation, report
    from icgeo.baselines import AlikeParts, Retrieval

    model, most = runs[0][0].loaded, max(options.shots)
    methods: list[tuple[Locator, Episode]] = [*runs]
    if not is_own(options):  # world by world, for both look at the same places of examples
        parts = AlikeParts()
        methods = [(way, episode) for run, episode in runs for way in (run, parts)]
    evaluate = partial(
        evaluation.evaluate, folder=folder, batch_size=options.batch_size, shard=shard
    )
    zooms = runs[0][0].zooms
    if is_shared(options) or zooms:
        rows = evaluate(runs, shots=options.shots)
    elif options.select is None and features and not options.map:
        retrieval = [(Retrieval(features), episode) for _, episode in runs]
        evaluate([(way, at_random(one, most)) for way, one in methods + retrieval], shots=(most,))
    if not (is_shared(options) or zooms):
        select = options.select or "nearest"
        methods, baselines = evaluation.choose_examples(methods, select, features, shots=most)
        rows = evaluate([*methods, *baselines], shots=options.shots, baselines=False)
    if shard.is_main:
        own_runs = [(way, episode) for way, episode in methods if way.name == runs[0][0].name]
        report.save_figures(folder, rows, own_runs, model.settings.style)
    return rows


def with_map(episode: "Episode", options: Options, locator: "Geolocator") -> "Episode":
    """Return an episode for a map: its views stand behind the user's own, where none is zoomed on.

    Views of a world that were taken as examples go.
    """
    if options.map is None:
        return episode
    examples = episode.examples if is_own(options) else []
    if locator.zooms or options.video:  # the locator cuts them for a video
        return replace(episode, examples=examples)
    views = replace(locator, map=options.map).map_views
    return replace(episode, examples=[*examples, *views.examples()] if views else examples)


def at_random(episode: "Episode", shots: int) -> "Episode":
    """Return an episode whose queries all see the same examples, drawn without looking."""
    return replace(
        episode,
        id=f"{episode.id}-random",
        world=f"{episode.world}, random",
        examples=episode.examples[:shots],
    )


def check(options: Options, locator: "Geolocator", episodes: "Sequence[Episode]") -> None:
    """Refuse, before any work, what the memory does not hold, or what a map cannot be asked."""
    select = options.select or ("random" if is_shared(options) else "nearest")
    choosing = replace(locator, map=None, heading="any", shots=max(options.shots), select=select)
    locator.require_memory(max(choosing.shown_at_once(len(one.examples)) for one in episodes))
    if locator.zooms:
        locator.prepare(episodes[0].examples or None)


def main(options: Options) -> None:
    """Locate, print the table, write the run folder; `accelerate launch` divides the queries."""
    from icgeo import evaluation
    from icgeo.geolocator import Geolocator
    from icgeo.models import load

    shard = evaluation.Shard.here()
    model = load(**fields_of(LoadOptions, options))
    locate_options = {**fields_of(LocateOptions, options), "shots": None, "select": "nearest"}
    locator = Geolocator(model, device=options.device, **locate_options)
    if not (locator.zooms or options.video):
        locator = replace(locator, map=None, shots=None)
    episodes = [with_map(episode, options, locator) for episode in gather(options)]
    features = open_features(options, locator)
    check(options, locator, episodes)
    folder = Path("runs") / options.name
    if shard.is_main:
        config.save_run(folder, options, may_differ=("device",))
    shard.wait()
    prompt = options.prompt
    runs = [
        (locator if locator.zooms else replace(locator, prompt=prompt or episode.prompt), episode)
        for episode in episodes
    ]
    if options.video and options.speed_kmh is not None:
        if shard.count > 1:
            raise config.UsageError(
                f"expected one process for --video, got {shard.count}; run it without a launcher"
            )
        rows = evaluation.evaluate_sequences(
            runs, folder=folder, speed_kmh=options.speed_kmh, frames_alone=False
        )
    else:
        rows = locate(options, runs, folder, shard, features)
    if shard.is_main:
        show(rows, folder, model.departures(max(options.shots)))


def show(rows: "DataFrame", folder: Path, departures: "Sequence[str]") -> None:
    """Print what was found, and how the weights were used otherwise than trained."""
    from icgeo import evaluation

    print(evaluation.format_results(rows), f"\nwritten to {folder}", sep="\n")
    for departure in departures:
        print(f"not as the weights were trained: {departure}")


if __name__ == "__main__":
    config.run(main, Options)
