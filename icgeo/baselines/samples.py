"""Places that a generative head draws, as a density and as a point."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from icgeo.sphere import angle, to_lat_lon, von_mises_fisher_log_prob
from icgeo.sphere.density import Density

KAPPAS = tuple(10 ** (1 + step / 3) for step in range(9))
"""Concentrations of kernels that are tried: sigma from 18 to 0.8 degrees."""


def density_of_samples(xyz: Float[Tensor, "samples 3"], *, nside: int) -> Density:
    """Spread samples by von Mises-Fisher kernels, with one uniform sample more among them.

    The concentration is the one of `KAPPAS` under which each sample is likeliest, given the others
    (Hall, Watson and Cabrera 1987, section 4).
    """
    count = len(xyz)
    xyz = xyz.double()
    others = ~torch.eye(count, dtype=torch.bool)
    scores = []
    for kappa in KAPPAS:
        pairs = von_mises_fisher_log_prob(xyz[:, None], xyz[None], kappa)
        likelihood = (pairs.exp() * others).sum(-1) + 1 / (4 * math.pi)
        scores.append(likelihood.log().sum())
    kappa = KAPPAS[int(torch.stack(scores).argmax())]
    mass = Density.from_mixture(to_lat_lon(xyz), kappa, nside=nside).mass
    return Density(count * mass + 1 / len(mass))


def medoid(xyz: Float[Tensor, "photos samples 3"]) -> Float[Tensor, "photos 3"]:
    """Choose the sample of each photo that is nearest to its others in the mean."""
    distance = angle(xyz[:, :, None], xyz[:, None])
    best = distance.sum(-1).argmin(-1)
    return xyz[torch.arange(len(xyz)), best]
