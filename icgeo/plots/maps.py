"""Maps as drawn: with the photos of a context, side by side, and step by step.

Conventions: a step is what `callback_on_step_end` of `Geolocator.locate` is called with: the maps
[queries, samples, 3, height, width] as they look from there, and the time, from 1 (noise) down:

    steps = []
    locator.locate([photo], examples, callback_on_step_end=lambda *step: steps.append(step))
"""

import io
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from icgeo.config import UsageError
from icgeo.data.photos import Photo
from icgeo.maps import MapStyle, draw
from icgeo.plots.theme import TITLE, drawn_image, picture, place_name, show_image
from icgeo.prediction import Example

_COLUMNS = 4
_LAST_SECONDS = 2.0

Steps = Sequence[tuple[Float[Tensor, "_queries _samples 3 height width"], float]]


def plot_context(
    examples: Sequence[Example],
    maps: Float[Tensor, "examples 3 height width"] | None = None,
    *,
    style: MapStyle | None = None,
    figure: Figure | None = None,
) -> Figure:
    """Show the context that the model is given: pairs of photo and map, in order.

    Without `maps` they are drawn here, in `style`. That of a `Geolocator`, which its model sees, is
    `locator.loaded.settings.style`; by default `MapStyle()`, which has other sizes.

    Raises:
        ValueError: no example, or another number of maps.
    """
    if maps is None:
        places = torch.tensor([[one.lat, one.lon] for one in examples], dtype=torch.float64)
        maps = draw(places.reshape(-1, 2), style or MapStyle())
    if not examples or len(examples) != len(maps):
        counts = f"{len(examples)} examples and {len(maps)} maps; draw them with icgeo.maps.draw"
        raise ValueError(f"expected a map for each of at least one example, got {counts}")
    panels: list[tuple[np.ndarray, str]] = []
    for number, (example, image) in enumerate(zip(examples, maps, strict=True), start=1):
        panels.append((picture(example.image), f"photo {number}"))
        place = place_name(example.lat, example.lon)
        panels.append((drawn_image(image), f"map {number}: {place}"))
    columns, aspect = min(_COLUMNS, len(examples)), maps.shape[-1] / maps.shape[-2]
    size = (columns * (1.15 * (1 + aspect)), math.ceil(len(examples) / columns) * 1.35 + 0.3)
    return _show_rows(panels, [1, aspect] * columns, size, figure)


def plot_maps(
    photos: Sequence[Photo], maps: Mapping[str, Float[Tensor, "photos 3 height width"]]
) -> Figure:
    """Show a row for each photo: the photo, and its maps side by side, under their names.

    Raises:
        ValueError: no photo, or another number of maps.
    """
    counts = {name: len(images) for name, images in maps.items()}
    if not photos or set(counts.values()) != {len(photos)}:
        raise ValueError(f"expected a map for each of {len(photos)} photos, got {counts}")
    panels: list[tuple[np.ndarray, str]] = []
    for number, photo in enumerate(photos):
        panels.append((picture(photo), "" if number else "photo"))
        for name, images in maps.items():
            panels.append((drawn_image(images[number]), "" if number else name))
    height, width = next(iter(maps.values())).shape[-2:]
    size = (1.5 * (1 + width / height * len(maps)), 1.6 * len(photos))
    return _show_rows(panels, [1, *len(maps) * [width / height]], size)


def plot_denoising(steps: Steps, *, query: int = 0, figure: Figure | None = None) -> Figure:
    """Show the map of one query as it is drawn, the mean of its samples, step by step.

    Raises:
        ValueError: no step, or no such query.
    """
    maps = _maps(steps, query)
    titles = [f"step {number}, from t = {t:.2f}" for number, (_, t) in enumerate(steps, start=1)]
    columns, (height, width) = min(_COLUMNS, len(steps)), maps[0].shape[:2]
    size = (2.6 * columns, (2.6 * height / width + 0.28) * math.ceil(len(steps) / columns))
    return _show_rows([*zip(maps, titles, strict=True)], [1] * columns, size, figure)


