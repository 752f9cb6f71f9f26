"""The steps in which a map is drawn, as a figure and as a moving picture.

Conventions: a step is what `callback_on_step_end` of `Geolocator.locate` is called with: the maps
[queries, samples, 3, height, width] as they look from there, and the time, from 1 (noise) down:

    steps = []
    locator.locate([photo], examples, callback_on_step_end=lambda *step: steps.append(step))
"""

import io
import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from icgeo.config import UsageError
from icgeo.plots.theme import TITLE, drawn_image, show_image

_COLUMNS = 4
_HELD_SECONDS = 2.0
"""How long the last step of a moving picture stays."""

Steps = Sequence[tuple[Float[Tensor, "_queries _samples 3 height width"], float]]


def _map(steps: Steps, number: int, query: int) -> np.ndarray:
    return drawn_image(steps[number][0][query].float().mean(dim=0))


def _check(steps: Steps, query: int) -> None:
    if not steps:
        raise ValueError(
            "expected at least one step, got none; collect them with locate's callback_on_step_end"
        )
    count = len(steps[0][0])
    if not 0 <= query < count:
        raise ValueError(f"expected a query from 0 to {count - 1}, got {query}")


def plot_denoising(steps: Steps, *, query: int = 0, figure: Figure | None = None) -> Figure:
    """Show the map of one query as it is drawn, the mean of its samples, step by step.

    A model of one step gives one panel.

    Args:
        steps: as the conventions describe them.
        query: whose map.
        figure: where to draw.

    Raises:
        ValueError: no step, or no such query.
    """
    _check(steps, query)
    columns = min(_COLUMNS, len(steps))
    rows = math.ceil(len(steps) / columns)
    height, width = steps[0][0].shape[-2:]
    size = (2.6 * columns, (2.6 * height / width + 0.28) * rows)
    figure = figure or Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[len(steps) :]:
        ax.remove()
    for number, ax in enumerate(axes[: len(steps)]):
        title = f"step {number + 1}, from t = {steps[number][1]:.2f}"
        show_image(ax, _map(steps, number, query), title=title)
    return figure


def save_denoising(steps: Steps, path: str | Path, *, query: int = 0, seconds: float = 0.5) -> None:
    """Write the map of one query as it is drawn to a moving picture.

    A model of one step gives a still.

    Args:
        steps: as the conventions describe them.
        path: where to, ending in .gif, or in .mp4 (H.264, needs `icgeo[video]`).
        query: whose map.
        seconds: how long each step is shown; the last one stays for 2 s.

    Raises:
        UsageError: .mp4 without PyAV.
        ValueError: no step, no such query, another ending, or `seconds` not above 0.
    """
    _check(steps, query)
    if not 0 < seconds < math.inf:
        raise ValueError(f"expected seconds above 0, got {seconds}")
    writers = {".gif": _save_gif, ".mp4": _save_mp4}
    suffix = Path(path).suffix.lower()
    if suffix not in writers:
        raise ValueError(f"expected a file name ending in one of {[*writers]}, got {str(path)!r}")
    frames = [_frame(steps, number, query) for number in range(len(steps))]
    writers[suffix](frames, Path(path), seconds)


def _frame(steps: Steps, number: int, query: int) -> UInt8[np.ndarray, "rows columns 3"]:
    height, width = steps[0][0].shape[-2:]
    figure = Figure(figsize=(5.12, 5.12 * height / width + 0.4), dpi=100, layout="constrained")
    ax = figure.subplots()
    show_image(ax, _map(steps, number, query))
    ax.set_title(f"step {number + 1} of {len(steps)}, from t = {steps[number][1]:.2f}", size=TITLE)
    with io.BytesIO() as file:
        figure.savefig(file, format="png")
        pixels = np.asarray(Image.open(file).convert("RGB"))
    return pixels[: pixels.shape[0] // 2 * 2, : pixels.shape[1] // 2 * 2]  # H.264 wants even sides


def _save_gif(frames: Sequence[np.ndarray], path: Path, seconds: float) -> None:
    images = [Image.fromarray(frame) for frame in frames]
    durations = [1000 * seconds] * (len(images) - 1) + [1000 * max(seconds, _HELD_SECONDS)]
    images[0].save(
        path, save_all=True, append_images=images[1:], duration=durations, loop=0, optimize=False
    )


def _save_mp4(frames: Sequence[np.ndarray], path: Path, seconds: float) -> None:
    try:
        import av
    except ImportError as error:
        raise UsageError("writing an MP4 needs PyAV: pip install 'icgeo[video]'") from error
    held = math.ceil(max(0.0, _HELD_SECONDS - seconds) / seconds)
    rate = Fraction(1 / seconds).limit_denominator(1000)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in [*frames, *held * [frames[-1]]]:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
