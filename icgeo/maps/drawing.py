"""Draw locations and densities on maps.

Conventions: a location is a von Mises-Fisher (vMF) kernel exp(kappa (cos d - 1)) of the distance d
in radians, taken at pixel centres; image = base (1 - kernel) + colour kernel, so that maps are
linear in the density and a mixture draws as the mixture of its maps.
"""

from functools import lru_cache

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from icgeo.maps.basemap import base_image
from icgeo.maps.style import MERCATOR_LATITUDE, MapStyle
from icgeo.sphere import Values, as_lat_lon, to_xyz
from icgeo.sphere.density import Density
from icgeo.sphere.healpix import cell_xyz


@lru_cache(maxsize=16)
def contrast(style: MapStyle) -> Float[Tensor, "3 height width"]:
    """Colour of the heatmap less the base: how the image changes where the kernel is 1; cached.

    Raises:
        ValueError: a heatmap that cannot be told from its base.
    """
    change = torch.tensor(style.colour)[:, None, None] - base_image(style)
    strength = change.abs() if len(style.sigma_deg) == 3 else change.norm(dim=0)
    if strength.min() < 0.1:
        raise ValueError(
            f"expected a heatmap that stands out from the base, got colour {style.colour} in "
            f"{len(style.sigma_deg)} widths on base {style.base!r}; three widths need a blank base"
        )
    return change


@lru_cache(maxsize=16)
def _pixel_xyz(style: MapStyle) -> Float[Tensor, "3 pixels"]:
    return rearrange(to_xyz(style.pixel_lat_lon()), "h w xyz -> xyz (h w)").contiguous()


def _kernels(xyz: Float[Tensor, "*batch 3"], style: MapStyle) -> Float[Tensor, "*batch 3 pixels"]:
    """Kernels around unit vectors, in [0, 1], float32."""
    # in float64 as far as the exponent: kappa is 50,000 for a sigma of a quarter degree
    fall = (xyz.double() @ _pixel_xyz(style).to(xyz.device) - 1).clamp_max(0)
    kernels = [torch.exp((kappa * fall).float()) for kappa in style.kappas]
    return torch.stack(kernels if len(kernels) == 3 else 3 * kernels, dim=-2)


def _blend(opacity: Float[Tensor, "*batch 3 pixels"], style: MapStyle) -> Tensor:
    """Lay a heatmap on the base."""
    opacity = rearrange(opacity, "... c (h w) -> ... c h w", h=style.height)
    return base_image(style).to(opacity) + contrast(style).to(opacity) * opacity


def draw(locations: Values, style: MapStyle) -> Float[Tensor, "*batch 3 height width"]:
    """Draw each location on its own map, float32 in [0, 1], on the device of the locations.

    A location off the map leaves there what its kernel reaches, or nothing.

    Raises:
        ValueError: no location, or beyond 85.05 degrees of latitude on Web Mercator.
    """
    lat_lon = as_lat_lon(locations)
    if style.projection == "web_mercator" and (lat_lon[..., 0].abs() > MERCATOR_LATITUDE).any():
        raise ValueError(
            "expected latitudes within 85.05 degrees for Web Mercator, got "
            f"{lat_lon[..., 0].abs().max():g}; use equirectangular or equal_area"
        )
    return _blend(_kernels(to_xyz(lat_lon.double()), style), style)


def draw_density(
    density: Density | Float[Tensor, "*batch cells"], style: MapStyle
) -> Float[Tensor, "*batch 3 height width"]:
    """Draw the mean map of locations that follow the density, or masses of HEALPix cells."""
    mass = density.mass if isinstance(density, Density) else density
    cells = cell_xyz(round((mass.shape[-1] / 12) ** 0.5))
    heavy = mass.reshape(-1, mass.shape[-1]).any(0).nonzero().squeeze(-1)
    opacity = torch.zeros(*mass.shape[:-1], 3, style.height * style.width, device=mass.device)
    for part in torch.split(heavy, 512):
        kernels = _kernels(cells.to(mass.device)[part], style)
        opacity += torch.einsum("...n,ncp->...cp", mass[..., part].float(), kernels)
    return _blend(opacity, style)
