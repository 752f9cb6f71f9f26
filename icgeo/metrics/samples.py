"""Do samples look like the data? Precision, recall, density and coverage on the sphere."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from icgeo.metrics import as_locations
from icgeo.sphere import Values, to_xyz


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
    """Fraction of the real points whose ball holds a sample (Naeem et al. 2020)."""


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
    # the nearest neighbour of a point, number 0, is itself
    reach, generated_reach = (
        [np.partition(_chords(point, xyz), nearest)[nearest] for point in xyz] for xyz in (a, b)
    )
    around = np.zeros(len(b))
    covered, recalled = [], []
    for point, radius in zip(a, reach, strict=True):
        chords = _chords(point, b)
        around += chords < radius
        covered.append((chords < radius).any())
        recalled.append((chords < generated_reach).any())
    return SampleQuality(
        precision=float((around > 0).mean()),
        recall=float(np.mean(recalled)),
        density=float(around.mean() / nearest),
        coverage=float(np.mean(covered)),
    )


def _chords(point: Float[np.ndarray, "3"], xyz: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n"]:
    return np.linalg.norm(xyz - point, axis=1)
