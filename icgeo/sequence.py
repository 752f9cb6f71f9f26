"""A video or an album: of what each photo says alone, what all say of each and of the whole."""

import math
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from icgeo.drawing import POINTS
from icgeo.prediction import Prediction, SequencePrediction, add_seconds, informs
from icgeo.travel import mixture, smooth


def in_sequence(
    alone: Sequence[Prediction],
    times: Sequence[float],
    *,
    speed_kmh: float,
    temperature: float,
    point: str,
) -> SequencePrediction:
    """Locate each frame given all others, and the whole; see `icgeo.Geolocator.locate_sequence`.

    `temperature` is that of `icgeo.travel.smooth`, and `point` one of `icgeo.drawing.POINTS`.

    Raises:
        ValueError: frames out of order, or other numbers of them and of times.
    """
    start = time.perf_counter()
    densities = [frame.density for frame in alone]
    if speed_kmh != math.inf:
        densities = smooth(densities, times, speed_kmh=speed_kmh, temperature=temperature)
    mean_density = mixture(densities)
    *places, middle = POINTS[point]([*densities, mean_density])
    frames = []
    for frame, density, place in zip(alone, densities, places, strict=True):
        is_located = frame.located or informs(density)
        lat, lon = place.tolist() if is_located else (math.nan, math.nan)
        frames.append(replace(frame, density=density, lat=lat, lon=lon, located=is_located))
    frames = add_seconds(frames, time.perf_counter() - start)
    prediction = Prediction.from_density(
        mean_density,
        middle,
        legibility=max(frame.legibility for frame in alone),
        located=any(frame.located for frame in alone),
        seconds=sum(frame.seconds for frame in frames),
    )
    inside = [frame.in_domain for frame in alone]
    whole_inside = None if None in inside else any(inside)
    return SequencePrediction(frames, replace(prediction, in_domain=whole_inside))


def frame_times(
    seconds: float | Sequence[float] | None, count: int, speed_kmh: float
) -> Sequence[float]:
    """Return the times of `count` frames, given as such or as the gap between two.

    Any will do where frames are at one place (a speed of 0) or anywhere (inf).

    Raises:
        ValueError: no frames, or a limit without times.
    """
    if not count:
        raise ValueError("expected at least one frame, got none")
    if seconds is None and 0 < speed_kmh < math.inf:
        raise ValueError(
            f"expected seconds with a speed_kmh of {speed_kmh}, got None; give the gap between "
            "frames or the time of each"
        )
    if seconds is None or isinstance(seconds, int | float | np.number):
        return [number * float(seconds or 0) for number in range(count)]
    return seconds
