"""Locate a photo while someone watches, who may stop it.

Conventions: the drawing runs in a thread of its own; it is told to stop by an event, which it looks
at between two steps.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from threading import Event

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from icgeo.geolocator import Geolocator
from icgeo.prediction import Example, Prediction


class CancelledError(Exception):
    """The visitor asked to stop."""


def steps_of(
    locator: Geolocator, photo: Image.Image, examples: Sequence[Example], *, cancelled: Event
) -> Iterator[Float[Tensor, "3 height width"] | Prediction]:
    """Give the mean map as it looks from each step, and at the end the prediction.

    Whoever stops listening stops the drawing, too.

    Raises:
        CancelledError: the event was set.
        ValueError: an example is wrong.
    """
    steps: SimpleQueue[Tensor | None] = SimpleQueue()

    def watch(maps: Tensor, t: float) -> None:
        if cancelled.is_set():
            raise CancelledError
        steps.put(maps[0].mean(dim=0).float().cpu())

    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(locator.locate, [photo], examples, watch=watch)
        answer.add_done_callback(lambda _: steps.put(None))
        try:
            yield from iter(steps.get, None)
            yield answer.result()[0]
        except GeneratorExit:
            cancelled.set()
            raise