def _show_rows(
    panels: Sequence[tuple[np.ndarray, str]],
    widths: Sequence[float],
    size: tuple[float, float],
    figure: Figure | None = None,
) -> Figure:
    """Show pictures under their titles, row by row, in columns of relative widths."""
    rows = math.ceil(len(panels) / len(widths))
    figure = figure or Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, len(widths), squeeze=False, width_ratios=widths).ravel()
    for ax in axes[len(panels) :]:
        ax.remove()
    for ax, (image, title) in zip(axes, panels, strict=False):
        show_image(ax, image, title=title)
    return figure


def _maps(steps: Steps, query: int) -> list[np.ndarray]:
    """Take the map of a query from each step: the mean of its samples."""
    if not steps:
        remedy = "collect them with locate's callback_on_step_end"
        raise ValueError(f"expected at least one step, got none; {remedy}")
    count = len(steps[0][0])
    if not 0 <= query < count:
        raise ValueError(f"expected a query from 0 to {count - 1}, got {query}")
    return [drawn_image(maps[query].float().mean(dim=0)) for maps, _ in steps]


def save_denoising(steps: Steps, path: str | Path, *, query: int = 0, seconds: float = 0.5) -> None:
    """Write the map of one query as it is drawn to a moving picture, .gif or .mp4 (`icgeo[video]`).

    Each step is shown for so many seconds; the last one stays for 2 s.

    Raises:
        UsageError: .mp4 without PyAV.
        ValueError: no step, no such query, another ending, or `seconds` not above 0.
    """
    maps, suffix, endings = _maps(steps, query), Path(path).suffix.lower(), [".gif", ".mp4"]
    if not 0 < seconds < math.inf:
        raise ValueError(f"expected seconds above 0, got {seconds}")
    if suffix not in endings:
        raise ValueError(f"expected a file name ending in one of {endings}, got {str(path)!r}")
    frames = [
        _frame(image, f"step {number} of {len(steps)}, from t = {t:.2f}")
        for number, (image, (_, t)) in enumerate(zip(maps, steps, strict=True), start=1)
    ]
    if suffix == ".mp4":
        _save_mp4(frames, Path(path), seconds)
        return
    first, *others = map(Image.fromarray, frames)
    durations = [1000 * seconds] * len(others) + [1000 * max(seconds, _LAST_SECONDS)]
    film: dict[str, Any] = {"append_images": others, "duration": durations, "loop": 0}
    first.save(path, save_all=True, optimize=False, **film)


def _frame(image: np.ndarray, title: str) -> UInt8[np.ndarray, "rows columns 3"]:
    height, width = image.shape[:2]
    figure = Figure(figsize=(5.12, 5.12 * height / width + 0.4), dpi=100, layout="constrained")
    ax = figure.subplots()
    show_image(ax, image)
    ax.set_title(title, size=TITLE)
    with io.BytesIO() as file:
        figure.savefig(file, format="png")
        pixels = np.asarray(Image.open(file).convert("RGB"))
    return pixels[: pixels.shape[0] // 2 * 2, : pixels.shape[1] // 2 * 2]  # H.264 wants even sides


def _save_mp4(frames: Sequence[np.ndarray], path: Path, seconds: float) -> None:
    try:
        import av
    except ImportError as error:
        raise UsageError("writing an MP4 needs PyAV: pip install 'icgeo[video]'") from error
    repeats = math.ceil(max(0.0, _LAST_SECONDS - seconds) / seconds)
    with av.open(str(path), "w") as container:
        rate = Fraction(1 / seconds).limit_denominator(1000)
        stream = container.add_stream("libx264", rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in [*frames, *repeats * [frames[-1]]]:
            image = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(image))
        container.mux(stream.encode())
