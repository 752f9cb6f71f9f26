"""Photos whose locations are known, to adapt a model to and to validate it on.

Conventions: a set holds photos at the size that the model takes; it is split once, by a seed, into
training (examples, and targets of training), validation (early stop and temperatures) and test.
"""

import importlib.util
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from torch import Generator, Tensor

from icgeo.config import UsageError
from icgeo.data.leakage import MAX_BITS, LeakageGuard
from icgeo.data.manifest import ManifestError, Record, read_manifest
from icgeo.data.orbit import ViewOptions, open_world, random_views
from icgeo.data.photos import PhotoError
from icgeo.data.pixels import square_pixels
from icgeo.data.worlds import FAMILIES, procedural_world
from icgeo.prediction import Example

logger = logging.getLogger(__name__)

VALIDATION_SHARE, TEST_SHARE = 0.15, 0.25
_WORLD_SEED = 5_000_000
"""Far from the seeds of the worlds that tiny was trained, calibrated and tested on."""


@dataclass(frozen=True)
class PhotoSet:
    """Photos and where they were taken, in degrees."""

    photos: UInt8[Tensor, "photos 3 size size"]
    lat_lon: Float[Tensor, "photos 2"]

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, numbers: slice | Int[Tensor, " numbers"]) -> "PhotoSet":
        """Return some of the photos, in any order."""
        return PhotoSet(self.photos[numbers], self.lat_lon[numbers])


@dataclass(frozen=True)
class Splits:
    """Photos split in three."""

    training: PhotoSet
    validation: PhotoSet
    test: PhotoSet

    def __str__(self) -> str:
        """Say how many photos each part has."""
        return (
            f"{len(self.training)} photos to train on, {len(self.validation)} for validation, "
            f"{len(self.test)} to compare on"
        )

    def require(self, shots: int) -> None:
        """Raise UsageError for too few training pairs for so many shots, or none to validate on."""
        if len(self.training) < shots + 1:
            raise UsageError(
                f"expected at least {shots + 1} pairs to train on for {shots} shots, got "
                f"{len(self.training)}; add photos, or show fewer"
            )
        if not (len(self.validation) and len(self.test)):
            raise UsageError(
                "expected photos for validation and for the comparison too, got "
                f"{len(self.validation)} and {len(self.test)}; add photos"
            )


def view_set(
    world: Float[Tensor, "3 height width"], count: int, *, size: int, generator: Generator
) -> PhotoSet:
    """Take views of a world at random places."""
    views = random_views(world, count, generator=generator, options=ViewOptions(size=size))
    return PhotoSet(views.images, views.lat_lon)


def view_splits(world: str, counts: tuple[int, int, int], *, size: int, seed: int) -> Splits:
    """Take views of one planet for training, validation and test, each at places of its own.

    `world` is a family of procedural worlds, of which the seed takes one, or a picture of a planet;
    `size` is the side of the views in pixels. Raise UsageError for what is no whole world.
    """
    try:
        if world in FAMILIES:
            picture = procedural_world(world, generator=_WORLD_SEED + seed)
        else:
            picture = open_world(world)
    except PhotoError as error:
        raise UsageError(str(error)) from error
    generators = [Generator().manual_seed(1000 * seed + part) for part in (1, 2, 3)]
    parts = (
        view_set(picture, count, size=size, generator=generator)
        for count, generator in zip(counts, generators, strict=True)
    )
    return Splits(*parts)


def read_records(manifest: str | Path, *, allow_outside: bool = False) -> list[Record]:
    """Read which photos a user has; raise UsageError for a manifest that cannot be used."""
    try:
        return read_manifest(manifest, allow_outside=allow_outside, require_location=True)
    except ManifestError as error:
        raise UsageError("; ".join(str(error).splitlines())) from error


def photo_splits(
    manifest: str | Path, *, size: int, seed: int, skipped: Path, allow_outside: bool = False
) -> Splits:
    """Read a user's photos and split them at random; list those that cannot be read in a file.

    Photos of one place or burst (`bursts`) stay together.

    Raise UsageError for a manifest that cannot be used, or of which no photo can be read.
    """
    images: list[Tensor] = []
    lat_lon: list[tuple[float | None, float | None]] = []
    errors: list[str] = []
    for record in read_records(manifest, allow_outside=allow_outside):
        try:
            images.append(square_pixels([record.path], size))
        except PhotoError as error:
            logger.warning("%s; skipped it", error)
            errors.append(f"{record.id}: {error}")
        else:
            lat_lon.append((record.lat, record.lon))
    if not images:
        raise UsageError(f"{manifest}: expected photos that can be read, got none; {errors[0]}")
    if errors:
        skipped.write_text("\n".join(errors) + "\n", encoding="utf-8")
    photos = PhotoSet(torch.cat(images), torch.tensor(lat_lon, dtype=torch.float64))
    return _split(photos, bursts(photos), Generator().manual_seed(seed))


def _split(photos: PhotoSet, burst: Int[Tensor, " photos"], generator: Generator) -> Splits:
    """Put bursts into validation and test at random as long as they have room; train on others."""
    first = round(VALIDATION_SHARE * len(photos))
    room = [first, round((VALIDATION_SHARE + TEST_SHARE) * len(photos)) - first, len(photos)]
    parts: list[list[int]] = [[], [], []]
    for number in torch.randperm(int(burst.max()) + 1, generator=generator):
        members = torch.nonzero(burst == number).flatten().tolist()
        part = next(i for i in range(3) if len(parts[i]) + len(members) <= room[i])
        parts[part] += members
    validation, test, training = (photos[torch.tensor(part, dtype=torch.int64)] for part in parts)
    return Splits(training, validation, test)


def bursts(photos: PhotoSet) -> Int[Tensor, " photos"]:
    """Number the bursts: photos of a place (within a km), or nearly the same pictures.

    They hang together from one to the next. Pictures are compared if imagehash is installed.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pixels = rearrange(photos.photos, "n c h w -> n h w c").numpy()
    places = zip(pixels, photos.lat_lon.tolist(), strict=True)
    items = [Example(image, *place) for image, place in places]
    has_hash = importlib.util.find_spec("imagehash") is not None
    guard = LeakageGuard(items, max_bits=MAX_BITS if has_hash else None)
    pairs = [(int(leak.example), int(leak.query)) for leak in guard.leaks(items)]
    rows, columns = np.array(pairs).T
    links = coo_array((np.ones(len(pairs)), (rows, columns)), shape=2 * (len(items),))
    return torch.from_numpy(connected_components(links, directed=False)[1]).long()
