"""Examples that give a query away: taken within some km of it, or nearly the same picture.

Conventions: the queries are held, as a place and a hash each; examples are streamed past them, so
that a bank of any size is checked in the same memory.
"""

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt64
from scipy.spatial import cKDTree

from icgeo.config import UsageError
from icgeo.data.photos import Photo, PhotoError, read_photo
from icgeo.sphere import EARTH_RADIUS_KM, distance_km, to_xyz

WITHIN_KM = 1.0
"""The test photos of OSV-5M are that far from all others (Astruc et al. 2024, section 3)."""
MAX_BITS = 10
"""Of 64; on views of the Earth those shifted by 2 % differed in up to 8, other ones in 18 or more.
"""
CHUNK = 1024
_PAIRS = 1 << 18
"""Hashes compared at once: 2 MB of them, which stay in the cache."""

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


@dataclass(frozen=True, eq=False)
class _Known:
    """Places and hashes of some photos, and which of them are known."""

    ids: list[str]
    lat_lon: Float[np.ndarray, "photos 2"]
    """NaN where unknown."""
    hashes: UInt64[np.ndarray, " photos"]
    is_hashed: Bool[np.ndarray, " photos"]


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
        chunks = [self._known(items, start) for start, items in _chunks(queries)]
        self._queries = _Known(
            [id for chunk in chunks for id in chunk.ids],
            np.concatenate([np.empty((0, 2)), *(chunk.lat_lon for chunk in chunks)]),
            np.concatenate([np.empty(0, np.uint64), *(chunk.hashes for chunk in chunks)]),
            np.concatenate([np.empty(0, bool), *(chunk.is_hashed for chunk in chunks)]),
        )
        self._placed = np.flatnonzero(np.isfinite(self._queries.lat_lon).all(1))
        self._tree = cKDTree(_xyz(self._queries.lat_lon[self._placed]))

    def leaks(self, examples: Iterable[Placed]) -> Iterator[Leak]:
        """Give each pair of an example and a query that it gives away."""
        for start, items in _chunks(examples):
            known = self._known(items, start)
            for example, query, distance, bits in self._pairs(known):
                yield Leak(known.ids[example], self._queries.ids[query], distance, bits)

    def kept(self, examples: Iterable[Item]) -> Iterator[Item]:
        """Give the examples that give no query away."""
        for start, items in _chunks(examples):
            leaking = {example for example, *_ in self._pairs(self._known(items, start))}
            yield from (item for number, item in enumerate(items) if number not in leaking)

    def _known(self, items: Sequence[Placed], start: int) -> _Known:
        hashes = [None if self.max_bits is None else _hash(item.image) for item in items]
        places = [(item.lat, item.lon) for item in items]
        return _Known(
            [str(getattr(item, "id", start + number)) for number, item in enumerate(items)],
            np.array(places, dtype=float).reshape(-1, 2),  # None becomes NaN
            np.array([hash or 0 for hash in hashes], dtype=np.uint64),
            np.array([hash is not None for hash in hashes], dtype=bool),
        )

    def _pairs(self, known: _Known) -> list[tuple[int, int, float | None, int | None]]:
        """Give number of example, number of query, distance and bits."""
        pairs = np.unique(np.concatenate([self._near(known), self._alike(known)]), axis=0)
        example, query = pairs[:, 0], pairs[:, 1]
        a, b = known.lat_lon[example], self._queries.lat_lon[query]
        is_placed = np.isfinite(a).all(1) & np.isfinite(b).all(1)
        distances = distance_km(
            np.where(is_placed[:, None], a, 0), np.where(is_placed[:, None], b, 0)
        )
        bits = np.bitwise_count(known.hashes[example] ^ self._queries.hashes[query])
        is_hashed = known.is_hashed[example] & self._queries.is_hashed[query]
        return [
            (i, j, distance if placed else None, bit if hashed else None)
            for i, j, distance, placed, bit, hashed in zip(
                example.tolist(), query.tolist(), distances.tolist(), is_placed.tolist(),
                bits.tolist(), is_hashed.tolist(), strict=True,
            )
        ]  # fmt: skip

    def _near(self, known: _Known) -> Int[np.ndarray, "pairs 2"]:
        placed = np.flatnonzero(np.isfinite(known.lat_lon).all(1))
        if self.within_km is None or not placed.size or not self._placed.size:
            return np.empty((0, 2), int)
        half = min(self.within_km / EARTH_RADIUS_KM / 2, math.pi / 2)
        # a little more than the chord, which rounds
        near = self._tree.query_ball_point(_xyz(known.lat_lon[placed]), 2 * math.sin(half) + 1e-12)
        pairs = [(i, j) for i, js in zip(placed, near, strict=True) for j in self._placed[js]]
        return np.array(pairs, dtype=int).reshape(-1, 2)

    def _alike(self, known: _Known) -> Int[np.ndarray, "pairs 2"]:
        hashed = np.flatnonzero(known.is_hashed)
        if self.max_bits is None or not hashed.size:
            return np.empty((0, 2), int)
        found = [np.empty((0, 2), int)]
        size = max(_PAIRS // hashed.size, 1)
        for start in range(0, len(self._queries.hashes), size):
            part = slice(start, start + size)
            differ = known.hashes[hashed, None] ^ self._queries.hashes[part]
            is_alike = np.bitwise_count(differ) <= self.max_bits
            if not is_alike.any():  # as a rule, and much quicker to see
                continue
            i, j = np.nonzero(is_alike & self._queries.is_hashed[part])
            found.append(np.stack([hashed[i], j + start], axis=1))
        return np.concatenate(found)


def _chunks(items: Iterable[Item]) -> Iterator[tuple[int, list[Item]]]:
    """Take some items at a time, with the number of the first."""
    rest, start = iter(items), 0
    while chunk := list(islice(rest, CHUNK)):
        yield start, chunk
        start += len(chunk)


def _xyz(lat_lon: Float[np.ndarray, "photos 2"]) -> Float[np.ndarray, "photos 3"]:
    return to_xyz(torch.from_numpy(lat_lon)).numpy()


def _hash(photo: Photo) -> int | None:
    """Hash what a photo shows, None if it cannot be read."""
    try:
        import imagehash
    except ImportError as error:
        raise UsageError(
            "finding near duplicates needs imagehash: pip install 'icgeo[data]', or max_bits=None"
        ) from error
    try:
        bits: Any = imagehash.phash(read_photo(photo, size_hint=64)).hash
    except PhotoError as error:
        logger.warning("%s; compared its place alone", error)
        return None
    return int.from_bytes(np.packbits(bits).tobytes(), "big")
