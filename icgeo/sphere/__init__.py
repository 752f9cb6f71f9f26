"""Geometry on the unit sphere; its modules hold HEALPix, densities, best points and files.

Conventions: `lat_lon` is (latitude, longitude) in degrees, longitude in [-180, 180); `xyz` is a
unit vector; distances in km are on a sphere of radius 6371 km, as in OSV-5M and Plonk.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Generator, Tensor

EARTH_RADIUS_KM = 6371.0
AREA_KM2 = 4 * math.pi * EARTH_RADIUS_KM**2

# Sequence, because beartype does not take a tuple for numpy's ArrayLike
Values = Tensor | ArrayLike | Sequence[Any] | float
"""Numbers as a tensor, a NumPy array, a table's column or nested lists and tuples."""
Vectors = Float[Tensor, "*batch 3"]
Broadcast = Float[Tensor, "*#batch 3"]
"""Vectors that are as many as others, or one for all of them."""


def as_tensor(values: Values) -> Tensor:
    """Return a tensor as it is, other numbers as a copy in float64: torch may not write to them."""
    return values if isinstance(values, Tensor) else torch.from_numpy(np.array(values, float))


def as_lat_lon(values: Values) -> Float[Tensor, "*batch 2"]:
    """Wrap longitudes to [-180, 180); raise ValueError for no locations in degrees.

    Latitudes are from -90 to 90 and longitudes from -360 to 360.
    """
    lat_lon = as_tensor(values)
    if lat_lon.shape[-1:] != (2,):
        raise ValueError(
            f"expected locations (latitude, longitude) with a last dimension of 2, "
            f"got shape {tuple(lat_lon.shape)}"
        )
    lat_lon = lat_lon if lat_lon.is_floating_point() else lat_lon.double()
    lat, lon = lat_lon.unbind(-1)
    if (mask := ~(lat.abs() <= 90)).any():
        value = lat[mask][0].item()
        remedy = "leave it out" if math.isnan(value) else "are latitude and longitude swapped?"
        raise ValueError(f"expected latitude in [-90, 90] degrees, got {value:g}; {remedy}")
    if (mask := ~(lon.abs() <= 360)).any():
        raise ValueError(
            f"expected longitude in [-360, 360] degrees, got {lon[mask][0].item():g}; "
            "give it in degrees"
        )
    return torch.stack((lat, wrap_longitude(lon)), dim=-1)


