"""Maps that are one picture of a whole planet, north up, longitude -180 at its left edge."""

from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor

from icgeo.config import UsageError
from icgeo.data.orbit import read_world, to_uint8

MOST_PIXELS = 60_000_000
"""Of a picture that is kept in memory, 180 MB; larger ones are reduced."""
LEAST_SIDE = 32
"""Height in pixels of the coarsest level."""

Bounds = tuple[float, float, float, float]
"""South, west, north, east in degrees; west > east crosses the antimeridian."""
Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels of a level."""
Picture = tuple[UInt8[Tensor, "3 height width"], Bool[Tensor, "height width"]]
"""Colours, and where there are any."""


@dataclass(frozen=True, eq=False)
class PictureGrid:
    """The levels of a picture, in memory."""

    pyramid: tuple[UInt8[np.ndarray, "_ _ 3"], ...]
    is_round: bool = True
    bounds: None = None
    middle: tuple[float, float] = (0.0, 0.0)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the finest level in pixels."""
        height, width, _ = self.pyramid[0].shape
        return width, height

    @property
    def levels(self) -> int:
        """Number of levels."""
        return len(self.pyramid)

    def to_pixels(self, lat_lon: Float[Tensor, "places 2"]) -> Float[Tensor, "places 2"]:
        """Return column and row at the finest level."""
        (width, height), (lat, lon) = self.size, lat_lon.unbind(-1)
        return torch.stack(((lon + 180) / 360 * width, (90 - lat) / 180 * height), dim=-1)

    def read(self, level: int, box: Box) -> Picture:
        """Return the pixels of a box inside a level; all of them are known."""
        left, top, right, bottom = box
        part = torch.from_numpy(self.pyramid[level][top:bottom, left:right])
        return rearrange(part, "h w c -> c h w"), torch.ones(part.shape[:2], dtype=torch.bool)


def level_size(size: tuple[int, int], level: int) -> tuple[int, int]:
    """Return width and height of a level, given those of the finest."""
    width, height = (max(1, round(side / 2**level)) for side in size)
    return width, height


def open_picture(
    source: str | Path | Float[Tensor, "3 height width"],
) -> tuple[str, str, PictureGrid]:
    """Open a picture of a whole planet: a name of a world, a file, or a world in [0, 1].

    Returns:
        its name, its fingerprint, and its pixels.

    Raises:
        UsageError: it is not twice as wide as high.
        PhotoError: it cannot be read.
    """
    if isinstance(source, Tensor):
        if source.shape[-1] != 2 * source.shape[-2] or len(source) != 3:
            raise UsageError(
                "expected a world [3, height, width] in [0, 1], twice as wide as high, got "
                f"{list(source.shape)}"
            )
        pixels = rearrange(to_uint8(source), "c h w -> h w c").contiguous().numpy()
        picture, name = Image.fromarray(pixels), "world"
    else:
        picture, name = read_world(source), Path(source).stem
    if picture.width * picture.height > MOST_PIXELS:
        height = int((MOST_PIXELS / 2) ** 0.5)
        picture = picture.resize((2 * height, height), Image.Resampling.BOX)
    size, pyramid = picture.size, [np.array(picture)]
    while min(picture.size) > LEAST_SIDE:
        picture = picture.resize(level_size(size, len(pyramid)), Image.Resampling.BOX)
        pyramid.append(np.array(picture))
    fingerprint = blake2b(pyramid[0].tobytes(), digest_size=16).hexdigest()
    return name, fingerprint, PictureGrid(tuple(pyramid))
