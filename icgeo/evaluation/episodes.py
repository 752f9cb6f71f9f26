"""What locators are measured on: views from orbit, clips of them, a user's own photos and videos.

Conventions: an episode is examples of one world and queries of the same; its first k examples are
the k shots, so that more shots only add. Everything follows from names and seeds: worlds, places,
and for each view its own field of view, exposure and haze.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import einsum, rearrange
from jaxtyping import Float, UInt8
from pandas import DataFrame
from torch import Generator, Tensor
from tqdm import tqdm

from icgeo import options
from icgeo.config import UsageError
from icgeo.data import orbit, worlds
from icgeo.data.benchmarks import BENCHMARKS, BenchmarkRecord, OpenBenchmark
from icgeo.data.leakage import LeakageGuard
from icgeo.data.manifest import read_manifest
from icgeo.data.photos import Photo, PhotoError, read_photo
from icgeo.data.video import read_video
from icgeo.prediction import Example
from icgeo.seeds import seeded_generator
from icgeo.sphere import random_rotation

EARTH = "blue-marble"
TURNED_EARTH = "turned-earth"
"""Blue Marble turned at random and with its colours mixed, another way in each episode."""
EARTH_VIEWS = orbit.ViewOptions(field_of_view_deg=(30.0, 60.0), min_land=0.2)
PHOTOS = "photos"
HELD_OUT, UNSEEN, SEEN = "held-out families", "unseen families", "seen families"
WORLD_GROUPS: dict[str, tuple[str, ...]] = {
    HELD_OUT: worlds.HELD_OUT_FAMILIES,
    UNSEEN: worlds.UNSEEN_FAMILIES,
    SEEN: worlds.TRAINING_FAMILIES,
    TURNED_EARTH: (TURNED_EARTH,),
}
"""Held out of training, unseen by development too, or seen; coastlines of the Earth were seen."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Query:
    """A photo to locate, and where it was taken if that is known."""

    id: str
    photo: Photo
    lat_lon: tuple[float, float] | None = None
    source: str | None = None
    """Path of the photo, if it comes from a file."""
    seconds: float | None = None
    """When it was taken, if it is a frame of a clip."""


@dataclass(frozen=True, eq=False)
class Stream:
    """Queries without end, and the examples that they share.

    `queries` may be a generator, whose photos are paths, encoded bytes or pixels; no more than two
    batches of them are held. Every process goes through all of it and locates its share, so a photo
    should be cheap until it is read.
    """

    id: str
    world: str
    examples: Sequence[Example]
    queries: Iterable[Query]

    @property
    def is_earth(self) -> bool:
        """Whether it shows the Earth as it is, north up and in its own colours."""
        return self.world in (EARTH, PHOTOS, *BENCHMARKS)

    @property
    def prompt(self) -> str:
        """What to tell a model that knows the Earth from memory."""
        return options.EARTH if self.is_earth else options.UNKNOWN

    def shots(self, wanted: Sequence[int]) -> list[int]:
        """Return numbers of shots in order, beyond the examples at hand all of them."""
        return sorted({min(shots, len(self.examples)) for shots in wanted})


@dataclass(frozen=True, eq=False)
class Episode(Stream):
    """Queries of one world and the examples that they share."""

    queries: Sequence[Query]
    picture: UInt8[Tensor, "3 height width"] | None = None
    """The whole world, equirectangular, where it is known."""

    def shots(self, wanted: Sequence[int]) -> list[int]:
        """Return numbers of shots as a stream does, but without a known truth the largest only."""
        is_known = any(query.lat_lon is not None for query in self.queries)
        return super().shots(wanted)[0 if is_known else -1 :]


def world_episode(
    world: str,
    number: int = 0,
    *,
    queries: int = 64,
    shots: int = 16,
    seed: int = 0,
    is_clip: bool = False,
) -> Episode:
    """Take views of a world: a family's name, `EARTH`, `TURNED_EARTH`, or a picture's path.

    Another `number` or `seed` gives other views, and of a family and of `TURNED_EARTH` another
    world. Views of `EARTH` have a field of view of 30 to 60 degrees and at least 20 % of land, all
    others 20 to 60 degrees. The queries of a clip are views along an orbit, a minute apart, and of
    `EARTH` over land and sea.

    Raises:
        UsageError: an unknown world, or a picture that does not show a whole planet.
    """
    name = Path(world).stem
    episode = f"{name}-clip-{seed}-{number}" if is_clip else f"{name}-{seed}-{number}"
    picture = world_picture(world, seeded_generator(episode, "world"))
    if is_clip:
        track = orbit.track_views(picture, queries, generator=seeded_generator(episode, "track"))
        views = orbit.views_to_examples(track.images, track.lat_lon)
    else:
        views = world_views(world, picture, queries, seeded_generator(episode, "queries"))
    example_views = world_views(world, picture, shots, seeded_generator(episode, "examples"))
    episode_queries = [
        Query(f"{episode}/{index}", *view, seconds=60.0 * index if is_clip else None)
        for index, view in enumerate(views)
    ]
    examples = [Example(image, *lat_lon) for image, lat_lon in example_views]
    return Episode(
        episode, name, examples, episode_queries, (255 * picture).round().to(torch.uint8)
    )


def group_episodes(
    group: str, episodes: int, *, queries: int, shots: int = 16, seed: int = 0
) -> list[Episode]:
    """Take episodes of a group in `WORLD_GROUPS`, of its families in turn, each a new world."""
    families = WORLD_GROUPS[group]
    take = partial(world_episode, queries=queries, shots=shots, seed=seed)
    numbers = tqdm(range(episodes), desc=f"{group}: worlds", leave=False)
    return [take(families[number % len(families)], number) for number in numbers]


