"""Examples that give a query away: taken within some km of it, or nearly the same picture.

Conventions: the queries are held, as a place and a hash each; examples are streamed past them, so
that a bank of any size is checked in the same memory.
"""

import logging
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial import cKDTree

from icgeo.config import UsageError
from icgeo.data.photos import Photo, PhotoError, read_photo
from icgeo.sphere import EARTH_RADIUS_KM, distance_km, to_xyz

WITHIN_KM = 1.0
"""The test photos of OSV-5M are that far from all others (Astruc et al. 2024, section 3)."""
MAX_BITS = 10
"""Of 64; on views of the Earth those shifted by 2 % differed in up to 8, other ones in 18 or more.
"""

logger = logging.getLogger(__name__)


@runtime_checkable
class Placed(Protocol):
    """A photo that may have a place, as `Example` and `BenchmarkRecord`."""

    @property
    def image(self) -> Photo:
        """The photo."""
        ...

    @property
    def lat(self) -> float | None:
        """Latitude in degrees."""
        ...

    @property
    def lon(self) -> float | None:
        """Longitude in degrees."""
        ...


Item = TypeVar("Item", bound=Placed)


@dataclass(frozen=True)
class Leak:
    """An example that is near to a query or nearly the same picture."""

    example: str
    """Its id, or else its number in the stream."""
    query: str
    distance_km: float | None
    """None where a place is unknown."""
    bits: int | None
    """In how many bits of 64 the hashes differ; None where a photo cannot be read."""


@dataclass(frozen=True, slots=True)
class _Traits:
    """What of a photo is compared, None where it is unknown."""

    id: str
    lat_lon: tuple[float, float] | None
    hash: int | None


class LeakageGuard:
    """Finds the examples that give one of its queries away."""

    def __init__(
        self,
        queries: Iterable[Placed],
        *,
        within_km: float | None = WITHIN_KM,
        max_bits: int | None = MAX_BITS,
    ) -> None:
        """Take places and hashes of the queries.

        Args:
            queries: with their `id`, if they have one.
            within_km: great-circle distance up to which an example is too near; None for any.
            max_bits: in how many bits of 64 the perceptual hashes (`imagehash.phash`: signs of the
                64 lowest frequencies of 32 x 32 grey values) of near duplicates differ at most;
                None compares no photos and needs no imagehash.

        Raises:
            UsageError: a limit out of range, or imagehash is not installed.
        """
        if (within_km is not None and not within_km >= 0) or not 0 <= (max_bits or 0) < 64:
            raise UsageError(
                f"expected within_km of 0 or more and max_bits from 0 to 63, or None, got "
                f"{within_km} and {max_bits}"
            )
        self.within_km, self.max_bits = within_km, max_bits
        self._queries = [self._traits(number, query) for number, query in enumerate(queries)]
        places = {n: q.lat_lon for n, q in enumerate(self._queries) if q.lat_lon is not None}
        self._placed, self._tree = np.array([*places]), cKDTree(_xyz([*places.values()]))
        hashes = {n: q.hash for n, q in enumerate(self._queries) if q.hash is not None}
        self._hashed = np.array([*hashes], dtype=int)
        self._hashes = np.array([*hashes.values()], dtype=np.uint64)

    def leaks(self, examples: Iterable[Placed]) -> Iterator[Leak]:
        """Return each pair of an example and a query that it gives away."""
        for number, example in enumerate(examples):
            yield from self._leaks_of(self._traits(number, example))

    def filter(self, examples: Iterable[Item]) -> Iterator[Item]:
        """Return the examples that give no query away."""
        for number, example in enumerate(examples):
            if not any(self._leaks_of(self._traits(number, example))):
                yield example

    def _traits(self, number: int, item: Placed) -> _Traits:
        lat, lon, lat_lon = item.lat, item.lon, None
        if lat is not None and lon is not None and math.isfinite(lat + lon):
            lat_lon = (lat, lon)
        hash = None if self.max_bits is None else _hash(item.image)
        return _Traits(str(getattr(item, "id", number)), lat_lon, hash)

    def _leaks_of(self, example: _Traits) -> Iterator[Leak]:
        near, alike = np.empty(0, int), np.empty(0, int)
        if self.within_km is not None and example.lat_lon is not None and self._placed.size:
            half_angle = min(self.within_km / EARTH_RADIUS_KM / 2, math.pi / 2)
            # a little more than the chord, which rounds
            chord = 2 * math.sin(half_angle) + 1e-12
            near = self._placed[self._tree.query_ball_point(_xyz([example.lat_lon])[0], chord)]
        if self.max_bits is not None and example.hash is not None:
            differences = np.bitwise_count(self._hashes ^ np.uint64(example.hash))
            alike = self._hashed[differences <= self.max_bits]
        for number in np.union1d(near, alike).tolist():
            query = self._queries[number]
            distance = bits = None
            if example.lat_lon is not None and query.lat_lon is not None:
                distance = distance_km(example.lat_lon, query.lat_lon).item()
            if example.hash is not None and query.hash is not None:
                bits = (example.hash ^ query.hash).bit_count()
            yield Leak(example.id, query.id, distance, bits)


def _xyz(lat_lon: list[tuple[float, float]]) -> Float[np.ndarray, "photos 3"]:
    return to_xyz(torch.tensor(lat_lon, dtype=torch.float64).reshape(-1, 2)).numpy()


def _hash(photo: Photo) -> int | None:
    """Hash what a photo shows, None if it cannot be read."""
    try:
        import imagehash
    except ImportError as error:
        raise UsageError(
            "finding near duplicates needs imagehash: pip install 'icgeo[data]', or max_bits=None"
        ) from error
    try:
        return int(str(imagehash.phash(read_photo(photo, size_hint=64))), 16)
    except PhotoError as error:
        logger.warning("%s; compared its place alone", error)
        return None
