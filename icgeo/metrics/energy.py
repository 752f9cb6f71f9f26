"""The energy score, which is the CRPS on the sphere: distance to the truth less half the spread.

`E d(X, y) - E d(X, X') / 2` in km, with X and X' drawn from the prediction, y the truth and d the
great-circle distance on a sphere of 6371 km (Gneiting and Raftery 2007, section 4.3, with the
kernel d as in section 5.1; negative there, here smaller is better). For a point it is the error.
d is of negative type (Gangolli 1967), so the score is proper. Not strictly: it equals pi R times
the mean, over hemispheres, of (probability - whether the truth is inside)^2, and masses that are
symmetric about the centre fill all hemispheres alike.
"""

import math

import numpy as np
import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

from icgeo.sphere import EARTH_RADIUS_KM, Values, as_lat_lon, to_xyz
from icgeo.sphere.density import Density
from icgeo.sphere.healpix import mean_vectors

_COARSE_NSIDE = 4
_NOTHING = 1e-30
"""Far below any mass that counts, far above numbers too small to be exact."""
_PAIRS_AT_ONCE = 2**15  # a matrix stays in the cache: twice as fast as large ones


def energy_score(
    density: Density, lat_lon: Values, *, resolution: float | None = 1 / 128
) -> Float[Tensor, "*batch"]:
    """Energy score in km of a density for each truth, cells taken as uniform.

    Distances are summed over patches of cells, split until they hold less than `resolution` of the
    mass: within 1 % of all cells at 1 / 128. None takes all cells, in time quadratic in them.

    Raises:
        ValueError: a resolution outside (0, 1), a truth that is not a location.
    """
    if resolution is not None and not 0 < resolution < 1:
        raise ValueError(f"expected a resolution in (0, 1), or None for all, got {resolution:g}")
    truth = to_xyz(as_lat_lon(lat_lon).double())
    mass, middle = _patches(
        density.mass.numpy(), mean_vectors(density.nside).numpy(), resolution or 0
    )
    far = _mean_distance(rearrange(truth, "... side -> (...) side").numpy(), middle, mass)
    spread = _mean_distance(middle, middle, mass) @ mass
    score = EARTH_RADIUS_KM * (far - spread / 2)
    return torch.from_numpy(score).reshape(truth.shape[:-1])


def _patches(
    mass: Float[np.ndarray, "cells"], vector: Float[np.ndarray, "cells 3"], most: float
) -> tuple[Float[np.ndarray, "patches"], Float[np.ndarray, "patches 3"]]:
    """Masses and mean vectors of patches that cover the sphere, split while above `most`.

    Patches are cells of some nside, each the four of the next, so that no part is heavier than
    its whole.
    """
    patch = np.arange(12 * min(math.isqrt(len(mass) // 12), _COARSE_NSIDE) ** 2)
    parts = len(mass) // len(patch)
    patches = []
    while parts:
        cells = rearrange(mass, "(patch cell) -> patch cell", cell=parts)[patch]
        sides = rearrange(vector, "(patch cell) side -> patch cell side", cell=parts)[patch]
        total = cells.sum(1)
        whole = (total > _NOTHING) & ((total <= most) | (parts == 1))
        moment = einsum(cells[whole], sides[whole], "patch cell, patch cell side -> patch side")
        patches.append(np.column_stack((total[whole], moment / total[whole, None])))
        patch = (4 * patch[total > max(most, _NOTHING)][:, None] + np.arange(4)).ravel()
        parts //= 4
    table = np.concatenate(patches)
    return table[:, 0], table[:, 1:]


def _mean_distance(
    a: Float[np.ndarray, "a 3"], b: Float[np.ndarray, "b 3"], weight: Float[np.ndarray, "b"]
) -> Float[np.ndarray, "a"]:
    """Mean angle from each patch of mean vector a to the patches b."""
    at_once = max(1, _PAIRS_AT_ONCE // len(b))
    starts = range(0, len(a), at_once)
    return np.concatenate([np.empty(0), *(_angles(a[i : i + at_once], b) @ weight for i in starts)])


def _angles(a: Float[np.ndarray, "a 3"], b: Float[np.ndarray, "b 3"]) -> Float[np.ndarray, "a b"]:
    """Mean angle between the points of two patches, from their mean vectors alone.

    The mean square chord D^2 = 2 - 2 a . b is exact; the share u of it that the extents make, not
    the distance of the centres, brings the root down to the mean. The polynomial is that of a
    Rice distribution (patches like normal distributions) to 0.5 %. At least one of the patches
    must have an extent, so that a . b is within (-1, 1).
    """
    dot = a @ b.T
    extent = (1 - np.square(a).sum(1))[:, None] + (1 - np.square(b).sum(1))
    share = extent / np.maximum(2 - 2 * dot, extent)
    mean_over_root = 1 - share * (1 / 4 - (math.sqrt(math.pi) / 2 - 3 / 4) * share)
    return np.arccos(dot) * mean_over_root
