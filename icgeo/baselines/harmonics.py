"""LocDiff: places as codes of spherical harmonics, denoised (Wang et al. 2025, arXiv 2503.18142).

A code is a Dirac delta cut at degree L: the (L + 1)^2 real harmonics at the place, orthonormal
times the root of 4 pi, so that a code's numbers have a mean square of 1. A code stands for the
probability exp(code . harmonics / 4 pi), normalised over the sphere.
"""

import math
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import torch
from diffusers import DDPMScheduler
from diffusers.models.embeddings import get_timestep_embedding
from einops import rearrange, repeat
from jaxtyping import Float
from scipy.special import sph_harm_y_all
from torch import Generator, Tensor, nn
from torch.nn.functional import layer_norm, normalize

from icgeo.baselines.head import Loss, Places, TrainingSettings, Vectors
from icgeo.baselines.samples import density_of_samples
from icgeo.sphere import EARTH_RADIUS_KM, angle, fibonacci_grid, random_rotation, to_lat_lon
from icgeo.sphere.density import Density
from icgeo.sphere.healpix import cell_xyz


def encode(xyz: Float[Tensor, "*batch 3"], degree: int) -> Float[Tensor, "*batch codes"]:
    """Return the codes of places: real spherical harmonics up to a degree, in float64."""
    x, y, z = xyz.detach().cpu().double().unbind(-1)
    colatitude, longitude = torch.atan2(torch.hypot(x, y), z), torch.atan2(y, x)
    values = sph_harm_y_all(degree, degree, colatitude.numpy(), longitude.numpy())
    columns = []
    for n in range(degree + 1):
        columns += [math.sqrt(2) * values[n, m].imag for m in range(n, 0, -1)]
        columns += [values[n, 0].real]
        columns += [math.sqrt(2) * values[n, m].real for m in range(1, n + 1)]
    return torch.from_numpy(math.sqrt(4 * math.pi) * np.stack(columns, axis=-1))


@lru_cache(maxsize=4)
def _basis(nside: int, degree: int) -> Float[Tensor, "cells codes"]:
    """Return the harmonics at the centres of cells, in float32; cached."""
    return encode(cell_xyz(nside), degree).float()


@lru_cache(maxsize=4)
def _near(nside: int, radius_deg: float) -> Tensor:
    """Return which cells lie within a radius of which, as a sparse matrix; cached."""
    from scipy.spatial import KDTree

    tree = KDTree(cell_xyz(nside).numpy())
    chord = 2 * math.sin(math.radians(radius_deg) / 2)
    pairs = tree.sparse_distance_matrix(tree, chord, output_type="coo_matrix")
    around = torch.from_numpy(np.stack((pairs.row, pairs.col)).astype(np.int64))
    ones, sides = torch.ones(around.shape[1]), (tree.n, tree.n)
    return torch.sparse_coo_tensor(around, ones, sides, check_invariants=False).coalesce()


def cell_probability(
    codes: Float[Tensor, "*batch codes"], nside: int
) -> Float[Tensor, "*batch cells"]:
    """Return the probability that codes stand for, a number for each HEALPix cell."""
    basis = _basis(nside, math.isqrt(codes.shape[-1]) - 1).to(codes)
    return torch.softmax(codes @ basis.T / (4 * math.pi), dim=-1)


