"""Photos whose locations are known, to adapt a model to and to validate it on.

Conventions: a set holds photos at the size that the model takes; it is split once, by a seed, into
training (examples, and targets of training), validation (early stop and temperatures) and test.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int, UInt8
from torch import Generator, Tensor

from icgeo.config import UsageError
from icgeo.data.manifest import ManifestError, read_manifest
from icgeo.data.orbit import ViewOptions, open_world, random_views
from icgeo.data.photos import PhotoError
from icgeo.data.pixels import square_pixels
from icgeo.data.worlds import FAMILIES, procedural_world

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
    parts = (
        view_set(picture, count, size=size, generator=Generator().manual_seed(1000 * seed + part))
        for part, count in enumerate(counts, start=1)
    )
    return Splits(*parts)


def photo_splits(
    manifest: str | Path, *, size: int, seed: int, skipped: Path, allow_outside: bool = False
) -> Splits:
    """Read a user's photos and split them at random; list those that cannot be read in a file.

    Raise UsageError for a manifest that cannot be used, or of which no photo can be read.
    """
    try:
        records = read_manifest(manifest, allow_outside=allow_outside, require_location=True)
    except ManifestError as error:
        raise UsageError("; ".join(str(error).splitlines())) from error
    images: list[Tensor] = []
    lat_lon: list[tuple[float | None, float | None]] = []
    unreadable: list[str] = []
    for record in records:
        try:
            images.append(square_pixels([record.path], size))
        except PhotoError as error:
            logger.warning("%s; skipped it", error)
            unreadable.append(f"{record.id}: {error}")
        else:
            lat_lon.append((record.lat, record.lon))
    if not images:
        raise UsageError(f"{manifest}: expected photos that can be read, got none; {unreadable[0]}")
    if unreadable:
        skipped.write_text("\n".join(unreadable) + "\n", encoding="utf-8")
    photos = PhotoSet(torch.cat(images), torch.tensor(lat_lon, dtype=torch.float64))
    order = torch.randperm(len(photos), generator=Generator().manual_seed(seed))
    first = round(VALIDATION_SHARE * len(photos))
    second = round((VALIDATION_SHARE + TEST_SHARE) * len(photos))
    return Splits(photos[order[second:]], photos[order[:first]], photos[order[first:second]])
