"""The drawing operator from a grid of candidate locations to opacity, and the fit that inverts it.

Turning the world commutes with drawing, so after a Fourier transform along longitude the operator
falls into one small matrix for each frequency. A window lies on a ring with a gap off the map, so
long that kernels do not reach around it.

Conventions: fields are [batch, channel, row, ring]; `ring` counts places of equal spacing in
longitude, eastwards. A channel is one width of the heatmap. Energies are whitened: in units of the
expected noise variance.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from typing import Any

import torch
from einops import einsum, rearrange, reduce, repeat
from jaxtyping import Complex, Float
from torch import Tensor

from icgeo.maps.style import MapStyle
from icgeo.sphere import wrap_longitude

_SPACING = 0.5
"""Candidates lie at most this many narrowest sigmas apart; finer pixels are averaged to that."""
_MOST_PHASES = 4
"""Columns of candidates in a pixel."""
_NEGLIGIBLE = 1e-9
"""Share of the largest entry of the matrices below which others are dropped."""
_SMOOTHNESS = (1.0, 2.0, 4.0)
"""Widths of the smooth noise, in sigmas of the heatmap, at most 60 degrees."""
_LONGEST_STEP = 4.0
"""Masses grow or shrink at most this many nats an iteration of the fit."""

Field = Float[Tensor, "_ _ _ _"]
Blocks = Complex[Tensor, "_ _ _ _"]


@dataclass(frozen=True)
class Noise:
    """Standard deviations of what maps have beside the heatmap, in units of its full strength."""

    white: float = 0.03
    """Independent in each pixel."""
    smooth: float = 0.03
    """Blobs about as wide as the heatmap, twice and four times as wide."""
    bias: float = 0.03
    """Constant over each channel."""

    def __post_init__(self) -> None:
        if not self.white > 0 or min(self.smooth, self.bias) < 0:
            raise ValueError(f"expected white noise above 0 and no negative noise, got {self}")


@dataclass(frozen=True)
class Grid:
    """Candidate locations: rows even in latitude, `phases` columns for each place of the ring."""

    lat: Float[Tensor, " rows"]
    """Latitudes in degrees, from north to south."""
    area: Float[Tensor, " rows"]
    """Steradians of one candidate in each row."""
    west: float
    """Western edge in degrees."""
    step_deg: float
    """Spacing of the columns in degrees."""
    phases: int
    places: int
    """Places of the ring that have candidates."""
    margin: int
    """Places of them on either side of the map; none for the world."""
    ring: int
    """Places of the ring; more than `places` for a window."""
    side: int
    """Side of the square of pixels that is averaged: what the narrowest kernel does not need."""

    @property
    def columns(self) -> int:
        """Columns of candidates."""
        return self.places * self.phases

    @property
    def lat_lon(self) -> Float[Tensor, "rows columns 2"]:
        """Locations of the candidates."""
        lon = self.west + self.step_deg * (torch.arange(self.columns, dtype=torch.float64) + 0.5)
        return torch.stack(torch.meshgrid(self.lat, wrap_longitude(lon), indexing="ij"), dim=-1)

    @property
    def ring_lon(self) -> Float[Tensor, " ring"]:
        """Difference in longitude of each place of the ring to its first, the short way around."""
        places = torch.arange(self.ring, dtype=torch.float64)
        return (places - self.ring * (places > self.ring / 2)) * self.step_deg * self.phases

    def phased(self, mass: Float[Tensor, "batch r c"]) -> Float[Tensor, "batch phased ring"]:
        """Bring rows and columns to a field of the operator."""
        ring = rearrange(mass, "b r (ring p) -> b (r p) ring", p=self.phases)
        return torch.nn.functional.pad(ring, (0, self.ring - self.places))


def candidate_grid(style: MapStyle) -> Grid:
    """Lay out the candidates of a style; refuse a kernel that falls between the pixels."""
    west, south, _, north = style.extent
    spacing = min(style.sigma_deg) * _SPACING
    divisor = math.gcd(style.height, style.width)
    limit = max(spacing / style.pixel_deg, 1)
    side = max(n for n in range(1, divisor + 1) if divisor % n == 0 and n <= limit)
    place_deg = style.width_deg / (style.width // side)
    phases = math.ceil(place_deg / spacing - 1e-9)
    if phases > _MOST_PHASES:
        raise ValueError(
            f"expected a sigma of at least {1 / (_SPACING * _MOST_PHASES)} pixels to read, got "
            f"{min(style.sigma_deg):g} degrees on pixels of {style.pixel_deg:g}; widen the heatmap"
        )
    margin = 0 if style.is_world_wide else 1
    places = style.width // side + 2 * margin
    # a location on the edge of the map lies between candidates, too
    edges_deg = min(north + spacing, 90.0), max(south - spacing, -90.0)
    rows = math.ceil((edges_deg[0] - edges_deg[1]) / spacing)
    edges = torch.linspace(*edges_deg, rows + 1, dtype=torch.float64)
    gap = min(math.ceil(5 * max(style.sigma_deg) / place_deg), style.width // side)
    return Grid(
        lat=(edges[1:] + edges[:-1]) / 2,
        area=-torch.sin(torch.deg2rad(edges)).diff() * math.radians(place_deg / phases),
        west=west - margin * place_deg,
        step_deg=place_deg / phases,
        phases=phases,
        places=places,
        margin=margin,
        ring=places + margin * gap,
        side=side,
    )


def _fall(lat: Tensor, other_lat: Tensor, lon: Tensor) -> Tensor:
    """Return cos(distance) - 1 between latitudes `lon` apart, in degrees (haversine)."""
    lat, other_lat, lon = torch.deg2rad(lat), torch.deg2rad(other_lat), torch.deg2rad(lon)
    lon_term = torch.cos(lat) * torch.cos(other_lat) * torch.sin(lon / 2).square()
    return -2 * (torch.sin((lat - other_lat) / 2).square() + lon_term)


def _to_blocks(fields: Float[Tensor, "channel pixel other ring"]) -> Blocks:
    return rearrange(torch.fft.rfft(fields), "channel pixel other f -> f channel pixel other")


def _drawing_blocks(style: MapStyle, grid: Grid) -> Blocks:
    """Return the blocks from candidates to averaged pixels."""
    lat = rearrange(style.row_latitudes(), "(row side) -> side row", side=grid.side)
    lon = (torch.arange(grid.side, dtype=torch.float64) + 0.5) * style.pixel_deg
    rows = repeat(grid.lat, "row -> (row phase)", phase=grid.phases)
    phase = (torch.arange(grid.phases, dtype=torch.float64) + 0.5) * grid.step_deg
    columns = repeat(phase, "phase -> (row phase)", row=len(grid.lat))
    kernel = torch.zeros(len(style.kappas), lat.shape[1], len(rows), grid.ring, dtype=torch.float64)
    for one_lat, one_lon in product(lat, lon):
        offset = one_lon - columns[:, None] + grid.ring_lon
        fall = _fall(one_lat[:, None, None], rows[:, None], offset)
        for channel, kappa in enumerate(style.kappas):
            kernel[channel] += torch.exp(kappa * fall) / grid.side**2
    return _to_blocks(kernel)


def _noise_blocks(style: MapStyle, grid: Grid, noise: Noise) -> Blocks:
    """Return the covariance of the noise between averaged pixels."""
    lat = reduce(style.row_latitudes(), "(row side) -> row", "mean", side=grid.side)
    fall = _fall(lat[:, None, None], lat[:, None], grid.ring_lon)
    channels = []
    for sigma in style.sigma_deg:
        widths = [math.radians(min(sigma * factor, 60.0)) for factor in _SMOOTHNESS]
        correlation = torch.stack([torch.exp(fall / width**2) for width in widths]).mean(0)
        # in a window the mean of each channel is left out instead, see `DrawingOperator.visible`
        channels.append(noise.smooth**2 * correlation + (0.0 if grid.margin else noise.bias**2))
    covariance = _to_blocks(torch.stack(channels))
    if grid.margin:
        # without the negative powers that come of cutting kernels off at the gap of a window
        power, waves = torch.linalg.eigh((covariance + covariance.mH) / 2)
        covariance = (waves * power.clamp_min(0)[..., None, :]) @ waves.mH
    return covariance + torch.eye(len(lat)) * (noise.white / grid.side) ** 2


def _apply(blocks: Blocks, field: Field) -> Field:
    spectrum = torch.fft.rfft(field)[..., : len(blocks)]
    image = einsum(blocks, spectrum, "f c to of, b c of f -> b c to f")
    return torch.fft.irfft(image, n=field.shape[-1])


def _single(blocks: Blocks) -> Blocks:
    """Drop what is negligible, for denormal numbers are slow, and use single precision."""
    parts = torch.view_as_real(blocks)
    counts = parts.abs() > _NEGLIGIBLE * parts.abs().max()
    cutoff = counts.nonzero()[:, 0].max()  # the heatmap has no frequencies beyond
    return torch.view_as_complex(parts * counts)[: cutoff + 1].to(torch.complex64)


def dot(a: Field, b: Field) -> Float[Tensor, "batch 1 1 1"]:
    """Sum the products over all but the batch."""
    return (a * b).sum((1, 2, 3), keepdim=True)


@dataclass(frozen=True)
class Evidence:
    """What fields of opacity say of the candidates: enough to fit masses to them."""

    adjoint: Field
    """How well each candidate alone goes with the field."""
    energy: Float[Tensor, "batch 1 1 1"]
    """Squared whitened size of the field."""

    def misfit(self, mass: Field, drawn: Field) -> Float[Tensor, "batch 1 1 1"]:
        """Return the squared whitened size of the residual; `drawn` is the normal of `mass`."""
        return self.energy - dot(2 * self.adjoint - drawn, mass)


@dataclass(frozen=True)
class DrawingOperator:
    """Drawing, its adjoint and the noise, as matrices for each frequency along longitude."""

    grid: Grid
    drawing: Blocks
    whitening: Blocks
    """Inverse covariance of the noise."""
    normal_blocks: Blocks
    """Adjoint drawing x whitening x drawing, summed over the channels."""
    band_inverse: Blocks
    """Regularised inverse of it: measures what a heatmap could draw at all."""
    white_in_band: float
    """Energy in the band of the heatmap, and ..."""
    white_out_of_band: float
    """... outside it, of white noise of variance 1 in the averaged pixels."""

    def _on_ring(self, field: Field) -> Field:
        margin = self.grid.margin
        right_margin = self.grid.ring - self.grid.places + margin
        return torch.nn.functional.pad(field, (margin, right_margin))

    def visible(self, field: Field) -> Field:
        """Drop what is off a window, and each channel's mean; the world stays whole."""
        if self.grid.margin == 0:
            return field
        window = field[..., self.grid.margin : self.grid.places - self.grid.margin]
        return self._on_ring(window - window.mean((-2, -1), keepdim=True))

    @property
    def pixels(self) -> int:
        """Averaged pixels on the map, in all channels."""
        return self.drawing[0, :, :, 0].numel() * (self.grid.places - 2 * self.grid.margin)

    def pool(self, opacity: Float[Tensor, "batch channel height width"]) -> Field:
        """Average pixels and lay them on the ring."""
        side = self.grid.side
        mean = reduce(opacity, "b c (row h) (place w) -> b c row place", "mean", h=side, w=side)
        return self._on_ring(mean)

    def draw(self, mass: Field) -> Field:
        """Return the opacity that masses of the candidates draw."""
        return _apply(self.drawing, mass)

    def evidence(self, field: Field) -> Evidence:
        """Return what fields of opacity say of the candidates."""
        whitened = self._whitened(field)
        return Evidence(self._adjoint(whitened), dot(self.visible(field), whitened))

    def _whitened(self, field: Field) -> Field:
        return self.visible(_apply(self.whitening, self.visible(field)))

    def _adjoint(self, whitened: Field) -> Field:
        return _apply(self.drawing.mH, whitened).sum(1, keepdim=True)

    def normal(self, mass: Field) -> Field:
        """Return the `Evidence.adjoint` of `draw`."""
        if self.grid.margin == 0:
            return _apply(self.normal_blocks, mass)
        return self._adjoint(self._whitened(self.draw(mass)))

    def band_energy(self, adjoint: Field) -> Float[Tensor, "batch 1 1 1"]:
        """Return the squared whitened size of what a heatmap could draw, from the adjoint."""
        return dot(adjoint, _apply(self.band_inverse, adjoint))

    def to(self, device: torch.device) -> "DrawingOperator":
        """Move the matrices to a device."""
        tensors = {name: x for name, x in vars(self).items() if isinstance(x, Tensor)}
        on_device: dict[str, Any] = {name: x.to(device) for name, x in tensors.items()}
        return replace(self, **on_device)


