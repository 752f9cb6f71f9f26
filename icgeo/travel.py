"""Densities of frames in order, smoothed: a traveller of limited speed was at each of them.

A hidden Markov model over HEALPix cells with a uniform prior. Conventions: `reach` is the farthest
way between two frames in radians; frames without evidence stay uniform, wherever they stand.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from einops import reduce, repeat
from jaxtyping import Float
from scipy.sparse import coo_array, diags_array, eye_array
from scipy.spatial import KDTree
from torch import Tensor

from icgeo.sphere import EARTH_RADIUS_KM, angle
from icgeo.sphere.density import Density
from icgeo.sphere.healpix import cell_side, cell_xyz

CELLS_WITHIN_REACH = 3
"""Sides of a cell within the reach, at least, where the grid allows; twice as many at most."""
FRAMES_ALIKE = 8
"""Frames of the sequences on which correlations are fitted."""
_TINY = 1e-290
"""Share of the largest likelihood below which numbers are no longer told apart."""

Message = Float[Tensor, " cells"]
"""Logarithm of a likelihood, up to a constant."""


def smooth(
    densities: Sequence[Density],
    seconds: Sequence[float],
    *,
    speed_kmh: float,
    temperature: float = 1.0,
) -> list[Density]:
    """Compute where each frame of a sequence was taken, given all of its frames.

    Forward-backward smoothing (Rabiner 1989, eqs. 19-20, 24-25 and 27) with likelihoods
    `density ** (1 / temperature)`. Between two frames the traveller goes to any place within reach,
    or stays. Speed 0 means one place; at infinity each frame stays as it is, tempered (above 1 for
    frames that are wrong together). `seconds` count from any moment.

    Raises:
        ValueError: no density, other numbers of times, times out of order, a speed below 0, several
            nside, or densities that contradict each other.
    """
    reaches = _reaches(seconds, len(densities), speed_kmh)
    if len(nsides := {density.nside for density in densities}) > 1:
        raise ValueError(
            f"expected densities of one nside, got {' and '.join(map(str, sorted(nsides)))}; build "
            "all with the same"
        )
    evidence = [density.mass.log() / temperature for density in densities]
    forward_messages = _messages(evidence, reaches)
    backward_messages = _messages(evidence[::-1], reaches[::-1])[::-1]
    return [
        Density.from_log_mass(torch.stack(messages).sum(0))
        for messages in zip(forward_messages, evidence, backward_messages, strict=True)
    ]


def frame_temperature(correlation: float, frames: int) -> float:
    """Return a temperature for frames of correlated errors: together they count as fewer.

    The design effect, `1 + (frames - 1) correlation` (Kish 1965, section 5.4). Frames beyond
    `FRAMES_ALIKE` are far from the first and not taken for alike.
    """
    return 1 + (min(frames, FRAMES_ALIKE) - 1) * correlation


def mixture(densities: Sequence[Density], shares: Sequence[float] | None = None) -> Density:
    """Average densities, evenly or by their shares: where a random moment of a sequence was."""
    if len(densities) == 1:
        return densities[0]
    weights = torch.tensor(shares or [1 / len(densities)] * len(densities), dtype=torch.float64)
    return Density(weights @ torch.stack([density.mass for density in densities]))


def _reaches(seconds: Sequence[float], count: int, speed_kmh: float) -> list[float]:
    """Return how far the next frame may be, in radians; infinite without a limit."""
    if not count or len(seconds) != count:
        raise ValueError(f"expected a time for each of some frames, got {len(seconds)} for {count}")
    if not speed_kmh >= 0:
        raise ValueError(f"expected a speed_kmh of at least 0, got {speed_kmh}")
    gaps = [end - start for start, end in pairwise(seconds)]
    if not all(0 <= gap < math.inf for gap in gaps):
        raise ValueError("expected frames in the order of their seconds, got a step back")
    if speed_kmh == math.inf:
        return [math.inf] * len(gaps)
    return [gap / 3600 * speed_kmh / EARTH_RADIUS_KM for gap in gaps]


def _messages(evidence: Sequence[Message], reaches: Sequence[float]) -> list[Message]:
    """Return what the frames before each say of it; the chain is reversible: for both ways."""
    messages = [torch.zeros_like(evidence[0])]
    for likelihood, reach in zip(evidence, reaches, strict=False):
        messages.append(_spread(messages[-1] + likelihood, reach))
    return messages


def _spread(message: Message, reach: float) -> Message:
    """Average a likelihood over the places within reach, if that is as much as a cell."""
    if reach == 0:
        return message
    if reach >= math.pi:
        return torch.zeros_like(message)
    finest_nside = math.isqrt(len(message) // 12)
    nside = min(finest_nside, 2 ** math.ceil(math.log2(CELLS_WITHIN_REACH * cell_side(1) / reach)))
    sides, maximum = reach / cell_side(nside), message.max()
    cells = 12 * nside**2
    coarse = reduce(torch.exp(message - maximum), "(cell part) -> cell", "mean", cell=cells)
    matrix = _transition(nside, max(1.0, round(sides, 1)))
    result = torch.from_numpy(matrix @ coarse.numpy()).clamp_min(_TINY).log() + maximum
    result = repeat(result, "cell -> (cell part)", part=len(message) // cells)
    if sides >= 1:
        return result
    # a place is known no better than by its cell, which is left in proportion to the reach
    return torch.logaddexp(math.log1p(-sides) + message, math.log(sides) + result)


@lru_cache(maxsize=8)
def _transition(nside: int, sides: float) -> Any:
    """Return sparse chances [from, to] between cells for a reach of so many sides; cached."""
    # chances that places drawn from two cells are within reach; each has a variance of area / 12
    spread, reach, xyz = cell_side(nside) / math.sqrt(6), sides * cell_side(nside), cell_xyz(nside)
    farthest = 2 * math.sin(min(reach + 4 * spread, math.pi) / 2)
    pairs = KDTree(xyz.numpy()).query_pairs(farthest, output_type="ndarray")
    rows, columns = torch.from_numpy(pairs).unbind(-1)
    chance = torch.special.ndtr((reach - angle(xyz[rows], xyz[columns])) / spread)
    half = coo_array((chance.numpy(), (rows.int().numpy(), columns.int().numpy())), 2 * (len(xyz),))
    kernel = (half + half.T + eye_array(len(xyz))).tocsr()
    # Rows and columns are scaled alike until the joint chances of two frames sum to the prior
    # (Knight, Ruiz and Ucar 2014, in the 1-norm): else a long sequence without evidence would drift
    # to cells that have many neighbours.
    mass = 1 / len(xyz)
    scale = np.full(len(xyz), mass**0.5)
    for _ in range(20):
        scale = (scale * mass / (kernel @ scale)) ** 0.5
    return diags_array(scale / mass) @ kernel @ diags_array(scale)
