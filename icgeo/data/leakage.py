"""Examples that give a query away: taken within some km of it, or nearly the same picture.

The queries are held, as a place and a hash each; examples of any number are streamed past them.
"""

import logging
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial import cKDTree

from icgeo.config import UsageError, require
from icgeo.data.photos import PhotoError, read_photo
from icgeo.sphere import EARTH_RADIUS_KM, distance_km, to_xyz

WITHIN_KM = 1.0
"""The test photos of OSV-5M are that far from all others (Astruc et al. 2024, section 3)."""
MAX_BITS = 10
"""Of 64; on views of the Earth those shifted by 2 % differed in up to 8, other ones in 18 or more.
"""

Item = TypeVar("Item")
"""Anything with `image`, `lat` and `lon`, such as `Example` and `BenchmarkRecord`, or `id` too."""

logger = logging.getLogger(__name__)


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


class LeakageGuard:
    """Finds the examples that give one of its queries away."""

    def __init__(
        self,
        queries: Iterable[Item],
        *,
        within_km: float | None = WITHIN_KM,
        max_bits: int | None = MAX_BITS,
    ) -> None:
        """Take places and hashes of the queries, photos with places that may have an `id`.

        `within_km` is the great-circle distance up to which an example is too near, None for any;
        `max_bits` says in how many bits of 64 the perceptual hashes (`imagehash.phash`) of near
        duplicates differ at most, None compares no photos and needs no imagehash.

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
        self._tree = cKDTree(_xyz([place for _, place, _ in self._queries]))
        hashes = [hash for _, _, hash in self._queries]
        self._has_hash = np.array([hash is not None for hash in hashes], dtype=bool)
        self._hashes = np.array([hash or 0 for hash in hashes], dtype=np.uint64)

    def leaks(self, examples: Iterable[Item]) -> Iterator[Leak]:
        """Return each pair of an example and a query that it gives away."""
        for number, example in enumerate(examples):
            id, place, hash = self._traits(number, example)
            indices = set[int]()
            if self.within_km is not None and place is not None:
                half_angle = min(self.within_km / EARTH_RADIUS_KM / 2, math.pi / 2)
                # a little more than the chord, which rounds
                chord = 2 * math.sin(half_angle) + 1e-12
                indices.update(self._tree.query_ball_point(_xyz([place])[0], chord))
            if self.max_bits is not None and hash is not None:
                is_alike = np.bitwise_count(self._hashes ^ np.uint64(hash)) <= self.max_bits
                indices.update(np.flatnonzero(self._has_hash & is_alike).tolist())
            for index in sorted(indices):
                query, query_place, query_hash = self._queries[index]
                km = distance_km(place, query_place).item() if place and query_place else None
                are_read = None not in (hash, query_hash)
                bits = (hash ^ query_hash).bit_count() if are_read else None
                yield Leak(id, query, km, bits)

    def filter(self, examples: Iterable[Item]) -> Iterator[Item]:
        """Return the examples that give no query away."""
        return (example for example in examples if not any(self.leaks([example])))

    def _traits(self, number: int, item: Any) -> tuple[str, Any, Any]:
        """Return what is compared: id, place and hash, None where these are unknown."""
        is_placed = None not in (item.lat, item.lon) and math.isfinite(item.lat + item.lon)
        place, hash = (item.lat, item.lon) if is_placed else None, None
        if self.max_bits is not None:
            purpose = "finding near duplicates (all but max_bits=None)"
            imagehash = require("imagehash", purpose, "data")
            try:
                hash = int(str(imagehash.phash(read_photo(item.image, size_hint=64))), 16)
            except PhotoError as error:
                logger.warning("%s; compared its place alone", error)
        return str(getattr(item, "id", number)), place, hash


def _xyz(places: list[tuple[float, float] | None]) -> Float[np.ndarray, "photos 3"]:
    """Return unit vectors, of unknown places a vector that is far from all of these."""
    lat_lon = torch.tensor([place or (0, 0) for place in places], dtype=torch.float64)
    xyz = to_xyz(lat_lon.reshape(-1, 2)).numpy()
    xyz[[place is None for place in places]] = 9
    return xyz
