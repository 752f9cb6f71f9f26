"""The first level of the zoom: a map as an index of overlapping views of several scales.

Views twice as wide as a scale are cut on an even grid (HEALPix), and their cells described as parts
are (`icgeo.models.matching`). Every window of `WINDOW` x `WINDOW` cells is then a view that the
query may be, and has a short descriptor: its cells, pooled and projected to their main components.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import IO

import torch
from einops import rearrange, repeat
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from icgeo import sphere
from icgeo.config import UsageError
from icgeo.data.base_maps import BaseMap
from icgeo.data.map_cache import kept
from icgeo.data.poses import Poses
from icgeo.sphere.healpix import cell_lat_lon, cell_of, cell_side

Describe = Callable[[UInt8[Tensor, "photos 3 size size"]], Float[Tensor, "photos cells channels"]]
"""Gives photos of any size that 4 divides the descriptors of their cells of 4 x 4 pixels."""

CELL = 4
WINDOW = 8
"""Cells of a window in each direction: the query is seen at 32 pixels."""
POOLED = 4
CHANNELS = 128
MOST_LEARNED = 4000
"""Windows from which the main components are learned, at least so many if there are."""
WIDEST_DEG, SCALE_STEP = 59.4, math.sqrt(2)
"""Fields of view that are tried: from the widest down, by this factor."""
MOST_WIDE_DEG, TILES_AT_ONCE = 16.0, 32
"""Below this field of view tiles are 4 times as wide as it, above only twice: gnomonic views of
more than 60 degrees are too distorted."""
PIXELS_WIDE = 28
"""A view that is so few pixels of the map wide is the narrowest that is tried."""
NARROWEST_DEG = 3.7
CROPS = (1.0, 0.84)
"""Parts of the query that are looked for: in between two scales."""
TURN_DEG = 30.0
LEAST_COVER = 0.75
"""Share of a view that the map has to show."""
VERSION = 1
"""Of how an index is made: another one makes those on disk anew."""


def fields_of_view(resolution_deg: float, extent_deg: float = 180.0) -> list[float]:
    """Return the fields of view that are tried on a map, in degrees, the widest first.

    >>> tuple(round(field, 1) for field in fields_of_view(0.35))
    (59.4, 42.0, 29.7, 21.0, 14.8, 10.5)
    """
    least = max(PIXELS_WIDE * resolution_deg, min(NARROWEST_DEG, extent_deg / 8))
    widest = min(WIDEST_DEG, extent_deg)
    count = max(1, 1 + math.floor(math.log(widest / least, SCALE_STEP) + 1e-9))
    return [widest / SCALE_STEP**number for number in range(count)]


@dataclass(frozen=True, eq=False)
class MapIndex:
    """Descriptors of the views that a query may be."""

    poses: Poses
    descriptors: Float[Tensor, "views channels"]
    """Of unit length."""
    mean: Float[Tensor, " pooled"]
    components: Float[Tensor, "pooled channels"]

    @classmethod
    def build(cls, base_map: BaseMap, describe: Describe) -> "MapIndex":
        """Cut the views of a map and describe them; north is up in all of them.

        Raises:
            UsageError: the map shows too little of every view.
        """
        poses = []
        fields = fields_of_view(base_map.resolution_deg, _extent(base_map))
        with TemporaryFile() as stream:  # up to a gigabyte, too much for the memory
            for field in tqdm(fields, desc="indexing the map", disable=None, leave=False):
                for views, windows in _windows(base_map, field, describe):
                    poses.append(views)
                    stream.write(windows.half().numpy().tobytes())
            if not poses:
                raise UsageError(
                    f"expected a map that shows whole views, got {base_map.name}, which has too "
                    "little in every one of them; is it mostly without data?"
                )
            mean, components, descriptors = _components(stream, [len(one) for one in poses])
        joined = (torch.cat([getattr(one, name) for one in poses]) for name in _FIELDS)
        return cls(Poses(*joined), descriptors, mean, components)

    @classmethod
    def open(cls, base_map: BaseMap, describe: Describe, key: str) -> "MapIndex":
        """Read the index of a map from disk, or build it and keep it; `key` is of the describer."""

        def make() -> dict[str, Tensor]:
            index = cls.build(base_map, describe)
            poses = {name: getattr(index.poses, name) for name in _FIELDS}
            return poses | {name: getattr(index, name) for name in _TENSORS}

        tensors = kept(base_map, ("zoom", VERSION, key), make)
        poses = Poses(*(tensors[name] for name in _FIELDS))
        return cls(poses, *(tensors[name] for name in _TENSORS))

    def search(
        self, photo: UInt8[Tensor, "3 size size"], describe: Describe, *, heading_deg: float | None
    ) -> tuple[Poses, Float[Tensor, "tries views"]]:
        """Compare a photo with every view, turned and cropped in several ways.

        Args:
            photo: the query.
            describe: as the index was built with.
            heading_deg: the compass direction of its upper edge; None tries them all.

        Returns:
            how each try changes a pose (only its heading and field of view count), and likenesses.
        """
        turns = (
            torch.arange(0, 360, TURN_DEG) if heading_deg is None else torch.tensor([heading_deg])
        )
        crop, turn = torch.cartesian_prod(torch.tensor(CROPS), turns.float()).unbind(-1)
        tries = turned(photo, turn, crop, size=CELL * WINDOW)
        pooled = _pooled(_grid(describe(tries)))[:, 0]
        likeness = functional.normalize((pooled - self.mean) @ self.components, dim=-1)
        how = Poses(torch.zeros(len(turn), 3).double(), crop.double(), turn.double())
        return how, likeness @ self.descriptors.T


_FIELDS = ("xyz", "field_of_view_deg", "heading_deg")
_TENSORS = ("descriptors", "mean", "components")


def _components(stream: IO[bytes], counts: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean and the main components of windows in a file, and all by these."""

    def parts() -> Iterator[Float[Tensor, "views pooled"]]:
        wide = stream.tell() // sum(counts)
        stream.seek(0)
        for count in counts:
            content = bytearray(stream.read(wide * count))
            yield torch.frombuffer(content, dtype=torch.half).view(count, -1)

    every = max(1, len(counts) // 50)
    step = max(1, sum(-(-count // every) for count in counts) // MOST_LEARNED)
    samples: list[Tensor] = []
    before = 0
    for part in parts():
        thinned = part[::every]
        samples.append(thinned[-before % step :: step].float())  # a copy: the part itself may go
        before += len(thinned)
    some = torch.cat(samples)
    mean = some.mean(0)
    _, vectors = torch.linalg.eigh((some - mean).T @ (some - mean))
    components = vectors[:, -CHANNELS:].contiguous()
    descriptors = torch.empty(sum(counts), components.shape[1])
    for target, part in zip(descriptors.split(list(counts)), parts(), strict=True):
        target[:] = functional.normalize((part.float() - mean) @ components, dim=-1)
    return mean, components, descriptors


def _extent(base_map: BaseMap) -> float:
    """Return the shorter side of a map in degrees on the ground."""
    if base_map.bounds is None:
        return 180.0
    south, west, north, east = base_map.bounds
    middle = math.radians((south + north) / 2)
    return min(north - south, ((east - west) % 360 or 360) * math.cos(middle))


def turned(
    photo: UInt8[Tensor, "3 side side"],
    turn_deg: Float[Tensor, " tries"],
    crop: Float[Tensor, " tries"],
    *,
    size: int,
) -> UInt8[Tensor, "tries 3 size size"]:
    """Turn a photo so that north is up if its heading is that turn, and crop its middle."""
    angle = torch.deg2rad(turn_deg)
    cos, sin, zero = crop * angle.cos(), crop * angle.sin(), torch.zeros_like(crop)
    matrix = rearrange([cos, sin, zero, -sin, cos, zero], "(r c) t -> t r c", r=2)
    fine = 2 * size  # the mean of 2 x 2 places is a pixel
    grid = functional.affine_grid(matrix, [len(crop), 3, fine, fine], align_corners=False)
    image = repeat(photo.float(), "c h w -> t c h w", t=len(crop))
    sampled = functional.grid_sample(image, grid, padding_mode="reflection", align_corners=False)
    return functional.avg_pool2d(sampled, 2).round().to(torch.uint8)


def _grid(cells: Float[Tensor, "n cells channels"]) -> Float[Tensor, "n channels side side"]:
    return rearrange(cells, "n (h w) c -> n c h w", h=math.isqrt(cells.shape[1]))


def _pooled(cells: Float[Tensor, "n channels rows columns"]) -> Float[Tensor, "n windows pooled"]:
    """Pool the cells of every window of `WINDOW` x `WINDOW` to `POOLED` x `POOLED` means.

    Of a corner one cell of four counts: a photo that is turned does not show the others.
    """
    across = cells.shape[-1] - WINDOW + 1
    step, last = WINDOW // POOLED, WINDOW - 1
    means, ends = functional.avg_pool2d(cells, step, stride=1), {0: 1, last - 1: last - 1}
    first = [
        (ends[row], ends[column], cells / step**2)
        if row in ends and column in ends
        else (row, column, means)
        for row in range(0, WINDOW, step)
        for column in range(0, WINDOW, step)
    ]
    blocks = [x[..., row : row + across, column : column + across] for row, column, x in first]
    pooled = rearrange(torch.stack(blocks), "b n c h w -> n (h w) (c b)")
    return functional.normalize(pooled, dim=-1)


def _windows(
    base_map: BaseMap, field: float, describe: Describe
) -> Iterator[tuple[Poses, Float[Tensor, "views pooled"]]]:
    """Cut tiles wider than a field of view; describe the windows whose centre is theirs alone."""
    wide = 2 if field > MOST_WIDE_DEG else 4
    nside = 1
    while math.degrees(cell_side(nside)) > 0.7 * (wide - 1) * field:
        nside *= 2
    half = wide * math.tan(math.radians(field / 2))
    cells = torch.arange(12 * nside**2)
    cells = cells[_inside(base_map, cell_lat_lon(cells, nside), math.degrees(cell_side(nside)))]
    step = torch.arange((wide - 1) * WINDOW + 1).double() * 2 / (wide * WINDOW) - (1 - 1 / wide)
    down, right = torch.meshgrid(step, step, indexing="ij")
    places = torch.stack((right, down), dim=-1).flatten(0, 1)
    shrunk = (torch.eye(2, dtype=places.dtype) / wide).expand(len(places), 2, 2)
    warps = torch.cat((shrunk, places[..., None]), dim=-1)
    for some in cells.split(4 * TILES_AT_ONCE // wide**2):
        xyz = sphere.to_xyz(cell_lat_lon(some, nside))
        field_of_view = torch.full_like(xyz[:, 0], 2 * math.degrees(math.atan(half)))
        tiles = Poses(xyz, field_of_view, torch.zeros_like(field_of_view))
        images, mask = base_map.views(
            tiles.lat_lon, tiles.field_of_view_deg, tiles.heading_deg, size=wide * CELL * WINDOW
        )
        rays = tiles.rays(places[None])
        cover = functional.avg_pool2d(mask.float()[:, None], CELL * WINDOW, CELL).flatten(1)
        inside = (cell_of(sphere.to_lat_lon(rays), nside) == some[:, None]) & (cover >= LEAST_COVER)
        tile, place = inside.nonzero().unbind(-1)
        if len(tile):
            windows = _pooled(_grid(describe(images)))[inside]
            yield tiles[tile].warped(warps[place]), windows


def _inside(base_map: BaseMap, lat_lon: Float[Tensor, "n 2"], margin_deg: float) -> Tensor:
    """Return which places lie in the bounds of a map, or about so near."""
    if base_map.bounds is None:
        return torch.ones(len(lat_lon), dtype=torch.bool)
    south, west, north, east = base_map.bounds
    lat, lon = lat_lon.unbind(-1)
    wide = margin_deg / torch.cos(torch.deg2rad(lat)).clamp_min(0.02)
    span = (east - west) % 360 or 360.0
    across = (lon - west + wide) % 360 <= span + 2 * wide
    return (
        (lat >= south - margin_deg)
        & (lat <= north + margin_deg)
        & (across | (span + 2 * wide >= 360))
    )
