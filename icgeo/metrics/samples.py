"""Do samples look like the data? Precision, recall, density and coverage on the sphere."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.spatial.distance import cdist

from icgeo.metrics import as_locations
from icgeo.sphere import Values, to_xyz

_PAIRS_AT_ONCE = 2**22  # 32 MiB a matrix


@dataclass(frozen=True)
class SampleQuality:
    """Fidelity and diversity of samples, 1 if they are as the data (density may exceed it)."""

    precision: float
    """Fraction of the samples inside the ball of a real point (Kynkäänniemi et al. 2019)."""
    recall: float
    """Fraction of the real points inside the ball of a sample."""
    density: float
    """Mean number of real balls around a sample, over `nearest` (Naeem et al. 2020)."""
    coverage: float
    """Fraction of the real points whose ball holds a sample."""


def sample_quality(real: Values, generated: Values, *, nearest: int = 5) -> SampleQuality:
    """Compute precision, recall, density and coverage (PRDC) of locations [rows, 2] in degrees.

    The ball of a point reaches, boundary excluded, to its neighbour number `nearest` in the same
    set. Only the order of distances counts, so that chord and great circle give the same numbers.
    Time grows with the product of the numbers of points, memory only with their sum.

    Raises:
        ValueError: fewer points than `nearest` + 1 in either set, or not locations.
    """
    a = to_xyz(as_locations(real, "real location")).numpy()
    b = to_xyz(as_locations(generated, "generated location")).numpy()
    if not 1 <= nearest < min(len(a), len(b)):
        raise ValueError(
            f"expected nearest from 1 to below the number of points, got {nearest} "
            f"with {len(a)} real and {len(b)} generated"
        )
    reach, generated_reach = (
        np.concatenate([np.partition(part, nearest)[:, nearest] for _, part in _chords(xyz, xyz)])
        for xyz in (a, b)
    )
    around = np.zeros(len(b))
    recalled, covered = np.zeros((2, len(a)), dtype=bool)
    for rows, chords in _chords(a, b):
        inside = chords < reach[rows, None]
        around += inside.sum(0)
        covered[rows], recalled[rows] = inside.any(1), (chords < generated_reach).any(1)
    return SampleQuality(
        precision=float((around > 0).mean()),
        recall=float(recalled.mean()),
        density=float(around.mean() / nearest),
        coverage=float(covered.mean()),
    )


def _chords(
    a: Float[np.ndarray, "a 3"], b: Float[np.ndarray, "b 3"]
) -> Iterator[tuple[slice, Float[np.ndarray, "part b"]]]:
    """Distances of all pairs, a part of the rows at a time; a point's neighbour 0 is itself."""
    at_once = max(1, _PAIRS_AT_ONCE // len(b))
    for start in range(0, len(a), at_once):
        rows = slice(start, start + at_once)
        yield rows, cdist(a[rows], b)
