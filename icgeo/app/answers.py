"""Requests and answers: locating a photo while a visitor watches, who may stop it.

Conventions: the drawing runs in a thread of its own; it stops when an event is set, which it checks
between two steps.
"""

import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Event

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from icgeo.app.session import ExampleList, Shot
from icgeo.geolocator import Geolocator
from icgeo.models import MapModel
from icgeo.prediction import Example, Prediction

FIRST = "First"
WAYS_TO_CHOOSE = {
    "Most alike": ("nearest", None),
    "Alike, as photographs": ("nearest", "efficientnet-lite0"),
    "Alike but diverse": ("diverse", None),
    FIRST: ("nearest", None),
}
"""Ways to choose, and by which features if not by those that suit the model; the first ones are cut
off before there is a choice."""


class CancelledError(Exception):
    """The visitor asked to stop."""


@dataclass(frozen=True, eq=False)
class Request:
    """What one visitor asks: the values of the page's parts, in this order."""

    queries: Sequence[Shot]
    bank: ExampleList
    model: str
    choice: str
    shots: float
    steps: float
    samples: float


@dataclass(frozen=True, eq=False)
class Answer:
    """What was found of one photo, and the context that it was found with."""

    shot: Shot
    prediction: Prediction
    context: Image.Image | None
    files: list[str]
    """Where its files are, in a folder of their own."""


@dataclass(frozen=True, eq=False)
class Visit:
    """Answers that one visitor got, the folder of their files, and the event that stops more."""

    cancelled: Event
    folder: tempfile.TemporaryDirectory[str] = field(
        default_factory=lambda: tempfile.TemporaryDirectory(prefix="icgeo-")
    )
    answers: tuple[Answer, ...] = ()

    def adding(self, answer: Answer) -> "Visit":
        """Add an answer."""
        return Visit(self.cancelled, self.folder, (*self.answers, answer))


def forget(visit: Visit | None) -> None:
    """Stop what still runs for a visitor, and remove the files."""
    if visit is not None:
        visit.cancelled.set()
        visit.folder.cleanup()


def build_locator(model: MapModel, request: Request) -> Geolocator:
    """Make what locates as a visitor asks."""
    select, features = WAYS_TO_CHOOSE[request.choice]
    return Geolocator(
        model,
        steps=int(request.steps),
        samples=int(request.samples),
        shots=int(request.shots),
        select=select,
        features=features,
    )


def choose_examples(locator: Geolocator, photo: Image.Image, request: Request) -> list[Example]:
    """Choose the examples that a photo is shown, in order.

    Raises:
        LoadError: the features need a package that is not installed.
    """
    examples = request.bank.examples
    if request.choice == FIRST:
        return list(examples[: int(request.shots)])
    return [examples[number] for number in locator.choose_for([photo], examples)[0].tolist()]


def locate_in_steps(
    locator: Geolocator, photo: Image.Image, examples: Sequence[Example], *, cancelled: Event
) -> Iterator[Float[Tensor, "3 height width"] | Prediction]:
    """Give the mean map as it looks from each step, and at the end the prediction.

    Whoever stops listening stops the drawing, too.

    Raises:
        CancelledError: the event was set.
        ValueError: an example is wrong.
    """
    steps: SimpleQueue[Tensor | None] = SimpleQueue()

    def callback_on_step_end(maps: Tensor, t: float) -> None:
        if cancelled.is_set():
            raise CancelledError
        steps.put(maps[0].mean(dim=0).float().cpu())

    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(
            locator.locate, [photo], examples, callback_on_step_end=callback_on_step_end
        )
        answer.add_done_callback(lambda _: steps.put(None))
        try:
            yield from iter(steps.get, None)
            yield answer.result()[0]
        except GeneratorExit:
            cancelled.set()
            raise
