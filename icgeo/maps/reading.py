"""Read maps back to densities: the inverse of drawing, as a fit of a density to each map.

Conventions: maps are float images as models give them, never clipped, [batch, 3, height, width];
opacity is 1 where a single location lies, and neither clipped nor non-negative.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from einops import einsum, rearrange, reduce
from jaxtyping import Bool, Float, Int
from torch import Tensor

from icgeo.maps.drawing import base_image, contrast
from icgeo.maps.operator import (
    DrawingOperator,
    Evidence,
    Field,
    Grid,
    Noise,
    candidate_grid,
    drawing_operator,
    maximum_entropy,
)
from icgeo.maps.style import MapStyle
from icgeo.sphere import to_lat_lon, to_xyz, wrap_longitude
from icgeo.sphere.density import Density
from icgeo.sphere.healpix import cell_lat_lon, cell_of, cell_side, points_in_cells

LEGIBLE = 0.1
"""Maps of lower legibility are read as the prior."""
_LEAST_ENERGY = 10.0
"""Difference to the prior's map, in noise variances, below which no map is fully legible."""
_CHUNK = 2**18
"""Candidates, over all maps, that are fitted at once: what stays in a processor's cache."""
_LARGEST_SHIFT = 4
"""Of a map against its base: in pixels, to either side."""
_COVERED = 0.05
"""Opacity from which a pixel says nothing about the base."""


@dataclass(frozen=True, eq=False)
class Reading:
    """What a map says."""

    density: Density
    """The density; the prior where the map is illegible."""
    legibility: float
    """Share, in [0, 1], of what a heatmap could have drawn on the map beyond the prior and white
    noise that the density draws."""
    point: Float[Tensor, "2"]
    """Location of the heaviest mode, finer than the cells: the mean of the density within 1.5
    narrowest sigmas of it. NaN where the map is illegible."""


