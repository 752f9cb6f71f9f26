"""Procedural worlds: seeded equirectangular pictures of planets that nobody has seen.

A world has values in [0, 1], north up and longitude -180 at the left edge. Every family is built
from noise in three dimensions, sampled on the sphere, so that it has neither a seam nor a pole.
"""

import math
from collections.abc import Callable

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Generator, Tensor
from torch.nn import functional

from icgeo import sphere

Points = Float[Tensor, "height width 3"]
Field = Float[Tensor, "height width"]
World = Float[Tensor, "3 height width"]

LATTICE = 32  # period of the noise in cells


def pixel_xyz(height: int) -> Points:
    """Return the unit vectors of the pixel centres of an equirectangular picture."""
    lat = 90 - (torch.arange(height) + 0.5) * 180 / height
    lon = (torch.arange(2 * height) + 0.5) * 180 / height - 180
    return sphere.to_xyz(torch.stack(torch.meshgrid(lat, lon, indexing="ij"), dim=-1))


def _uniform(low: float, high: float, generator: Generator) -> float:
    return low + (high - low) * torch.rand((), generator=generator).item()


def value_noise(xyz: Points, frequency: float, channels: int, generator: Generator) -> Tensor:
    """Draw smooth noise [channels, height, width], unit variance, `frequency` kernels a radius."""
    lattice = torch.randn(channels, *3 * [LATTICE], generator=generator)
    lattice = functional.pad(lattice[None], 3 * (0, 1), mode="circular")
    turn = sphere.random_rotation(generator=generator, dtype=torch.float32)
    shift = LATTICE * torch.rand(3, generator=generator)
    cell = (einsum(xyz, turn, "h w i, j i -> h w j") * frequency + shift) % LATTICE
    corner = cell.floor()
    fraction = cell - corner
    position = corner + fraction * fraction * (3 - 2 * fraction)
    grid = rearrange(position * 2 / LATTICE - 1, "h w c -> 1 1 h w c")
    noise = functional.grid_sample(lattice, grid, align_corners=True)[0, :, 0]
    return noise / noise.std().clamp_min(1e-6)


def fractal(
    xyz: Points, generator: Generator, *, frequency: float, octaves: int = 6, channels: int = 1
) -> Float[Tensor, "channels height width"]:
    """Draw fractional Brownian noise of unit variance (Musgrave 1994): octaves, ever weaker."""
    total = torch.zeros(channels, *xyz.shape[:2])
    for octave in range(octaves):
        total += 0.55**octave * value_noise(xyz, frequency * 2**octave, channels, generator)
    return total / total.std(dim=(1, 2), keepdim=True).clamp_min(1e-6)


def _ranks(field: Field) -> Field:
    """Map a field of about unit variance to [0, 1], evenly filled."""
    return torch.special.ndtr((field - field.mean()) / field.std().clamp_min(1e-6))


def _colours(count: int, generator: Generator) -> Float[Tensor, "count 3"]:
    """Draw colours around one tint, some near it and some far from it."""
    tint = torch.rand(1, 3, generator=generator)
    spread = torch.rand(count, 3, generator=generator)
    return (0.1 + 0.35 * tint + 0.55 * spread).clamp(0, 1)


def colour_ramp(values: Field, colours: Float[Tensor, "count channels"]) -> Tensor:
    """Colour values in [0, 1] linearly between evenly spaced colours: [channels, height, width]."""
    place = values.clamp(0, 1) * (len(colours) - 1)
    below = place.floor().long().clamp_max(len(colours) - 2)
    weight = (place - below)[..., None]
    blend = colours[below] * (1 - weight) + colours[below + 1] * weight
    return rearrange(blend, "h w c -> c h w")


def _shade(height: Field, strength: float) -> Field:
    """Return relief as a brightness factor: slopes to the west are lit."""
    east = torch.roll(height, -1, dims=1) - torch.roll(height, 1, dims=1)
    return 1 + strength * torch.tanh(east / east.std().clamp_min(1e-6))


def _tinted(world: World, xyz: Points, generator: Generator, strength: float = 0.12) -> World:
    """Let the colour drift from region to region, as it does on real planets."""
    drift = fractal(xyz, generator, frequency=1.2, octaves=3, channels=3)
    return (world + strength * drift).clamp(0, 1)


