"""Photos whose places are known, to adapt a model to and to judge it by.

Conventions: a pool holds photos at the size that the model takes; it is divided once, by a seed,
into training (examples, and targets of training), validation (early stop and tempering) and test.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int, UInt8
from torch import Generator, Tensor

from icgeo.config import UsageError
from icgeo.data.manifest import ManifestError, read_manifest
from icgeo.data.orbit import ViewOptions, random_views
from icgeo.data.photos import PhotoError
from icgeo.data.pixels import square_pixels

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PhotoSet:
    """Photos and where they were taken, in degrees."""

    photos: UInt8[Tensor, "photos 3 size size"]
    lat_lon: Float[Tensor, "photos 2"]

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, chosen: slice | Int[Tensor, " chosen"]) -> "PhotoSet":
        """Choose photos, in any order."""
        return PhotoSet(self.photos[chosen], self.lat_lon[chosen])


@dataclass(frozen=True)
class Splits:
    """A pool divided in three."""

    training: PhotoSet
    validation: PhotoSet
    test: PhotoSet

    def require(self, shots: int) -> None:
        """Refuse what is too small for so many shots.

        Raises:
            UsageError: fewer training pairs than shots and a target, or nothing to judge by.
        """
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


def divide(
    pool: PhotoSet, *, validation: float = 0.15, test: float = 0.25, generator: Generator
) -> Splits:
    """Divide a pool at random, by shares."""
    order = torch.randperm(len(pool), generator=generator)
    first, second = round(validation * len(pool)), round((validation + test) * len(pool))
    return Splits(pool[order[second:]], pool[order[:first]], pool[order[first:second]])


def view_set(
    world: Float[Tensor, "3 height width"], count: int, *, size: int, generator: Generator
) -> PhotoSet:
    """Take views of a world at random places."""
    views = random_views(world, count, generator=generator, options=ViewOptions(size=size))
    return PhotoSet(views.images, views.lat_lon)


def photo_set(
    manifest: str | Path, *, size: int, allow_outside: bool = False
) -> tuple[PhotoSet, list[str]]:
    """Read a user's photos.

    Returns:
        the photos that can be read, and a line on each of the others.

    Raises:
        UsageError: a manifest that cannot be used, or of which no photo can be read.
    """
    try:
        records = read_manifest(manifest, allow_outside=allow_outside, require_location=True)
    except ManifestError as error:
        raise UsageError("; ".join(str(error).splitlines())) from error
    photos: list[Tensor] = []
    places: list[tuple[float, float]] = []
    skipped: list[str] = []
    for record in records:
        try:
            pixels = square_pixels([record.path], size)
        except PhotoError as error:
            logger.warning("%s; skipped it", error)
            skipped.append(f"{record.id}: {error}")
            continue
        if record.lat is not None and record.lon is not None:
            photos.append(pixels)
            places.append((record.lat, record.lon))
    if not photos:
        raise UsageError(f"{manifest}: expected photos that can be read, got none; {skipped[0]}")
    return PhotoSet(torch.cat(photos), torch.tensor(places, dtype=torch.float64)), skipped


def photo_splits(
    manifest: str | Path,
    *,
    size: int,
    seed: int,
    skipped: Path | None = None,
    allow_outside: bool = False,
) -> Splits:
    """Read and divide a user's photos; those that cannot be read are listed in a file.

    Raises:
        UsageError: a manifest that cannot be used, or of which no photo can be read.
    """
    pool, lines = photo_set(manifest, size=size, allow_outside=allow_outside)
    if skipped and lines:
        skipped.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return divide(pool, generator=torch.Generator().manual_seed(seed))
