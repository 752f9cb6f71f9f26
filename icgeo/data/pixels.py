"""Photos as models take them: the middle square, scaled, and other views of it."""

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


def augment(
    photos: UInt8[Tensor, "photos 3 size size"], key: str
) -> UInt8[Tensor, "photos 3 size size"]:
    """Crop each photo and change its exposure, by its content and a key; nothing is flipped."""
    size = photos.shape[-1]
    results = []
    for photo in photos:
        generator = seeded_generator(key.encode() + photo.numpy().tobytes(), bits=56)
        zoom, right, down, stops = torch.rand(4, generator=generator).tolist()
        side = round(size * (0.8 + 0.2 * zoom))
        left, top = round(right * (size - side)), round(down * (size - side))
        crop = photo[None, :, top : top + side, left : left + side].float()
        scaled = functional.interpolate(crop, (size, size), mode="bilinear", antialias=True)[0]
        results.append((scaled * 2 ** (stops - 0.5)).round().clamp(0, 255).to(torch.uint8))
    return torch.stack(results)
