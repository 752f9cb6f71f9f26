"""Plonk: places are drawn by flow matching on the sphere (Dufour et al. 2025, arXiv 2412.06781).

Time: t = 1 is noise, t = 0 is data, as elsewhere here. The network is told the share of noise
kappa(t) and gives the velocity with respect to it. Likelihoods take the divergence in the tangent
plane, so that they are densities on the sphere; those of the paper take it in R^3.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from diffusers.models.embeddings import get_timestep_embedding
from einops import repeat
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.func import vjp
from torch.nn.functional import gelu, layer_norm, normalize

from icgeo.baselines.head import Loss, Places, TrainingSettings, Vectors
from icgeo.baselines.samples import density_of_flow, density_of_samples, medoid
from icgeo.sampling import Velocity, euler, guided, time_grid
from icgeo.sphere import exp_map, log_map, north_east, sample_uniform, to_lat_lon
from icgeo.sphere.density import Density

Points = Float[Tensor, "*batch 3"]
Times = Float[Tensor, " times"]
Field = Callable[[Points, float], Points]
"""Velocity at a point of the sphere, tangent to it, and a time."""
Interpolant = tuple[Float[Tensor, "photos 3"], Float[Tensor, "photos 3"]]
"""Where a place is that is part noise, and what the network should say of it."""


def geodesic(xyz: Places, noise: Places, share: Tensor) -> Interpolant:
    """Go from the place along the great circle to the noise; the velocity there."""
    tangent = log_map(xyz, noise)
    length = tangent.norm(dim=-1, keepdim=True)
    velocity = torch.cos(share * length) * tangent - torch.sin(share * length) * length * xyz
    return exp_map(xyz, share * tangent), velocity


def straight(xyz: Places, noise: Places, share: Tensor) -> Interpolant:
    """Go straight through R^3 to the noise, and say the velocity: flow matching."""
    return (1 - share) * xyz + share * noise, noise - xyz


def preserving(xyz: Places, noise: Places, share: Tensor) -> Interpolant:
    """Mix place and noise in R^3, the variance kept, and say the noise: diffusion."""
    return (1 - share).sqrt() * xyz + share.sqrt() * noise, noise


INTERPOLANTS = {"sphere": geodesic, "flow": straight, "diffusion": preserving}


def noise_share(
    t: Float[Tensor, "*batch"], ends: tuple[float, float]
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """Return the share of noise at a time, 0 to 1 along a sigmoid, and its slope."""
    low, high = ends
    start, stop = (1 / (1 + math.exp(-end)) for end in ends)
    value = torch.sigmoid(low + (high - low) * t)
    return (value - start) / (stop - start), (high - low) * value * (1 - value) / (stop - start)


def follow(field: Field, xyz: Points, times: Times) -> Points:
    """Follow a field on the sphere by Runge and Kutta's steps of order 4."""
    return _integrate(field, xyz, times, lambda x, t: torch.zeros_like(x[..., 0]))[0]


def follow_volume(
    field: Field, xyz: Points, times: Times
) -> tuple[Points, Float[Tensor, "*batch"]]:
    """Follow a field, and integrate its divergence: the logarithm of how areas grow on the way.

    A density becomes that much smaller (Mathieu and Nickel 2020).
    """
    return _integrate(field, xyz, times, lambda x, t: divergence(field, x, t))


def divergence(field: Field, xyz: Points, t: float) -> Float[Tensor, "*batch"]:
    """Trace of the derivative of a tangent field over the tangent plane, exactly."""
    backwards = vjp(lambda point: field(point, t), xyz)[1]
    return torch.stack([(backwards(e)[0] * e).sum(-1) for e in north_east(xyz)]).sum(0)


def _integrate(
    field: Field, xyz: Tensor, times: Tensor, rate: Callable[[Tensor, float], Tensor]
) -> tuple[Tensor, Tensor]:
    total = torch.zeros_like(xyz[..., 0])
    for t, next_t in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        step, slopes, rates = next_t - t, [torch.zeros_like(xyz)], []
        for part in (0.0, 0.5, 0.5, 1.0):
            point = normalize(xyz + part * step * slopes[-1], dim=-1)
            slopes.append(field(point, t + part * step))
            rates.append(rate(point, t + part * step))
        one, two, three, four = slopes[1:]
        xyz = normalize(xyz + step / 6 * (one + 2 * two + 2 * three + four), dim=-1)
        total = total + step / 6 * (rates[0] + 2 * rates[1] + 2 * rates[2] + rates[3])
    return xyz, total


