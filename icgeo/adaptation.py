"""A model before and after it was adapted: same queries, same examples, same metrics.

Conventions: both are tempered on the same validation photos, which neither was trained on; examples
come from the photos that it was trained on, queries are new. Intervals resample whole episodes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from pandas import DataFrame, concat
from torch import Generator, Tensor

from icgeo import plots
from icgeo.config import UsageError
from icgeo.data.orbit import open_world, views_to_examples
from icgeo.data.worlds import FAMILIES, procedural_world
from icgeo.evaluation import Episode, Query, compare, comparison_table, evaluate, world_episode
from icgeo.evaluation.episodes import EARTH, HELD_OUT, group_episodes
from icgeo.geolocator import Geolocator
from icgeo.maps import draw
from icgeo.models import MapModel
from icgeo.options import UNKNOWN
from icgeo.prediction import Example
from icgeo.sphere import distance_km
from icgeo.training.photo_sets import PhotoSet, Splits, view_set
from icgeo.training.validation import judge, validation_episodes

ZERO, LORA, ALONE = "zero-shot", "LoRA", "LoRA, no examples"
OLD_EPISODES, OLD_QUERIES, OLD_SHOTS = 8, 12, 16
_WORLD_SEED = 5_000_000
"""Far from the seeds of the worlds that tiny was trained, calibrated and judged on."""


@dataclass(frozen=True)
class Trial:
    """What a model is compared on."""

    division: Splits
    prompt: str
    shots: Sequence[int] = (0, 1, 4, 8, 16)
    each: int = 16
    """Queries of an episode, which share their examples."""
    world: str = "new domain"
    seed: int = 0

    def episodes(self, queries: PhotoSet, *, seed: int) -> list[tuple[PhotoSet, PhotoSet]]:
        """Divide queries into episodes, each with examples drawn from the training photos."""
        most = max(self.shots)
        bank = self.division.training
        return list(
            validation_episodes(bank, queries, shots=most, queries_each=self.each, seed=seed)
        )

    @property
    def tests(self) -> list[Episode]:
        """Episodes of the test photos."""
        divided = self.episodes(self.division.test, seed=self.seed + 2)
        return [
            _episode(f"{self.world}/{number}", self.world, *pools)
            for number, pools in enumerate(divided)
        ]

    @property
    def nearest_km(self) -> float:
        """Median distance of a query to the nearest training photo, in km."""
        places = self.division.training.lat_lon
        nearest = [distance_km(place, places).min() for place in self.division.test.lat_lon]
        return torch.stack(nearest).median().item()


def _episode(name: str, world: str, bank: PhotoSet, queries: PhotoSet) -> Episode:
    return Episode(
        name,
        world,
        [Example(photo, *place) for photo, place in views_to_examples(bank.photos, bank.lat_lon)],
        [
            Query(f"{name}/{i}", *view)
            for i, view in enumerate(views_to_examples(queries.photos, queries.lat_lon))
        ],
    )


def planet(world: str, *, seed: int) -> Float[Tensor, "3 height width"]:
    """Give one fixed world: of a family of procedural ones, or a picture's.

    Raises:
        UsageError: an unknown world, or a picture that does not show a whole planet.
    """
    if world in FAMILIES:
        return procedural_world(world, generator=_WORLD_SEED + seed)
    try:
        return open_world(world)
    except ValueError as error:
        raise UsageError(str(error)) from error


def planet_views(world: str, counts: tuple[int, int, int], *, size: int, seed: int) -> Splits:
    """Take views of one world for training, validation and test, each at places of its own."""
    picture = planet(world, seed=seed)
    pools = [
        view_set(picture, count, size=size, generator=Generator().manual_seed(1000 * seed + part))
        for part, count in enumerate(counts, start=1)
    ]
    return Splits(*pools)


def tempered(model: Any, trial: Trial) -> MapModel:
    """Give a model the powers that fit the validation photos, for each number of shots."""
    settings = model.settings
    episodes = trial.episodes(trial.division.validation, seed=trial.seed + 1)
    found = judge(
        model,
        episodes,
        shots=trial.shots,
        prompt=trial.prompt,
        steps=settings.steps,
        samples=settings.samples,
    )
    powers = {str(shots): one.power for shots, one in found.items()}
    calibration = {**settings.calibration, trial.prompt: powers}
    adjusted: MapModel = replace(model, settings=replace(settings, calibration=calibration))
    return adjusted


def compare_adapted(
    load: Callable[[Path | None], MapModel],
    adapter: Path,
    trial: Trial,
    folder: Path,
    *,
    with_old: bool = True,
    batch_size: int = 64,
) -> str:
    """Locate with the model before and after; write `comparison.md`, rows and a figure.

    Args:
        load: loads the model, with an adapter or without; one is in memory at a time.
        adapter: folder of the LoRA.
        trial: what it is compared on.
        folder: where to; what is there is not located again.
        with_old: judge both on what tiny was trained and judged on, too.
        batch_size: queries at a time.

    Returns:
        the report.
    """
    episodes, drawn = trial.tests, {}
    before = forgetting_episodes() if with_old else {}
    old: list[DataFrame] = []
    for name, chosen in ((ZERO, None), (LORA, adapter)):
        model = load(chosen)
        old = [
            _locate_old(model, name, asked, shots, folder / "old" / f"{shots}-shots")
            for shots, asked in before.items()
        ]
        locator = Geolocator(
            tempered(model, trial), prompt=trial.prompt, name=name, batch_size=batch_size
        )
        runs = [(locator, episode) for episode in episodes]
        rows = evaluate(
            runs, folder=folder, shots=trial.shots, batch_size=batch_size, baselines=False
        )
        drawn[name] = _drawn(locator, episodes[0])
        style = model.settings.style
        del model, locator, runs
    first = episodes[0].queries[: len(drawn[ZERO])]
    truth = draw([query.lat_lon or (0.0, 0.0) for query in first], style)
    figure = plots.plot_maps([query.photo for query in first], {"truth": truth, **drawn})
    figure.savefig(folder / "maps.png", dpi=150)
    text = report(rows, concat(old) if old else rows[:0], trial)
    title = "# Zero-shot against LoRA\n\n"
    (folder / "comparison.md").write_text(title + text, encoding="utf-8")
    return text


def _drawn(locator: Geolocator, episode: Episode, *, shown: int = 4) -> Tensor:
    """EpisodeSample the maps of the first queries of an episode with all its examples."""
    photos = [query.photo for query in episode.queries[:shown]]
    maps = [one.map for one in locator.locate(photos, episode.examples)]
    return torch.stack([one for one in maps if one is not None])


def forgetting_episodes() -> dict[int, list[Episode]]:
    """Take what tiny was trained for, the Earth from memory, and judged on; by number of shots."""
    earth = [
        world_episode(EARTH, number, queries=OLD_QUERIES, shots=0) for number in range(OLD_EPISODES)
    ]
    return {0: earth, OLD_SHOTS: group_episodes(HELD_OUT, OLD_EPISODES, queries=OLD_QUERIES)}


def _locate_old(
    model: MapModel, name: str, episodes: Sequence[Episode], shots: int, folder: Path
) -> DataFrame:
    """Locate with the model's own calibration."""
    runs = [(Geolocator(model, prompt=one.prompt, name=name), one) for one in episodes]
    return evaluate(runs, folder=folder, shots=(shots,), baselines=False)