def read(
    maps: Tensor,
    style: MapStyle,
    *,
    noise: Noise | None = None,
    prior: Density | None = None,
    floor: float = 1e-3,
    nside: int = 64,
    steps: int = 12,
) -> list[Reading]:
    """Find the density whose drawing in all channels best explains each map.

    Args:
        maps: [batch, 3, height, width] on any device; finite, but values may leave [0, 1].
        style: how the maps were drawn.
        noise: what maps have beside the heatmap; a map of larger misfit is taken for noisier.
        prior: what to believe where the map says nothing, of the same nside; uniform if not given.
        floor: mass that is spread over the whole sphere, so that no log-density is infinite.
        nside: of the densities. A location is resolved to half of the narrowest sigma.
        steps: Newton steps of the fit.
    """
    _check(maps, style, floor, prior, nside)
    noise, strength = noise or Noise(), contrast(style).square().mean().sqrt().item()
    noise = Noise(noise.white / strength, noise.smooth / strength, noise.bias / strength)
    operator = drawing_operator(style, noise).to(maps.device)
    grid, weights = operator.grid, _grid_weights(operator.grid, prior).to(maps.device)
    to_cells = _to_cells(style, nside).to(maps.device)
    background = (prior or Density.uniform(nside)).mass
    readings: list[Reading] = []
    for part in torch.split(maps, max(1, _CHUNK // weights.numel())):
        evidence = operator.evidence(operator.pool(_opacity(part.float(), style)))
        mass = maximum_entropy(operator, evidence, weights, steps=steps)
        energies = _energies(operator, evidence, mass, weights)
        legibility = _legibility(*energies, overfit=_overfit(style, noise)).tolist()
        rows = rearrange(mass, "b 1 (row p) ring -> b row (ring p)", p=grid.phases)
        candidates = rows[..., : grid.columns].flatten(1)
        cells = torch.sparse.mm(to_cells, candidates.T).T.contiguous().double().cpu()
        points = _modes(grid, candidates.double().cpu(), 1.5 * min(style.sigma_deg))
        for share, cell_mass, point in zip(legibility, cells, points, strict=True):
            is_legible = share >= LEGIBLE
            fit = cell_mass.clamp_min(0) / cell_mass.sum() if is_legible else background
            density = Density((1 - floor) * fit + floor / len(fit))
            readings.append(Reading(density, share, point if is_legible else point * torch.nan))
    return readings


def _check(maps: Tensor, style: MapStyle, floor: float, prior: Density | None, nside: int) -> None:
    if maps.ndim != 4 or maps.shape[1:] != (3, style.height, style.width):
        raise ValueError(
            f"expected maps [batch, 3, {style.height}, {style.width}], got {tuple(maps.shape)}; "
            "resize them, or read them in the style that they were drawn in"
        )
    if not maps.isfinite().all():
        raise ValueError("expected finite maps, got NaN or infinity; was the model run in float16?")
    if not 0 < floor < 1:
        raise ValueError(f"expected a floor above 0 and below 1, got {floor}")
    if prior is not None and prior.nside != nside:
        raise ValueError(f"expected a prior of nside {nside}, got {prior.nside}")


def _opacity(
    maps: Float[Tensor, "batch 3 height width"], style: MapStyle
) -> Float[Tensor, "batch channel height width"]:
    """Return the opacity in each width of the heatmap: three, or one of all colours."""
    base, change = base_image(style).to(maps.device), contrast(style).to(maps.device)
    if len(style.sigma_deg) == 3:
        return (maps - base) / change
    if style.base != "blank":
        maps = _registered(maps, base, change)
    return _shared_opacity(maps - base, change)


def _shared_opacity(heatmap: Tensor, change: Tensor) -> Float[Tensor, "batch 1 height width"]:
    """Fit the opacity of each pixel to its colours, less a bias common to all pixels."""
    unit = change / change.norm(dim=0)
    along = einsum(unit, heatmap, "c h w, b c h w -> b h w")
    residual = heatmap - unit * along[:, None]  # no opacity explains it; the bias follows from it
    count = unit[0].numel()
    normal = count * torch.eye(3, device=heatmap.device) - einsum(unit, unit, "i h w, j h w -> i j")
    bias = reduce(residual, "b c h w -> b c", "sum") @ torch.linalg.pinv(normal, rtol=1e-3)
    opacity = along - einsum(unit, bias, "c h w, b c -> b h w")
    return rearrange(opacity / change.norm(dim=0), "b h w -> b 1 h w")


def _registered(maps: Tensor, base: Tensor, change: Tensor) -> Float[Tensor, "b 3 h w"]:
    """Undo the shift between maps and base, in the end by its slopes (Lucas and Kanade 1981)."""
    slopes = torch.stack(torch.gradient(base, dim=(1, 2)))
    shift = _whole_shift(maps, base)
    for _ in range(3):
        aligned_maps = _moved(maps, -shift)
        # pixels under the heatmap and near the upper and lower edge say nothing
        weight = (_shared_opacity(aligned_maps - base, change).abs() < _COVERED).float()
        weight[:, :, :_LARGEST_SHIFT] = weight[:, :, -_LARGEST_SHIFT:] = 0
        residual = (aligned_maps - base) * weight
        normal = einsum(slopes, slopes, weight[:, 0], "i c h w, j c h w, b h w -> b i j")
        slope = einsum(slopes, residual, "i c h w, b c h w -> b i")
        ridge = 1e-3 * slopes.square().sum() * torch.eye(2, device=maps.device)
        shift = shift - torch.linalg.solve(normal + ridge, slope)
    return _moved(maps, -shift)


def _frequencies(maps: Tensor) -> tuple[Float[Tensor, "h 1"], Float[Tensor, " w"]]:
    """Return the cycles a pixel of the real Fourier transform."""
    rows = torch.fft.fftfreq(maps.shape[-2], device=maps.device)[:, None]
    return rows, torch.fft.rfftfreq(maps.shape[-1], device=maps.device)


def _whole_shift(maps: Tensor, base: Tensor) -> Float[Tensor, "b 2"]:
    """Return the shift in whole pixels at which the edges of maps and base go best."""
    rows, columns = _frequencies(maps)
    edges = (rows.square() + columns.square()).square()
    cross_spectrum = torch.fft.rfft2(maps) * torch.fft.rfft2(base).conj() * edges
    match = torch.fft.irfft2(cross_spectrum.sum(1), s=maps.shape[-2:])
    side = 2 * _LARGEST_SHIFT + 1
    match = match.roll((_LARGEST_SHIFT, _LARGEST_SHIFT), (1, 2))[:, :side, :side]
    best = rearrange(match, "b h w -> b (h w)").argmax(-1)
    return torch.stack((best // side, best % side), dim=-1).float() - _LARGEST_SHIFT


def _moved(maps: Tensor, shift: Float[Tensor, "b 2"]) -> Float[Tensor, "b 3 h w"]:
    """Move maps down and right by fractions of a pixel, around the edges."""
    rows, columns = _frequencies(maps)
    turn = shift[:, :1, None] * rows + shift[:, 1:, None] * columns
    spectrum = torch.fft.rfft2(maps) * torch.exp(-2j * torch.pi * turn)[:, None]
    return torch.fft.irfft2(spectrum, s=maps.shape[-2:])


def _grid_weights(grid: Grid, prior: Density | None) -> Field:
    """Return the prior mass of each candidate."""
    weights = grid.area[:, None].expand(-1, grid.columns)
    if prior is not None:
        weights = weights * prior.mass[cell_of(grid.lat_lon, prior.nside)]
    if not weights.sum() > 0:
        raise ValueError("expected a prior with mass on the map, got none there")
    return grid.phased((weights / weights.sum())[None])[None].float()


def _legibility(
    white_noise: Tensor, gain: Tensor, energy: Tensor, overfit: float
) -> Float[Tensor, " batch"]:
    """Return the share of what a heatmap could draw, beyond prior and noise, that the fit draws."""
    # A density fits `overfit` of what is in the band of the heatmap to mere noise: that is no gain,
    # and it takes four times as much to be half legible.
    limit = (energy - white_noise).clamp_min(0) + 2 * overfit * white_noise
    share = (gain - overfit * white_noise) / limit.clamp_min(_LEAST_ENERGY)
    return share.clamp(0, 1).flatten()


def _energies(
    operator: DrawingOperator, evidence: Evidence, mass: Field, prior: Field
) -> tuple[Tensor, Tensor, Tensor]:
    """Return in the heatmap's band: white noise, what the fit explains, and all that it might."""
    image = operator.normal(mass)
    residual = operator.band_energy(evidence.adjoint - image)
    of_prior = operator.band_energy(evidence.adjoint - operator.normal(prior))
    energy = torch.minimum(of_prior, operator.band_energy(evidence.adjoint))
    out_of_band = (evidence.misfit(mass, image) - residual).clamp_min(0)
    white_noise = out_of_band / operator.white_out_of_band * operator.white_in_band
    return white_noise, energy - residual, energy


@lru_cache(maxsize=8)
def _overfit(style: MapStyle, noise: Noise) -> float:
    """Return the largest share of white noise in the band that a density explains; cached."""
    operator = drawing_operator(style, noise)
    size = (16, len(style.sigma_deg), style.height, style.width)
    opacity = noise.white * torch.randn(size, generator=torch.Generator().manual_seed(0))
    prior = _grid_weights(operator.grid, None)
    evidence = operator.evidence(operator.draw(prior) + operator.pool(opacity))
    mass = maximum_entropy(operator, evidence, prior, steps=12)
    white_noise, gain, _ = _energies(operator, evidence, mass, prior)
    return (gain / white_noise).max().clamp(0, 1).item()


def _modes(
    grid: Grid, mass: Float[Tensor, "batch candidates"], radius_deg: float
) -> Float[Tensor, "batch 2"]:
    """Return the mean direction of the density around its peak."""
    xyz = to_xyz(grid.lat_lon).flatten(0, 1)
    area = grid.area.repeat_interleave(grid.columns)
    mode = xyz[(mass / area).argmax(-1)]
    for _ in range(3):
        local_mass = mass * (mode @ xyz.T > math.cos(math.radians(radius_deg)))
        mode = torch.nn.functional.normalize(local_mass @ xyz, dim=-1)
    return to_lat_lon(mode)


@lru_cache(maxsize=8)
def _to_cells(style: MapStyle, nside: int) -> Float[Tensor, "cells candidates"]:
    """Return a sparse matrix that spreads mass of candidates over cells bilinearly; cached."""
    grid = candidate_grid(style)
    cells, lat_lon = _points_on_map(style, nside, grid)
    row = (grid.lat[0] - lat_lon[:, 0]) / (grid.lat[0] - grid.lat[-1]) * (len(grid.lat) - 1)
    column = (lat_lon[:, 1] - grid.west) % 360 / grid.step_deg - 0.5
    rows, row_share = _neighbours(row, len(grid.lat), wraps=False)
    columns, column_share = _neighbours(column, grid.columns, wraps=style.is_world_wide)
    candidate = (rows[:, :, None] * grid.columns + columns[:, None]).flatten()
    share = (row_share[:, :, None] * column_share[:, None]).flatten()
    size = (12 * nside**2, len(grid.lat) * grid.columns)
    total = torch.zeros(size[1], dtype=torch.float64).index_add_(0, candidate, share)
    place = torch.stack((cells.repeat_interleave(4), candidate))
    share = (share / total[candidate]).float()
    return torch.sparse_coo_tensor(place, share, size, check_invariants=True).coalesce()


def _neighbours(
    position: Float[Tensor, " n"], count: int, *, wraps: bool
) -> tuple[Int[Tensor, "n 2"], Float[Tensor, "n 2"]]:
    """Return the two nodes beside a fractional position, and their shares of it."""
    below = position.floor()
    nodes = torch.stack((below, below + 1), dim=-1).long()
    nodes = nodes % count if wraps else nodes.clamp(0, count - 1)
    return nodes, torch.stack((1 - (position - below), position - below), dim=-1)


def _points_on_map(
    style: MapStyle, nside: int, grid: Grid
) -> tuple[Int[Tensor, " points"], Float[Tensor, "points 2"]]:
    """Return points of cells on the map, at most a third of a candidate's spacing apart."""
    cell_deg = math.degrees(cell_side(nside))
    spacing = min(grid.step_deg, (grid.lat[0] - grid.lat[1]).item())
    per_side = math.ceil(3 * cell_deg / spacing)
    cells = torch.arange(12 * nside**2)
    cells = cells[_is_on_map(cell_lat_lon(cells, nside), style, margin_deg=2 * cell_deg)]
    lat_lon = points_in_cells(cells, nside, per_side).flatten(0, 1)
    is_inside = _is_on_map(lat_lon, style, margin_deg=0.0)
    return cells.repeat_interleave(per_side**2)[is_inside], lat_lon[is_inside]


def _is_on_map(
    lat_lon: Float[Tensor, "n 2"], style: MapStyle, *, margin_deg: float
) -> Bool[Tensor, " n"]:
    """Say which locations lie within the extent and a margin around it."""
    west, south, _, north = style.extent
    lat, lon = lat_lon.unbind(-1)
    margin = margin_deg / torch.cos(torch.deg2rad(lat)).clamp_min(0.01)
    lon_distance = wrap_longitude(lon - west - style.width_deg / 2).abs()
    is_in_rows = (lat >= south - margin_deg) & (lat <= north + margin_deg)
    return is_in_rows & (lon_distance <= style.width_deg / 2 + margin)