class ConditionedMLP(nn.Module):
    """Residual blocks, whose layer norms are scaled, shifted and gated by photo and time."""

    def __init__(
        self, channels: int, *, width: int = 512, depth: int = 12, expansion: int = 4
    ) -> None:
        super().__init__()
        self.width = width
        self.place = nn.Linear(3, width)
        self.photo = nn.Linear(channels, width)
        self.time = nn.Sequential(nn.Linear(width // 4, width), nn.SiLU(), nn.Linear(width, width))
        self.modulate = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(depth))
        self.enter = nn.ModuleList(nn.Linear(width, expansion * width) for _ in range(depth))
        self.leave = nn.ModuleList(nn.Linear(expansion * width, width) for _ in range(depth))
        self.last = nn.Linear(width, 2 * width)
        self.velocity = nn.Linear(width, 3)
        for layer in self.leave:
            nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(
        self,
        xyz: Float[Tensor, "photos points 3"],
        share: Float[Tensor, " photos"],
        features: Vectors,
    ) -> Float[Tensor, "photos points 3"]:
        """Return the velocity, or the noise, at points of each photo."""
        time = self.time(get_timestep_embedding(1000 * share, self.width // 4).to(xyz))
        condition = self.photo(layer_norm(features, features.shape[-1:])) + time
        condition = torch.nn.functional.silu(condition)[:, None]
        hidden = self.place(xyz)
        for modulate, enter, leave in zip(self.modulate, self.enter, self.leave, strict=True):
            scale, shift, gate = modulate(condition).chunk(3, dim=-1)
            inner = (1 + scale) * layer_norm(hidden, hidden.shape[-1:]) + shift
            hidden = hidden + gate * leave(gelu(enter(inner)))
        scale, shift = self.last(condition).chunk(2, dim=-1)
        return self.velocity((1 + scale) * layer_norm(hidden, hidden.shape[-1:]) + shift)


@dataclass(frozen=True, kw_only=True)
class SphereFlowSettings(TrainingSettings):
    """Settings of the flow; `configs/baselines/plonk.yaml` has the published ones."""

    way: Literal["sphere", "flow", "diffusion"] = "sphere"
    """Riemannian flow matching, or flow matching or diffusion in R^3."""
    width: int = 128
    """Of the network; 512 in the paper."""
    depth: int = 4
    """Residual blocks; 12 in the paper."""
    expansion: int = 2
    """Of a block's hidden layer; 4 in the published code."""
    draws: int = 8
    """Times and noises of each photo in a step of training; 1 in the paper, of many more steps."""
    drop: float = 0.1
    """Share of photos that the network is not told."""
    schedule: tuple[float, float] = (-7.0, 3.0)
    """Ends of the sigmoid along which noise grows."""
    guidance: float = 2.0
    """Of points; likelihoods have none."""
    evaluations: int = 64
    """Of the network, at most, to follow the flow; guided points take twice as many."""
    nside: int = 32
    """Of the density: cells of 1.8 degrees."""
    seed: int = 0
    """Of the noise that samples start from."""


class SphereFlow(nn.Module):
    """Plonk's three ways: Riemannian flow matching on the sphere, flow and diffusion in R^3.

    Its point is the medoid of guided samples (the paper takes one sample).
    """

    def __init__(self, features: Vectors, xyz: Places, settings: SphereFlowSettings) -> None:
        super().__init__()
        if settings.way not in INTERPOLANTS:
            raise ValueError(f"expected a way of {sorted(INTERPOLANTS)}, got {settings.way!r}")
        self.settings, self.way = settings, settings.way
        self.network = ConditionedMLP(
            features.shape[-1],
            width=settings.width,
            depth=settings.depth,
            expansion=settings.expansion,
        )

    def loss(self, features: Vectors, xyz: Places, generator: Generator) -> Loss:
        """Return the mean square error of the velocity, or of the noise, at random times."""
        repeat_rows = partial(repeat, pattern="n c -> (n draws) c", draws=self.settings.draws)
        features, xyz = repeat_rows(features), repeat_rows(xyz)
        count = len(xyz)
        drop_noise, t = torch.rand(2, count, 1, generator=generator).to(xyz)
        noise = torch.randn(count, 3, generator=generator).to(xyz)
        if self.way == "sphere":
            noise = normalize(noise, dim=-1)
        share = noise_share(t, self.settings.schedule)[0]
        state, target = INTERPOLANTS[self.way](xyz, noise, share)
        features = features * (drop_noise >= self.settings.drop)
        output = self._said(state[:, None], share[:, 0], features)[:, 0]
        return (output - target).square().mean()

    def _said(self, state: Tensor, share: Tensor, features: Tensor) -> Tensor:
        output = self.network(state, share, features)
        if self.way != "sphere":
            return output
        return output - (output * state).sum(-1, keepdim=True) * state

    def field(self, features: Vectors, guidance: float = 0.0) -> Velocity:
        """Return the velocity in t (of diffusion, the noise) of points [photos, points, 3]."""

        def velocity(state: Tensor, t: float, *, condition: Tensor) -> Tensor:
            t_of_each = torch.full((len(state),), t).to(state)
            share, slope = noise_share(t_of_each, self.settings.schedule)
            output = self._said(state, share, condition)
            return output if self.way == "diffusion" else slope[:, None, None] * output

        unconditional = partial(velocity, condition=torch.zeros_like(features))
        return guided(partial(velocity, condition=features), unconditional, 1 + guidance)

    @torch.no_grad()
    def samples(
        self, features: Vectors, count: int, *, guidance: float = 0.0
    ) -> Float[Tensor, "photos count 3"]:
        """Draw places of each photo; the noise is the same for all photos."""
        generator = Generator().manual_seed(self.settings.seed)
        if self.way == "sphere":
            noise = sample_uniform(count, generator=generator).to(features)
        else:
            noise = torch.randn(count, 3, generator=generator).to(features)
        noise = repeat(noise, "count side -> photos count side", photos=len(features))
        field = self.field(features, guidance)
        if self.way == "sphere":
            return follow(field, noise, time_grid(self.settings.evaluations // 4))
        times = time_grid(self.settings.evaluations)
        end = euler(field, noise, times) if self.way == "flow" else self._denoise(field, noise)
        return normalize(end, dim=-1)

    def _denoise(self, field: Velocity, state: Tensor) -> Tensor:
        """Denoise without new noise (DDIM; Song et al. 2021, eq. 12), means kept in the ball."""
        times = time_grid(self.settings.evaluations)
        shares = noise_share(times, self.settings.schedule)[0].clamp(max=1 - 1e-4).tolist()
        mean = state
        for t, share, next_share in zip(times[:-1].tolist(), shares, shares[1:], strict=False):
            mean = (state - math.sqrt(share) * field(state, t)) / math.sqrt(1 - share)
            mean = mean / mean.norm(dim=-1, keepdim=True).clamp_min(1)
            noise = (state - math.sqrt(1 - share) * mean) / math.sqrt(share)
            state = math.sqrt(1 - next_share) * mean + math.sqrt(next_share) * noise
        return mean

    def points(self, features: Vectors) -> Float[Tensor, "photos 2"]:
        """Return the medoid of 16 guided samples of each photo, in degrees."""
        samples = self.samples(features, 16, guidance=self.settings.guidance)
        return to_lat_lon(medoid(samples.double()))

    @torch.no_grad()
    def log_prob(
        self, features: Vectors, xyz: Float[Tensor, "photos points 3"]
    ) -> Float[Tensor, "photos points"]:
        """Return exact log-densities in nats per steradian; of the way "sphere" alone."""
        if self.way != "sphere":
            raise ValueError(f"expected the way 'sphere' for a likelihood there, got {self.way!r}")
        times = time_grid(self.settings.evaluations // 4).flip(0)
        return follow_volume(self.field(features), xyz, times)[1] - math.log(4 * math.pi)

    @torch.no_grad()
    def densities(self, features: Vectors) -> list[Density]:
        """Return the density of each photo: of the flow on the sphere exactly, else of samples."""
        if self.way != "sphere":
            samples = self.samples(features, 256).cpu()
            return [density_of_samples(xyz, nside=self.settings.nside) for xyz in samples]
        return [self._exact(one) for one in features]

    def _exact(self, features: Float[Tensor, " channels"]) -> Density:
        field = self.field(features[None])
        times = time_grid(self.settings.evaluations // 4).flip(0)

        def to_noise(xyz: Tensor) -> Tensor:
            return follow(field, xyz.to(features)[None], times)[0]

        samples = self.samples(features[None], 64)[0].double().cpu()
        return density_of_flow(to_noise, samples, self.settings.nside)

    def localizability(self, features: Vectors) -> Float[Tensor, "photos"]:
        """Return how well each photo can be located: minus the entropy in nats."""
        return torch.tensor([-density.entropy() for density in self.densities(features)])