def name_groups(rows: DataFrame) -> DataFrame:
    """Put the group in place of the family as the world of each row."""
    groups = {family: group for group, families in WORLD_GROUPS.items() for family in families}
    return rows.assign(world=rows.world.map(lambda world: groups.get(world, world)))


def world_picture(world: str, generator: Generator) -> Float[Tensor, "3 height width"]:
    """Paint or read a world, named as in `world_episode`."""
    if world in worlds.FAMILIES:
        return worlds.procedural_world(world, generator=generator)
    if world == TURNED_EARTH:
        return turned(orbit.open_world(EARTH), generator=generator)
    if world not in orbit.REAL_WORLDS and not Path(world).is_file():
        raise UsageError(
            f"expected a world of {[*orbit.REAL_WORLDS, TURNED_EARTH]}, a family of "
            f"{[*worlds.FAMILIES]}, or the path of a picture, got {world!r}"
        )
    return orbit.open_world(world)


def turned(
    world: Float[Tensor, "3 height width"], *, generator: Generator
) -> Float[Tensor, "3 height width"]:
    """Turn the sphere of a world at random, and its colours around grey by half of a turn."""
    rotation = random_rotation(generator=generator, dtype=torch.float32)
    xyz = einsum(worlds.pixel_xyz(world.shape[-2]), rotation, "h w i, j i -> h w j")
    squares = rearrange(xyz, "h (v w) i -> 1 v h w i", v=2)
    picture = rearrange(orbit.look_up(world[None], squares), "1 v c h w -> c h (v w)")
    mix = torch.eye(3).lerp(random_rotation(generator=generator, dtype=torch.float32), 0.5)
    return orbit.mix_colours(picture, mix).clamp(0, 1)


def world_views(
    world: str, picture: Float[Tensor, "3 height width"], count: int, generator: Generator
) -> list[tuple[np.ndarray, tuple[float, float]]]:
    """Take views of a world at random places: arrays [size, size, 3], and where in degrees."""
    if not count:
        return []
    over_land: dict[str, Any] = {}
    if world == EARTH:
        over_land = {"options": EARTH_VIEWS, "land": orbit.land_mask(picture.shape[-2])}
    views = orbit.random_views(picture, count, generator=generator, **over_land)
    return orbit.views_to_examples(views.images, views.lat_lon)


def photo_episode(
    queries: str | Path, examples: Sequence[Example] = (), *, allow_outside: bool = False
) -> Episode:
    """Take a user's photos from a manifest or folder; bad rows are skipped, with a warning each.

    Whether a photo can be read is found out when it is located.

    Raises:
        ManifestError: a manifest that cannot be used, or with no good row.
    """
    records = read_manifest(queries, allow_outside=allow_outside, errors="skip")
    photos = [Query(one.id, one.path, one.lat_lon, str(one.path)) for one in records]
    return Episode(PHOTOS, PHOTOS, examples, photos)


def benchmark_queries(benchmark: Iterable[BenchmarkRecord]) -> Iterator[Query]:
    """Make queries of the records of a benchmark, as they are asked for."""
    for record in benchmark:
        source = str(record.image) if isinstance(record.image, str | Path) else None
        yield Query(record.id, record.image, (record.lat, record.lon), source)


def benchmark_episodes(
    benchmark: OpenBenchmark, examples: Sequence[Example] = (), *, chunk: int = 100_000
) -> Iterator[Episode]:
    """Take the photos of a benchmark, `chunk` at a time.

    All of its episodes have one id and the same examples, so that rows do not depend on `chunk`.
    """
    queries = benchmark_queries(benchmark)
    while part := list(islice(queries, chunk)):
        yield Episode(f"{benchmark.name}-{benchmark.split}", benchmark.name, examples, part)


def video_episode(
    video: str | Path, examples: Sequence[Example] = (), *, every_seconds: float = 1.0
) -> Episode:
    """Take frames of a video; one that cannot be read is a `UsageError`."""
    images, times = read_video(video, every_seconds=every_seconds)
    frames = [
        Query(f"{seconds:.2f} s", image, source=str(video), seconds=seconds)
        for image, seconds in zip(images, times, strict=True)
    ]
    return Episode(str(video), PHOTOS, examples, frames)


def read_examples(
    path: str | Path,
    *,
    shots: int = 16,
    seed: int = 0,
    allow_outside: bool = False,
    guard: LeakageGuard | None = None,
) -> list[Example]:
    """Draw a user's examples from a manifest or folder.

    Bad rows, photos that cannot be read, and those that give a query of `guard` away are skipped,
    with a warning each.

    Raises:
        ManifestError: a manifest that cannot be used, or with no good row.
    """
    records = read_manifest(path, allow_outside=allow_outside, require_location=True, errors="skip")
    order = torch.randperm(len(records), generator=torch.Generator().manual_seed(seed))
    examples: list[Example] = []
    for record in (records[i] for i in order.tolist()):
        location = record.lat_lon
        if location is None or len(examples) == shots:
            break
        example = Example(record.path, *location)
        try:
            read_photo(record.path, size_hint=1)
        except PhotoError as error:
            logger.warning("%s; skipped this example", error)
            continue
        leaks = list(guard.leaks([example])) if guard else []
        if leaks:
            logger.warning("%s gives query %s away; skipped it", record.path, leaks[0].query)
        else:
            examples.append(example)
    return examples
