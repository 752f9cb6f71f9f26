"""Instructions for pretrained models: what is shown, what to draw, and of which world."""

from icgeo.options import EARTH, UNKNOWN

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
