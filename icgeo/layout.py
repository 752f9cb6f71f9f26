"""How examples are laid out for a pretrained model, and what it is told of them in words."""

EARTH, UNKNOWN = "earth", "unknown world"

_PAIRS = (
    "The reference images come in pairs: first a photo, then a map on which a red dot marks the "
    "place where that photo was taken. The last reference image is a photo without a map. "
)
_ALONE = "The reference image is a photo. "
_TASK = (
    "Draw the map of the last photo: the same map, pixel for pixel, with one red dot at the place "
    "where the photo was taken, and nothing else."
)
_WORLD = {
    EARTH: " The map shows the whole Earth, north up, from 180 degrees west to 180 degrees east.",
    UNKNOWN: " The photos show an unknown planet; only the examples tell where things are.",
}


def words(prompt: str, *, shots: int) -> str:
    """Return the instruction for a model that sees pairs as reference images.

    Raises:
        ValueError: neither "earth" nor "unknown world".
    """
    if prompt not in _WORLD:
        raise ValueError(f"expected a prompt of {sorted(_WORLD)}, got {prompt!r}")
    return (_PAIRS if shots else _ALONE) + _TASK + _WORLD[prompt]
