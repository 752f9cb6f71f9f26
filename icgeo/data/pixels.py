"""Photos as models take them: as they are or the middle square, scaled, and other views."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from einops import rearrange
from jaxtyping import UInt8
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional

from icgeo.data.photos import Photo, read_for_model
from icgeo.seeds import seeded_generator


def square_pixels(photos: Sequence[Photo], size: int) -> UInt8[Tensor, "photos 3 size size"]:
    """Read photos, cut the middle square of each and scale it to the model's size."""
    squares = [
        ImageOps.fit(read_for_model(photo, size), (size, size), Image.Resampling.BOX)
        for photo in photos
    ]
    pixels = np.array(squares, dtype=np.uint8).reshape(-1, size, size, 3)
    return rearrange(torch.from_numpy(pixels), "n h w c -> n c h w").contiguous()


def shaped_pixels(
    photos: Sequence[Photo], size: int, *, patch: int, enlarge: bool = False
) -> list[UInt8[Tensor, "3 _ _"]]:
    """Read photos in their own shapes, of at most the area of a square of a size.

    Both sides are cut to multiples of `patch` pixels. Small photos are not made larger, unless
    `enlarge` says so.
    """
    max_side = size**2 // patch  # of a strip of one patch
    results = []
    for photo in (read_for_model(photo, size) for photo in photos):
        scale = min(size / math.sqrt(photo.width * photo.height), math.inf if enlarge else 1.0)
        width, height = (
            min(max(math.floor(scale * side / patch + 1e-6), 1) * patch, max_side)
            for side in photo.size
        )
        pixels = np.array(ImageOps.fit(photo, (width, height), Image.Resampling.BOX))
        results.append(rearrange(torch.from_numpy(pixels), "h w c -> c h w").contiguous())
    return results


def augment(
    photos: UInt8[Tensor, "photos 3 high wide"], key: str
) -> UInt8[Tensor, "photos 3 high wide"]:
    """Crop each photo and change its exposure, by its content and a key; nothing is flipped."""
    height, width = photos.shape[-2:]
    results = []
    for photo in photos:
        generator = seeded_generator(key.encode() + photo.numpy().tobytes(), bits=56)
        zoom, right, down, stops = torch.rand(4, generator=generator).tolist()
        rows, columns = (round(side * (0.8 + 0.2 * zoom)) for side in (height, width))
        left, top = round(right * (width - columns)), round(down * (height - rows))
        crop = photo[None, :, top : top + rows, left : left + columns].float()
        image = functional.interpolate(crop, (height, width), mode="bilinear", antialias=True)[0]
        results.append((image * 2 ** (stops - 0.5)).round().clamp(0, 255).to(torch.uint8))
    return torch.stack(results)
