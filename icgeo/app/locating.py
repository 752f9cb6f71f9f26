"""Locate a photo while someone watches, who may stop it.

Conventions: the drawing runs in a thread of its own; it is told to stop by an event, which it looks
at between two steps.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from queue import SimpleQueue
from threading import Event
from typing import Any

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from icgeo.geolocator import Geolocator
from icgeo.prediction import Example, Prediction

Watch = Callable[[Tensor, float], None]
"""Is told the maps [samples, 3, height, width] as they look from a step, and its time."""


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
        steps.put(maps.mean(dim=0))

    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(locate_watched, locator, photo, examples, watch)
        answer.add_done_callback(lambda _: steps.put(None))
        try:
            yield from iter(steps.get, None)
            yield answer.result()
        except GeneratorExit:
            cancelled.set()
            raise


def locate_watched(
    locator: Geolocator, photo: Image.Image, examples: Sequence[Example], watch: Watch
) -> Prediction:
    """Locate one photo and tell of each step; what `watch` raises ends it."""
    watched: Any = _Watched(locator.loaded, watch)
    return replace(locator, model=watched).locate([photo], examples)[0]


class _Watched:
    """A model whose velocity tells what the map looks like from where it is asked."""

    def __init__(self, model: Any, watch: Watch) -> None:
        self._model = model
        self._watch = watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def draw_maps(self, *arguments: Any, **options: Any) -> Tensor:
        """Draw as the model does, but with the velocity of this one."""
        return type(self._model).draw_maps(self, *arguments, **options)

    def velocity(self, *arguments: Any) -> Callable[[Tensor, float], Tensor]:
        """Give the model's velocity, watched."""
        asked = self._model.velocity(*arguments)

        def velocity(x: Tensor, t: float) -> Tensor:
            found = asked(x, t)
            self._watch(self._decode(x - t * found)[0], t)
            return found

        return velocity

    def _decode(self, latents: Tensor) -> Float[Tensor, "1 samples 3 height width"]:
        if hasattr(self._model, "learner"):
            return self._model.learner.codec.decode_maps(latents).float().cpu()
        return self._model.layout.decode(latents).float().cpu()
