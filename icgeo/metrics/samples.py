"""Do samples look like the data? Precision, recall, density and coverage on the sphere."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree

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

    Raises:
        ValueError: fewer points than `nearest` + 1 in either set, or not locations.
    """
    a = KDTree(to_xyz(as_locations(real, "real location")).numpy())
    b = KDTree(to_xyz(as_locations(generated, "generated location")).numpy())
    if not 1 <= nearest < min(a.n, b.n):
        raise ValueError(
            f"expected nearest from 1 to below the number of points, got {nearest} "
            f"with {a.n} real and {b.n} generated"
        )
    # points of the other set in the ball of each, boundary excluded; neighbour number 0 is itself
    in_real, in_generated = (
        other_tree.query_ball_point(
            tree.data, (1 - 1e-12) * tree.query(tree.data, nearest + 1)[0][:, -1]
        )
        for tree, other_tree in ((a, b), (b, a))
    )
    around = np.bincount(np.concatenate([*in_real]).astype(int), minlength=b.n)
    return SampleQuality(
        precision=float((around > 0).mean()),
        recall=len(set().union(*in_generated)) / a.n,
        density=float(around.mean() / nearest),
        coverage=float(np.mean([len(ball) > 0 for ball in in_real])),
    )
