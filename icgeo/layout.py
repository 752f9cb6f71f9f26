"""How examples are laid out for a pretrained model, and what it is told of them in words."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

EARTH, UNKNOWN = "earth", "unknown world"

_SHOWN = {
    ("references", True): (
        "The reference images come in pairs: first a photo, then a map on which a red dot marks "
        "the place where that photo was taken. The last reference image is a photo without a map. "
    ),
    ("references", False): "The reference image is a photo. ",
    ("panel", True): (
        "Each row of the picture is a photo and, to its right, a map on which a red dot marks the "
        "place where that photo was taken. In the last row the dot is missing. Keep all else. "
    ),
    ("panel", False): (
        "The picture is a photo and, to its right, a map on which a red dot is missing. Keep all "
        "else. "
    ),
    ("frames", True): (
        "The frames come in pairs: first a photo, then a map on which a red dot marks the place "
        "where that photo was taken. The frame before the last is a photo, the last is its map. "
    ),
    ("frames", False): "The first frame is a photo, the last is its map. ",
}
TASK = (
    "Draw the map of the last photo: the same map, pixel for pixel, with one red dot at the place "
    "where the photo was taken, and nothing else."
)
_WORLD = {
    EARTH: " The map shows the whole Earth, north up, from 180 degrees west to 180 degrees east.",
    UNKNOWN: " The photos show an unknown planet; only the examples tell where things are.",
}


def instruction(prompt: str, *, shots: int, layout: str = "references") -> str:
    """Return the instruction for a model that is shown pairs in a layout.

    Raises:
        ValueError: neither "earth" nor "unknown world".
    """
    if prompt not in _WORLD:
        raise ValueError(f"expected a prompt of {sorted(_WORLD)}, got {prompt!r}")
    return _SHOWN[layout, shots > 0] + TASK + _WORLD[prompt]


def panel_rows(
    photos: Float[Tensor, "pairs 3 size size"], drawn: Float[Tensor, "pairs 3 height width"]
) -> Float[Tensor, "pairs 3 height row_width"]:
    """Set each photo, scaled to the height of its map, to the left of it."""
    side = drawn.shape[-2]
    scaled = functional.interpolate(photos, (side, side), mode="bilinear", antialias=True)
    return torch.cat((scaled.clamp(0, 1), drawn), dim=-1)


def panels(
    rows: Float[Tensor, "shots 3 height width"], last: Float[Tensor, "queries 3 height width"]
) -> Float[Tensor, "queries 3 panel_height width"]:
    """Stack the same rows over each of the last ones."""
    top = rearrange(rows, "k c h w -> c (k h) w").expand(len(last), -1, -1, -1)
    return torch.cat((top, last), dim=-2)


def framed(
    photos: Float[Tensor, "photos 3 size size"], height: int, width: int
) -> Float[Tensor, "photos 3 height width"]:
    """Scale photos to the largest square of a frame, and set them on grey in its middle."""
    side = min(height, width)
    scaled = functional.interpolate(photos, (side, side), mode="bilinear", antialias=True)
    left, top = (width - side) // 2, (height - side) // 2
    margins = (left, width - side - left, top, height - side - top)
    return functional.pad(scaled.clamp(0, 1), margins, value=0.5)