def without_examples(rows: DataFrame) -> DataFrame:
    """Set the adapted model's answers without examples beside those with each number of shots."""
    alone = rows[(rows.locator == LORA) & (rows.shots == 0)].assign(locator=ALONE)
    return concat([alone.assign(shots=count) for count in sorted(rows.shots.unique())])


def report(rows: DataFrame, old: DataFrame, trial: Trial) -> str:
    """Lay out the comparison as Markdown, without a heading."""
    division = trial.division
    lines = [
        f"{len(division.test)} queries of {trial.world} in episodes of {trial.each}, examples out "
        f"of {len(division.training)} training photos, both tempered on "
        f"{len(division.validation)} validation photos. A query is {trial.nearest_km:.0f} km from "
        "the nearest training photo in the median. Differences are to zero-shot on the same "
        "queries and examples, with 95 % intervals by the bootstrap over episodes; NLL in nats "
        "per steradian.",
        "",
        comparison_table(compare(concat([rows, without_examples(rows)]), ZERO)),
    ]
    parts = (("The Earth upright", 0), (f"Unknown worlds ({HELD_OUT}, {UNKNOWN!r})", OLD_SHOTS))
    for title, shots in parts if len(old) else ():
        table = comparison_table(compare(old[old.shots == shots], ZERO))
        lines += ["", f"{title}, before and after, own calibration:", "", table]
    return "\n".join(lines) + "\n"