@lru_cache(maxsize=8)
def drawing_operator(style: MapStyle, noise: Noise) -> DrawingOperator:
    """Build the operator of a style; cached."""
    grid = candidate_grid(style)
    drawing = _drawing_blocks(style, grid)
    whitening = torch.linalg.inv(_noise_blocks(style, grid, noise))
    adjoint = drawing.mH @ whitening
    normal = (adjoint @ drawing).sum(1, keepdim=True)
    ridge = 1e-3 * normal.diagonal(dim1=-2, dim2=-1).real.mean()
    band = torch.linalg.inv(normal + ridge * torch.eye(normal.shape[-1]))
    # expected energies of white noise of variance 1; a real transform keeps half of the frequencies
    times = torch.full((len(drawing),), 2.0)
    times[0] = 1
    if grid.ring % 2 == 0:
        times[-1] = 1
    through = torch.einsum("fcik,fcjk->fij", adjoint, adjoint.conj())
    in_band = torch.einsum("fij,fji->f", band[:, 0], through).real
    total = torch.einsum("fcii->f", whitening).real
    share = (grid.places - 2 * grid.margin) / grid.ring
    band_energy = (times * in_band).sum().item()
    return DrawingOperator(
        grid=grid,
        drawing=_single(drawing),
        whitening=_single(whitening),
        normal_blocks=_single(normal),
        band_inverse=_single(band),
        white_in_band=share * band_energy,
        white_out_of_band=share * ((times * total).sum().item() - band_energy),
    )


