"""Frames of video files, at even intervals, upright; needs PyAV (`pip install icgeo[video]`)."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from icgeo.config import UsageError, require

if TYPE_CHECKING:
    from av import VideoFrame

MAX_SIDE = 1024
"""Frames are kept no larger than this many pixels, so that hundreds of them fit in memory."""

logger = logging.getLogger(__name__)


def read_video(
    path: str | Path, *, every_seconds: float = 1.0, max_frames: int = 256
) -> tuple[list[Image.Image], list[float]]:
    """Read upright frames of a video, some seconds or more apart, and the seconds since the first.

    Frames are decoded one at a time and no further than needed: of a longer video the first
    `max_frames`, of a broken one those before the break, with a warning in the log.

    Raises:
        UsageError: missing, broken from the start, without pictures, or PyAV is not installed.
        ValueError: `every_seconds` or `max_frames` not above 0.
    """
    if not every_seconds > 0 or max_frames < 1:
        raise ValueError(
            f"expected every_seconds and max_frames above 0, got {every_seconds} and {max_frames}"
        )
    images: list[Image.Image] = []
    times: list[float] = []
    for time, frame in _decode(Path(path)):
        # half a millisecond: times are rounded to the ticks of the file's clock
        if times and time < times[-1] + every_seconds - 5e-4:
            continue
        if len(images) == max_frames:
            logger.warning("%s: took the first %d frames alone", path, max_frames)
            break
        image: Image.Image = frame.to_image()  # type: ignore[no-untyped-call]
        image.thumbnail((MAX_SIDE, MAX_SIDE))
        images.append(image.rotate(frame.rotation, expand=True) if frame.rotation else image)
        times.append(time)
    if not images:
        raise UsageError(f"expected a video in {path}, got no frame that can be decoded")
    return images, [time - times[0] for time in times]


def _decode(path: Path) -> "Iterator[tuple[float, VideoFrame]]":
    """Decode frames in order, with their times in seconds, as far as it goes."""
    av = require("av", "reading a video", "video")
    if not path.is_file():
        raise UsageError(f"there is no video {path}")
    try:
        video = av.open(str(path))
    except av.FFmpegError as error:
        raise UsageError(f"expected a video in {path}, got {error.strerror}") from error
    with video:
        if not video.streams.video:
            raise UsageError(f"expected a video in {path}, got a file without pictures")
        stream = video.streams.video[0]
        stream.thread_type = "AUTO"
        rate = float(stream.guessed_rate or 25)
        try:
            for number, frame in enumerate(video.decode(stream)):
                yield number / rate if frame.time is None else frame.time, frame
        except av.FFmpegError as error:
            logger.warning("%s breaks off: %s", path, error.strerror)