def wrap_longitude(lon: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Bring longitudes in degrees to [-180, 180)."""
    wrapped = (lon + 180) % 360 - 180
    # rounding takes the first number below -180 to 180
    wrapped = torch.where(wrapped < 180, wrapped, -180)
    return torch.where((lon >= -180) & (lon < 180), lon, wrapped)


def to_xyz(lat_lon: Float[Tensor, "*batch 2"]) -> Vectors:
    """Convert latitude and longitude in degrees to unit vectors."""
    lat, lon = torch.deg2rad(lat_lon).unbind(-1)
    return torch.stack(
        (torch.cos(lat) * torch.cos(lon), torch.cos(lat) * torch.sin(lon), torch.sin(lat)), dim=-1
    )


def to_lat_lon(xyz: Vectors) -> Float[Tensor, "*batch 2"]:
    """Convert vectors of any positive length to latitude and longitude in degrees."""
    x, y, z = xyz.unbind(-1)
    lat = torch.rad2deg(torch.atan2(z, torch.hypot(x, y)))
    lon = wrap_longitude(torch.rad2deg(torch.atan2(y, x)))
    return torch.stack((lat, lon), dim=-1)


def angle(a: Broadcast, b: Broadcast) -> Float[Tensor, "*batch"]:
    """Return the angle in radians between unit vectors, exact from coincident to antipodal.

    `2 atan2(|a - b|, |a + b|)` (Kahan 2006, "How futile are mindless assessments of roundoff",
    section 12): `acos(a . b)` loses half of the digits near 0 and pi.
    """
    return 2 * torch.atan2((a - b).norm(dim=-1), (a + b).norm(dim=-1))


def distance_km(a: Values, b: Values) -> Tensor:
    """Return great-circle distances in km of locations in degrees, shapes [..., 2] broadcast.

    >>> round(distance_km((48.8566, 2.3522), (51.5074, -0.1278)).item())
    344
    """
    return EARTH_RADIUS_KM * angle(to_xyz(as_lat_lon(a)), to_xyz(as_lat_lon(b)))


def north_east(xyz: Vectors) -> tuple[Vectors, Vectors]:
    """Return unit tangents to north and east; at a pole those of the meridian of longitude 0."""
    lat, lon = torch.deg2rad(to_lat_lon(xyz)).unbind(-1)
    north = torch.stack(
        (-torch.sin(lat) * torch.cos(lon), -torch.sin(lat) * torch.sin(lon), torch.cos(lat)), dim=-1
    )
    return north, torch.stack((-torch.sin(lon), torch.cos(lon), torch.zeros_like(lat)), dim=-1)


def exp_map(base: Broadcast, tangent: Broadcast) -> Vectors:
    """Walk from `base` along the great circle of `tangent`, for its length in radians."""
    length = tangent.norm(dim=-1, keepdim=True)
    return torch.cos(length) * base + torch.sinc(length / math.pi) * tangent


def log_map(base: Broadcast, point: Broadcast) -> Vectors:
    """Return the tangent that `exp_map` walks to `point`; at the antipode, due north."""
    tangent = point - (base * point).sum(-1, keepdim=True) * base
    # once more: next to the antipode what is left is short, and rounding tilts it
    tangent = tangent - (base * tangent).sum(-1, keepdim=True) * base
    length = tangent.norm(dim=-1, keepdim=True)
    radians = angle(base, point)[..., None]
    north = north_east(base)[0].expand_as(tangent)
    # at the antipode it is nothing but rounding
    valid = length > 4 * torch.finfo(tangent.dtype).eps
    return radians * torch.where(valid, tangent / length.where(valid, 1), north)


def von_mises_fisher_log_prob(
    xyz: Broadcast, mean: Broadcast, kappa: float | Float[Tensor, "*#batch"]
) -> Float[Tensor, "*batch"]:
    """Return the log-density in nats per steradian of von Mises-Fisher distributions.

    `kappa / (4 pi sinh kappa) exp(kappa mean . x)` (Mardia and Jupp 2000, eq. 9.3.4), written with
    `mean . x - 1 = -|mean - x|^2 / 2` so that it is stable from kappa 0 (uniform) to 1e6.
    """
    kappa = torch.as_tensor(kappa, dtype=xyz.dtype, device=xyz.device)
    # log(kappa / sinh kappa) + kappa, finite from kappa 0 to infinity
    clamped_kappa = kappa.clamp_min(1e-12)
    log_ratio = torch.where(
        kappa > 1e-12, torch.log(2 * clamped_kappa / -torch.expm1(-2 * clamped_kappa)), kappa
    )
    return log_ratio - math.log(4 * math.pi) - kappa * (xyz - mean).square().sum(-1) / 2


def kappa_of_length(length: float, *, most: float = math.inf) -> float:
    """Estimate kappa from a mean vector (Banerjee et al. 2005, eq. 4.4), not above `most`.

    >>> round(kappa_of_length(0.9), 2)
    10.37
    """
    length = min(length, 1.0)
    return min(length * (3 - length**2) / max(1 - length**2, 1e-12), most)


def _scatter(
    centre: Vectors, fall: Float[Tensor, "*batch"], turn: Float[Tensor, "*batch"]
) -> Vectors:
    """Walk until the angle's cosine has fallen by `fall`, towards azimuth `turn` in full turns."""
    azimuth = 2 * math.pi * turn
    north, east = north_east(centre)
    direction = torch.cos(azimuth)[..., None] * north + torch.sin(azimuth)[..., None] * east
    return exp_map(centre, 2 * torch.asin((fall / 2).sqrt())[..., None] * direction)


def sample_von_mises_fisher(
    mean: Vectors, kappa: float | Float[Tensor, "*#batch"], *, generator: Generator | None = None
) -> Vectors:
    """Draw one unit vector around each mean (Ulrich 1984; exact inversion in three dimensions)."""
    options: dict[str, Any] = {"dtype": mean.dtype, "device": mean.device}
    kappa = torch.as_tensor(kappa, **options).expand(mean.shape[:-1])
    uniform, turn = (torch.rand(kappa.shape, generator=generator, **options) for _ in range(2))
    # 1 - cos(angle) = -log(1 - u (1 - exp(-2 kappa))) / kappa, with the limit 2 u at kappa = 0
    clamped_kappa = kappa.clamp_min(1e-9)
    fall = -torch.log1p(uniform * torch.expm1(-2 * clamped_kappa)) / clamped_kappa
    return _scatter(mean, torch.where(kappa > 1e-9, fall, 2 * uniform).clamp(0, 2), turn)


def sample_uniform(
    *shape: int, generator: Generator | None = None, dtype: torch.dtype = torch.float64
) -> Float[Tensor, "*shape 3"]:
    """Draw unit vectors uniformly over the sphere (normalised normal vectors; Muller 1959)."""
    sample = torch.randn(*shape, 3, generator=generator, dtype=dtype)
    return torch.nn.functional.normalize(sample, dim=-1, eps=1e-30)


def fibonacci_grid(count: int) -> Float[Tensor, "count 3"]:
    """Spread unit vectors of equal area along a golden spiral, pole to pole (Gonzalez 2010)."""
    number = torch.arange(count, dtype=torch.float64)
    z = 1 - (2 * number + 1) / count
    turn = 2 * math.pi * number / ((1 + math.sqrt(5)) / 2)
    radius = (1 - z.square()).sqrt()
    return torch.stack((radius * turn.cos(), radius * turn.sin(), z), dim=-1)


def sample_cap(
    centre: Vectors,
    radius_deg: float | Float[Tensor, "*#batch"],
    *,
    generator: Generator | None = None,
) -> Vectors:
    """Draw one unit vector uniformly over the cap of `radius_deg` around each centre."""
    options: dict[str, Any] = {"dtype": centre.dtype, "device": centre.device}
    radius = torch.deg2rad(torch.as_tensor(radius_deg, **options))
    share, turn = torch.rand(*centre.shape[:-1], 2, generator=generator, **options).unbind(-1)
    return _scatter(centre, share * 2 * torch.sin(radius / 2).square(), turn)


def random_rotation(
    *shape: int, generator: Generator | None = None, dtype: torch.dtype = torch.float64
) -> Float[Tensor, "*shape 3 3"]:
    """Draw rotation matrices uniformly (QR of normal matrices; Mezzadri 2007)."""
    matrix = torch.randn(*shape, 3, 3, generator=generator, dtype=dtype)
    rotation, upper = torch.linalg.qr(matrix)
    rotation = rotation * upper.diagonal(dim1=-2, dim2=-1).sign()[..., None, :]
    return rotation * torch.linalg.det(rotation)[..., None, None]


def spherical_mean(
    xyz: Float[Tensor, "*batch points 3"], weights: Float[Tensor, "*batch points"] | None = None
) -> Vectors:
    """Return the mean direction: the normalised sum (Mardia and Jupp 2000, eq. 9.2.1).

    Where the sum vanishes (antipodal points) no mean exists; the heaviest point is returned.
    """
    if xyz.shape[-2] == 0:
        raise ValueError("expected at least one location, got none")
    weight = (torch.ones_like(xyz[..., 0]) if weights is None else weights)[..., None]
    total = (weight * xyz).sum(-2)
    fallback = xyz.take_along_dim(weight.argmax(-2, keepdim=True), dim=-2).squeeze(-2)
    length = total.norm(dim=-1, keepdim=True)
    exists = length > 1e-9 * weight.sum(-2)
    return torch.where(exists, total / length.where(exists, 1), fallback)