def seek_mode(
    probability: Float[Tensor, "places cells"], rho_deg: float
) -> Float[Tensor, "places 3"]:
    """Return the mean of what is within rho of where most lies within rho: the decoder's mode."""
    nside = math.isqrt(probability.shape[-1] // 12)
    neighbours, xyz = _near(nside, rho_deg), cell_xyz(nside).float()
    probability = probability.float().cpu()
    indices = (neighbours @ probability.T).argmax(0)
    is_close = angle(xyz[indices][:, None], xyz[None]) <= math.radians(rho_deg)
    return normalize((probability * is_close) @ xyz, dim=-1)


class CSUNet(nn.Module):
    """A U-Net of layers of sines, whose arguments time scales and shifts, and the photo moves."""

    def __init__(self, codes: int, channels: int, *, width: int = 512, depth: int = 3) -> None:
        super().__init__()
        self.width = width
        down = [max(width // 2**level, 16) for level in range(depth)]
        up = down[-2::-1]
        sides = [*zip([codes, *down], down, strict=False)]
        sides += [(size + skip, skip) for size, skip in zip(down[:0:-1], up, strict=True)]
        self.sines = nn.ModuleList(nn.Linear(enter, leave) for enter, leave in sides)
        self.photo = nn.ModuleList(nn.Linear(channels, leave) for _, leave in sides)
        self.time = nn.ModuleList(nn.Linear(width, 2 * leave) for _, leave in sides)
        self.clock = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.last = nn.Linear(width, codes)
        self.depth = depth
        for sine in self.sines:
            bound = math.sqrt(6 / sine.in_features)  # type: ignore[operator]
            nn.init.uniform_(sine.weight, -bound, bound)  # type: ignore[arg-type]

    def forward(
        self,
        codes: Float[Tensor, "rows codes"],
        times: Float[Tensor, "rows"],
        features: Float[Tensor, "rows channels"],
    ) -> Float[Tensor, "rows codes"]:
        """Say what the codes were before noise was added."""
        clock = self.clock(get_timestep_embedding(times, self.width).to(codes))
        features = layer_norm(features, features.shape[-1:])
        hidden = codes
        skips: list[Tensor] = []
        layers = zip(self.sines, self.photo, self.time, strict=True)
        for number, (sine, photo, time) in enumerate(layers):
            if number >= self.depth:
                hidden = torch.cat((hidden, skips[2 * self.depth - 2 - number]), dim=-1)
            scale, shift = time(clock).chunk(2, dim=-1)
            hidden = torch.sin((1 + scale) * (sine(hidden) + photo(features)) + shift)
            skips.append(hidden)
        return self.last(hidden)


@dataclass(frozen=True, kw_only=True)
class HarmonicsSettings(TrainingSettings):
    """Settings of LocDiff; `configs/baselines/locdiff.yaml` has those of its size."""

    degree: int = 15
    """Of the codes, which then are 256 numbers."""
    depth: int = 3
    """Layers down, and one fewer up."""
    anchors: int = 1024
    """Places at which a step compares what codes stand for."""
    noises: int = 4
    """Noises of each photo in a step."""
    rho_deg: float = 3.0
    """Radius within which the decoder gathers probability."""
    retrieval_km: float | None = None
    """Radius of LocDiff-H, 200 km, within which it looks for the photo most alike."""
    draws: int = 32
    """Codes that are drawn of each photo."""
    steps: int = 50
    """Of denoising; training has 1000."""
    nside: int = 32
    """Of the density and of the decoder: cells of 1.8 degrees."""
    seed: int = 0
    """Of the noise."""


class HarmonicDiffusion(nn.Module):
    """LocDiff: codes are denoised, told a photo, and their mode is the place.

    LocDiff-H, with `retrieval_km`: the place of the photo most alike of those trained on, if there
    are any so near.
    """

    known: Tensor
    places: Tensor

    def __init__(self, features: Vectors, xyz: Places, settings: HarmonicsSettings) -> None:
        super().__init__()
        self.settings = settings
        self.register_buffer("known", normalize(features, dim=-1))
        self.register_buffer("places", xyz)
        codes, channels = (settings.degree + 1) ** 2, features.shape[-1]
        self.network = CSUNet(codes, channels, width=settings.width, depth=settings.depth)
        self.noise = DDPMScheduler(
            beta_schedule="squaredcos_cap_v2", prediction_type="sample", clip_sample=False
        )

    def loss(self, features: Vectors, xyz: Places, generator: Generator) -> Loss:
        """Return the KL divergence of what codes stand for, over anchors drawn anew.

        Anchors are spread evenly and turned at random, and the places themselves are among them,
        for the peaks of a high degree fall between. Of codes that stand for the same at the
        anchors, the one nearest in mean square is wanted.
        """
        codes = encode(xyz, self.settings.degree).to(features)
        repeat_rows = partial(repeat, pattern="n c -> (n noises) c", noises=self.settings.noises)
        codes, features = repeat_rows(codes), repeat_rows(features)
        step = torch.randint(len(self.noise), (len(codes),), generator=generator)
        noise = torch.randn(codes.shape, generator=generator).to(codes)
        noisy_codes = self.noise.add_noise(codes, noise, step.to(codes.device))
        prediction = self.network(noisy_codes, step.to(codes), features)
        turn = random_rotation(generator=generator)
        spread, places = fibonacci_grid(self.settings.anchors), xyz.detach().cpu().double()
        anchors = torch.cat((spread @ turn, places))
        basis = encode(anchors, self.settings.degree).to(codes)
        logs = [
            torch.log_softmax(each @ basis.T / (4 * math.pi), -1) for each in (codes, prediction)
        ]
        divergence = (logs[0].exp() * (logs[0] - logs[1])).sum(-1).mean()
        return divergence + (prediction - codes).square().mean()

    @torch.no_grad()
    def codes(self, features: Vectors, count: int) -> Float[Tensor, "photos count codes"]:
        """Draw codes of each photo (DDPM; Ho et al. 2020); the noise is the same for all photos."""
        generator = Generator().manual_seed(self.settings.seed)
        size = (self.settings.degree + 1) ** 2
        code = torch.randn(1, count, size, generator=generator).expand(len(features), -1, -1)
        condition = repeat(features, "photos channels -> (photos count) channels", count=count)
        self.noise.set_timesteps(self.settings.steps)
        for t in self.noise.timesteps:
            flat_codes = rearrange(code.to(features), "photos count size -> (photos count) size")
            clean_codes = self.network(
                flat_codes, t.expand(len(flat_codes)).to(features), condition
            )
            clean_codes = rearrange(
                clean_codes, "(photos count) size -> photos count size", count=count
            )
            # one photo at a time from the same state of the generator: batches change nothing
            state, results = generator.get_state(), []
            for clean_code, noisy_code in zip(clean_codes, code.to(features), strict=True):
                generator.set_state(state)
                results.append(
                    self.noise.step(clean_code, t, noisy_code, generator=generator).prev_sample
                )
            code = torch.stack(results)
        return code

    def densities(self, features: Vectors) -> list[Density]:
        """Return the density of the places that are drawn of each photo."""
        probabilities = cell_probability(
            self.codes(features, self.settings.draws), self.settings.nside
        )
        places = (seek_mode(one, self.settings.rho_deg) for one in probabilities)
        return [density_of_samples(xyz, nside=self.settings.nside) for xyz in places]

    def points(self, features: Vectors) -> Float[Tensor, "photos 2"]:
        """Return the mode of what the codes of each photo stand for, taken together, in degrees."""
        probabilities = cell_probability(
            self.codes(features, self.settings.draws), self.settings.nside
        )
        modes = seek_mode(probabilities.mean(1), self.settings.rho_deg)
        radius_km = self.settings.retrieval_km
        if radius_km is not None:
            modes = self._most_alike(modes, features, radius_km)
        return to_lat_lon(modes.double())

    def _most_alike(self, modes: Tensor, features: Tensor, radius_km: float) -> Tensor:
        cosines = normalize(features, dim=-1) @ self.known.T
        is_near = angle(modes[:, None], self.places[None].to(modes)) * EARTH_RADIUS_KM <= radius_km
        indices = cosines.cpu().where(is_near, -2).argmax(-1)
        return self.places.to(modes)[indices].where(is_near.any(-1, keepdim=True), modes)
