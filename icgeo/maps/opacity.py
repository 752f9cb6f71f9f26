"""From the colours of a map to the opacity of the heatmap: base, shift and colour bias removed.

Conventions: opacity is 1 where a single location lies; it is neither clipped nor non-negative.
"""

import torch
from einops import einsum, rearrange, reduce
from jaxtyping import Float
from torch import Tensor

from icgeo.maps.basemap import base_image
from icgeo.maps.drawing import contrast
from icgeo.maps.style import MapStyle

_SHIFT_STEPS = 3
_LARGEST_SHIFT = 4
"""In pixels, to either side."""
_COVERED = 0.05
"""Opacity from which a pixel says nothing about the base."""


def opacity_of(
    maps: Float[Tensor, "batch 3 height width"], style: MapStyle
) -> Float[Tensor, "batch channel height width"]:
    """Opacity in each width of the heatmap: three channels, or one that all colours tell together.

    Where the base has structure, a shift of the map against it is registered first.
    """
    base, change = base_image(style).to(maps.device), contrast(style).to(maps.device)
    if len(style.sigma_deg) == 3:
        return (maps - base) / change
    if style.base != "blank":
        maps = _registered(maps, base, change)
    return _shared_opacity(maps - base, change)


def _shared_opacity(heatmap: Tensor, change: Tensor) -> Float[Tensor, "batch 1 height width"]:
    """Least squares over the colours in each pixel, less a colour bias common to all pixels.

    What no opacity explains is the part of the heatmap across the contrast; from it follows the
    bias, but for what lies along the contrast everywhere.
    """
    unit = change / change.norm(dim=0)
    along = einsum(unit, heatmap, "c h w, b c h w -> b h w")
    across = heatmap - unit * along[:, None]
    count = unit[0].numel()
    normal = count * torch.eye(3, device=heatmap.device) - einsum(unit, unit, "i h w, j h w -> i j")
    bias = reduce(across, "b c h w -> b c", "sum") @ torch.linalg.pinv(normal, rtol=1e-3)
    opacity = along - einsum(unit, bias, "c h w, b c -> b h w")
    return rearrange(opacity / change.norm(dim=0), "b h w -> b 1 h w")


def _registered(maps: Tensor, base: Tensor, change: Tensor) -> Float[Tensor, "b 3 h w"]:
    """Undo the shift between maps and base: whole pixels first, then fractions.

    Least squares on the slopes of the base (Lucas and Kanade 1981); pixels under the heatmap and
    near the upper and lower edge say nothing.
    """
    slopes = torch.stack(torch.gradient(base, dim=(1, 2)))
    shift = _whole_shift(maps, base)
    for _ in range(_SHIFT_STEPS):
        moved = _moved(maps, -shift)
        weight = (_shared_opacity(moved - base, change).abs() < _COVERED).float()
        weight[:, :, :_LARGEST_SHIFT] = weight[:, :, -_LARGEST_SHIFT:] = 0
        apart = (moved - base) * weight
        normal = einsum(slopes, slopes, weight[:, 0], "i c h w, j c h w, b h w -> b i j")
        slope = einsum(slopes, apart, "i c h w, b c h w -> b i")
        ridge = 1e-3 * slopes.square().sum() * torch.eye(2, device=maps.device)
        shift = shift - torch.linalg.solve(normal + ridge, slope)
    return _moved(maps, -shift)


def _frequencies(maps: Tensor) -> tuple[Float[Tensor, "h 1"], Float[Tensor, " w"]]:
    """Cycles a pixel of the real Fourier transform."""
    rows = torch.fft.fftfreq(maps.shape[-2], device=maps.device)[:, None]
    return rows, torch.fft.rfftfreq(maps.shape[-1], device=maps.device)


def _whole_shift(maps: Tensor, base: Tensor) -> Float[Tensor, "b 2"]:
    """Shift in whole pixels at which maps go best with the base, in what both have of edges."""
    rows, columns = _frequencies(maps)
    edges = (rows.square() + columns.square()).square()
    both = torch.fft.rfft2(maps) * torch.fft.rfft2(base).conj() * edges
    match = torch.fft.irfft2(both.sum(1), s=maps.shape[-2:])
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