def _newton_step(operator: DrawingOperator, mass: Field, slope: Field, scale: Tensor) -> Field:
    """Solve (scale + normal . J) x = slope, J = diag(m) - m m', by conjugate gradients in J."""
    change = direction = torch.zeros_like(slope)
    residual, previous_size = slope - dot(mass, slope), torch.full_like(scale, torch.inf)
    for _ in range(4):
        size = dot(residual, mass * residual)
        momentum = torch.where(previous_size > 1e-20, size / previous_size, 0.0)
        direction = torch.addcmul(residual, momentum, direction)
        mass_change = mass * direction
        image = torch.addcmul(operator.normal(mass_change), scale, direction)
        image = image - dot(mass, image)
        curvature = dot(mass_change, image)
        step = torch.where(curvature > 1e-20, size / curvature, 0.0)
        change = torch.addcmul(change, step, direction)
        residual, previous_size = torch.addcmul(residual, -step, image), size
    return change


def maximum_entropy(
    operator: DrawingOperator, evidence: Evidence, prior: Field, *, steps: int
) -> Field:
    """Find the masses of the candidates that explain fields of opacity with the largest entropy.

    They minimise energy(field - drawing of m) / 2 + scale KL(m, prior) (Skilling and Bryan 1984,
    "Maximum entropy image reconstruction: general algorithm"), by Newton's method on the log
    masses. `scale`, never below 1, is how many times larger the noise variance of a map turned out
    than the noise model says: the fit starts stiff, and stays so if no density explains the map.
    """
    mass, log_ratio = prior.expand_as(evidence.adjoint), torch.zeros_like(evidence.adjoint)
    for _ in range(steps):
        image = operator.normal(mass)
        scale = (evidence.misfit(mass, image) / operator.pixels).clamp_min(1)
        slope = evidence.adjoint - image - scale * log_ratio
        change = _newton_step(operator, mass, slope, scale)
        log_ratio = log_ratio + change.clamp(-_LONGEST_STEP, _LONGEST_STEP)
        log_ratio = log_ratio - log_ratio.amax((1, 2, 3), keepdim=True)
        mass = prior * log_ratio.exp()
        total = mass.sum((1, 2, 3), keepdim=True)
        mass, log_ratio = mass / total, log_ratio - total.log()
    return mass