def terrain(xyz: Points, generator: Generator) -> World:
    """Paint continents and seas, coloured by height and by moisture."""
    height, moisture = fractal(xyz, generator, frequency=_uniform(1, 2.5, generator), channels=2)
    land = _ranks(height) > _uniform(0.3, 0.7, generator)
    dry_ground, wet_ground = (colour_ramp(_ranks(height), _colours(4, generator)) for _ in range(2))
    mix = _ranks(moisture)
    ground = (dry_ground * mix + wet_ground * (1 - mix)) * _shade(height, 0.25)
    sea = colour_ramp(_ranks(height), _colours(3, generator) * 0.6)
    return _tinted(torch.where(land, ground, sea), xyz, generator, 0.05)


def craters(xyz: Points, generator: Generator) -> World:
    """Paint impact craters of all sizes on grey plains, as on the Moon and Mercury."""
    height = 0.5 * fractal(xyz, generator, frequency=2)[0]
    albedo = fractal(xyz, generator, frequency=1.3, octaves=5)[0]
    radii = 2.2 * (1 - torch.rand(220, generator=generator)) ** -0.8
    centres = sphere.sample_uniform(220, generator=generator, dtype=torch.float32)
    for centre, radius_deg in zip(centres, radii, strict=True):
        radius = math.radians(min(radius_deg.item(), 22.0))
        reach = (xyz - centre).norm(dim=-1) / radius
        # a bowl, a rim at one radius, nothing beyond 1.6
        bowl = (reach.square() - 1).clamp_max(0)
        rim = torch.exp(-((reach - 1) / 0.18).square())
        height = height + (bowl + 0.9 * rim) * radius * 6
        albedo = albedo + _uniform(-0.6, 0.9, generator) * torch.exp(-(reach / 1.3).square())
    grey = colour_ramp(_ranks(albedo), _colours(3, generator))
    return _tinted((grey * _shade(height, 0.4)).clamp(0, 1), xyz, generator, 0.05)


def bands(xyz: Points, generator: Generator) -> World:
    """Paint stripes along the parallels of some axis, stirred, with oval storms, as on Jupiter."""
    axis = sphere.sample_uniform(generator=generator, dtype=torch.float32)
    stir = fractal(xyz, generator, frequency=2.5, octaves=5, channels=2)
    lat = xyz @ axis + 0.06 * stir[0]
    profile = torch.randn(24, 1, generator=generator)
    stripes = colour_ramp((lat + 1.2) / 2.4, profile)[0] + 0.25 * stir[1]
    for centre in sphere.sample_uniform(12, generator=generator, dtype=torch.float32):
        reach = (xyz - centre).norm(dim=-1) / _uniform(0.08, 0.35, generator)
        stripes = stripes + _uniform(-3, 3, generator) * torch.exp(-reach.square())
    return _tinted(colour_ramp(_ranks(stripes), _colours(5, generator)), xyz, generator)


def cells(xyz: Points, generator: Generator) -> World:
    """Paint coloured plates with dark seams: a Voronoi diagram of the sphere, warped."""
    warp = rearrange(fractal(xyz, generator, frequency=4, octaves=4, channels=3), "c h w -> h w c")
    points = functional.normalize(xyz + _uniform(0.02, 0.08, generator) * warp, dim=-1)
    count = int(_uniform(60, 400, generator))
    centres = sphere.sample_uniform(count, generator=generator, dtype=torch.float32)
    neighbours = einsum(points, centres, "h w i, n i -> h w n").topk(2, dim=-1)
    seam = ((neighbours.values[..., 0] - neighbours.values[..., 1]) * count / 12).clamp(0, 1) ** 0.5
    plates = rearrange(_colours(count, generator)[neighbours.indices[..., 0]], "h w c -> c h w")
    grain = 1 + 0.12 * fractal(xyz, generator, frequency=8, octaves=4)[0]
    return _tinted((plates * (0.25 + 0.75 * seam) * grain).clamp(0, 1), xyz, generator, 0.05)


def dunes(xyz: Points, generator: Generator) -> World:
    """Paint wavy ridges whose course and colour change from region to region, as on Titan."""
    course = fractal(xyz, generator, frequency=1.2, octaves=4)[0]
    ridges = torch.sin(course * _uniform(8, 20, generator))
    cover = fractal(xyz, generator, frequency=2, octaves=5)[0]
    sand = colour_ramp(_ranks(cover), _colours(5, generator))
    strength = 0.35 * torch.sigmoid(2 * fractal(xyz, generator, frequency=1.5, octaves=3)[0])
    return _tinted((sand * (1 + strength * ridges)).clamp(0, 1), xyz, generator)


