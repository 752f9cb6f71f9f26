"""Von Mises-Fisher mixtures as the output of a network, by their likelihood.

The baselines of Plonk (Dufour et al. 2025, section 4.1): one component, or three.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Generator, Tensor, nn
from torch.nn.functional import normalize

from icgeo.baselines.head import HEAD_NSIDE, Loss, Places, TrainingSettings, Vectors, floored, trunk
from icgeo.sphere import to_lat_lon, von_mises_fisher_log_prob
from icgeo.sphere.density import Density

MOST_LOG_KAPPA = 9.0
"""A sigma of 0.6 degrees, below the side of a cell."""


@dataclass(frozen=True, kw_only=True)
class MixtureSettings(TrainingSettings):
    """Settings of the mixture."""

    components: int = 1
    """Of the mixture: 1 and 3 in Plonk."""


class VmfMixture(nn.Module):
    """Weights, mean directions and concentrations of vMF distributions, regressed from features."""

    def __init__(self, features: Vectors, xyz: Places, settings: MixtureSettings) -> None:
        super().__init__()
        self.trunk = trunk(features.shape[-1], settings.width, 5 * settings.components)

    def mixture(self, features: Vectors) -> tuple[Tensor, Tensor, Tensor]:
        """Return log-weights [photos, n], means [photos, n, 3] and kappas [photos, n]."""
        out = rearrange(self.trunk(features), "photos (n five) -> photos n five", five=5)
        log_kappa = MOST_LOG_KAPPA - nn.functional.softplus(MOST_LOG_KAPPA - 1 - out[..., 4])
        return out[..., 0].log_softmax(-1), normalize(out[..., 1:4], dim=-1), log_kappa.exp()

    def loss(self, features: Vectors, xyz: Places, generator: Generator) -> Loss:
        """Return the mean negative log-likelihood in nats per steradian."""
        weight, mean, kappa = self.mixture(features)
        parts = weight + von_mises_fisher_log_prob(xyz[:, None], mean, kappa)
        return -torch.logsumexp(parts, dim=-1).mean()

    def densities(self, features: Vectors) -> list[Density]:
        """Return the mixture of each photo, on the floor of all heads."""
        weight, mean, kappa = (part.double() for part in self.mixture(features))
        lat_lon = to_lat_lon(mean)
        parts = zip(lat_lon, kappa, weight.exp(), strict=True)
        return [floored(Density.from_mixture(*part, nside=HEAD_NSIDE).mass) for part in parts]
