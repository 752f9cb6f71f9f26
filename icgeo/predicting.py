"""Locate photos, or a clip of them, in one call."""

from collections.abc import Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from icgeo.data.base_maps import MapSource
from icgeo.data.photos import Photo
from icgeo.geolocator import Geolocator
from icgeo.maps import MapStyle
from icgeo.models import MapModel
from icgeo.prediction import Examples, Locator, Prediction, SequencePrediction
from icgeo.selection import Strategy

OPTIONS = frozenset(field.name for field in fields(Geolocator)) - {"examples"}


def predict(  # noqa: D417, PLR0913
    images: Photo | Sequence[Photo],
    examples: Examples = None,
    *,
    model: str | Path | MapModel = "tiny",
    map: MapSource | None = None,
    zoom: bool | None = None,
    heading: float | str = "any",
    shots: int | None = None,
    select: str | Strategy = "nearest",
    features: str | None = None,
    prompt: str | None = None,
    steps: int | None = None,
    samples: int | None = None,
    example_guidance: float | None = None,
    matching: bool = True,
    augment: int = 0,
    point: str = "best",
    batch_size: int = 64,
    seed: int = 0,
    style: MapStyle | None = None,
    attention: str | None = None,
    layout: str | None = None,
    photo_size: int | None = None,
    photo_shape: str | None = None,
    text: str | None = None,
    device: str = "cpu",
    dtype: str | None = None,
    adapter: str | None = None,
    weight_name: str | None = None,
    quantization: str | None = None,
    offload: str | None = None,
    attention_backend: str = "native",
    vae_tiling: bool = False,
    revision: str | None = None,
    local_files_only: bool = False,
    evidence: Locator | str | None = None,
    allow_outside: bool = False,
    **unknown: Any,
) -> list[Prediction]:
    """Locate photos in one call, in their order.

    Args:
        images: paths, pictures or arrays (uint8, or float in [0, 1]); one, or a list.
        examples: `Example`s; (photo, (latitude, longitude)) or (photo, latitude, longitude) tuples;
            dicts or a pandas DataFrame with image, lat and lon; the path of a manifest or of a
            folder of photos with EXIF locations; or None.
        model: "tiny", a checkpoint folder, a hub id, or a model already loaded.
        map: what `icgeo.data.base_maps.open_map` opens, such as "blue-marble" or a GeoTIFF: views
            of it are examples, too; and where the model compares parts, the answer is zoomed to
            the place on it.
        zoom: False leaves it at the examples; True zooms on the examples where there is no map.
        heading: compass direction of the upper edge of the photos in degrees, or "any".
        shots: the number of examples that each photo is shown; this and the other options stand
            in `icgeo.options.LocateOptions`, `icgeo.models.LoadOptions` and `Geolocator`.
        **unknown: is refused.

    Raises:
        PhotoError: a photo cannot be read.
        ValueError: an option, a location, a manifest or a map is wrong; there is no such option.
    """
    options = {name: value for name, value in locals().items() if name in OPTIONS}
    return _locator(**options, **unknown).locate(images, examples)


def predict_sequence(
    frames: Sequence[Photo],
    examples: Examples = None,
    *,
    speed_kmh: float | None,
    seconds: float | Sequence[float] | None = None,
    **options: Any,
) -> SequencePrediction:
    """Locate a video or an album in one call; `options` are those of `predict`.

    As `Geolocator.locate_sequence` does it; `icgeo.data.video.read_video` gives the frames of a
    file.
    """
    locator = _locator(**options)
    return locator.locate_sequence(frames, examples, speed_kmh=speed_kmh, seconds=seconds)


def _locator(**options: Any) -> Geolocator:
    """Make a locator; refuse what is no option by the name of the nearest."""
    for name in options:
        if name not in OPTIONS:
            suggestion = get_close_matches(name, OPTIONS, n=1, cutoff=0)[0]
            raise ValueError(
                f"expected options of icgeo.Geolocator, got {name!r}; did you mean {suggestion!r}?"
            )
    return Geolocator(**options)