def ice(xyz: Points, generator: Generator) -> World:
    """Paint bright plains crossed by dark cracks and great-circle lines, as on Europa."""
    plains = fractal(xyz, generator, frequency=1.5, octaves=5)[0]
    folds = (fractal(xyz, generator, frequency=f, octaves=4)[0] for f in (1.5, 3.0))
    cracks = sum(torch.exp(-(fold / 0.08).square()) for fold in folds)
    wobble = 0.05 * fractal(xyz, generator, frequency=2, octaves=4)[0]
    lines = torch.zeros_like(plains)
    for normal in sphere.sample_uniform(30, generator=generator, dtype=torch.float32):
        offset = _uniform(-0.8, 0.8, generator)
        width = _uniform(0.008, 0.03, generator)
        lines = lines + torch.exp(-((xyz @ normal + wobble - offset) / width).square())
    ground = 0.35 + 0.65 * colour_ramp(_ranks(plains), _colours(4, generator))
    stain = rearrange(_colours(1, generator)[0] * 0.5, "c -> c 1 1")
    cover = (0.7 * (cracks + lines)).clamp(0, 0.9)
    return _tinted(ground * (1 - cover) + stain * cover, xyz, generator, 0.06)


def rivers(xyz: Points, generator: Generator) -> World:
    """Paint uplands cut by branching dark valleys that end in plains, as on Mars and Titan."""
    height = fractal(xyz, generator, frequency=_uniform(1.5, 3, generator), octaves=7)[0]
    upland = torch.sigmoid(2 * height)
    # valleys follow the folds of a field, finer ones join coarser ones where both run low
    valleys = torch.zeros_like(height)
    for number in range(4):
        fold = fractal(xyz, generator, frequency=2.0 * 1.7**number, octaves=4)[0]
        width = 0.05 * 1.25**number
        valleys = torch.maximum(valleys, 0.8**number * torch.exp(-(fold / width).square()))
    soil = fractal(xyz, generator, frequency=1.8, octaves=5)[0]
    ground = colour_ramp(_ranks(soil), _colours(4, generator)) * _shade(height, 0.3)
    bed = rearrange(_colours(1, generator)[0] * 0.6, "c -> c 1 1")
    cover = (0.85 * valleys * upland).clamp(0, 0.9)
    return _tinted((ground * (1 - cover) + bed * cover).clamp(0, 1), xyz, generator, 0.06)


def flows(xyz: Points, generator: Generator) -> World:
    """Paint overlapping lava flows: lobes around vents, each of its own age, colour and grain."""
    ground = fractal(xyz, generator, frequency=1.5, octaves=5)[0]
    world = colour_ramp(_ranks(ground), _colours(3, generator))
    edge = fractal(xyz, generator, frequency=5, octaves=5)[0]
    grain = fractal(xyz, generator, frequency=9, octaves=4)[0]
    palette = _colours(24, generator)
    vents = sphere.sample_uniform(150, generator=generator, dtype=torch.float32)
    for number, vent in enumerate(vents):
        radius = _uniform(0.05, 0.3, generator)
        reach = (xyz - vent).norm(dim=-1) / radius + 0.35 * edge
        lobe = torch.sigmoid(12 * (1 - reach))
        tone = 0.8 + 0.25 * reach.clamp(0, 1) + _uniform(0.03, 0.12, generator) * grain
        colour = rearrange(palette[number % len(palette)], "c -> c 1 1") * tone
        world = torch.lerp(world, colour, 0.85 * lobe)
    return _tinted(world.clamp(0, 1), xyz, generator, 0.05)


def mixture(xyz: Points, generator: Generator) -> World:
    """Paint two training families on one planet, each on its own continents."""
    families = (terrain, bands, dunes, ice)
    first, second = torch.randperm(len(families), generator=generator)[:2].tolist()
    mask = torch.sigmoid(6 * fractal(xyz, generator, frequency=1.5, octaves=5)[0])
    return families[first](xyz, generator) * mask + families[second](xyz, generator) * (1 - mask)


FAMILIES: dict[str, Callable[[Points, Generator], World]] = {
    paint.__name__: paint
    for paint in (terrain, bands, dunes, ice, mixture, craters, cells, rivers, flows)
}
TRAINING_FAMILIES = ("terrain", "bands", "dunes", "ice", "mixture")
HELD_OUT_FAMILIES = ("craters", "cells")
"""No training sees them, but they have steered development."""
UNSEEN_FAMILIES = ("rivers", "flows")
"""Neither training nor development has seen these: for final evaluations alone."""


def procedural_world(family: str, *, generator: Generator | int, height: int = 384) -> World:
    """Draw a world of a family; the same generator state gives the same world."""
    if family not in FAMILIES:
        raise ValueError(f"expected a family of {sorted(FAMILIES)}, got {family!r}")
    if isinstance(generator, int):
        generator = torch.Generator().manual_seed(generator)
    return FAMILIES[family](pixel_xyz(height), generator).clamp(0, 1)
