"""Benchmarks that are not held in memory: their queries come one after another."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from icgeo.evaluation.benchmarks import Query
from icgeo.options import EARTH
from icgeo.prediction import Example


@runtime_checkable
class Benchmark(Protocol):
    """What a locator is measured on; an `Episode` is one, a `Stream` another."""

    @property
    def id(self) -> str:
        """What tells it from others."""
        ...

    @property
    def world(self) -> str:
        """Under which name it is scored."""
        ...

    @property
    def examples(self) -> Sequence[Example]:
        """What all queries share."""
        ...

    @property
    def queries(self) -> Iterable[Query]:
        """What is to be located, in an order that never changes."""
        ...

    def shots(self, wanted: Sequence[int]) -> list[int]:
        """Numbers of examples to try."""
        ...


@dataclass(frozen=True, eq=False)
class Stream:
    """Queries without end, and the examples that they share.

    `queries` may be a generator, whose photos are paths, encoded bytes or pixels; no more than two
    batches of them are held. Every process goes through all of it and locates its share, so a photo
    should be cheap until it is read.
    """

    id: str
    world: str
    examples: Sequence[Example]
    queries: Iterable[Query]
    prompt: str = EARTH

    def shots(self, wanted: Sequence[int]) -> list[int]:
        """Numbers of shots in order, beyond the examples at hand all of them."""
        return sorted({min(shots, len(self.examples)) for shots in wanted})
