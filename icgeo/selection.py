"""Which examples to show for a photo, and in which order.

Conventions: a bank holds more examples than are shown; choices are numbers of its examples, the
most wanted first. What is drawn at random follows from the bank and a seed, never from the batch.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from icgeo.data.photos import Photo, content_key
from icgeo.features import Features, search
from icgeo.prediction import Chosen as Chosen
from icgeo.prediction import Example, Locator, Prediction, add_seconds, locate_chosen
from icgeo.sphere.healpix import cell_of


@dataclass(frozen=True, eq=False)
class Bank:
    """Examples to choose from, with features of their photos where a strategy needs them."""

    examples: Sequence[Example]
    features: Features | Callable[[], Features] | None = None
    """What photos are compared by, or what opens it when it is first needed."""
    described: Callable[[Callable[..., Tensor]], Tensor] | None = None
    """Gives the features of the last examples, which may be known, by what encodes photos."""
    _query_cache: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.examples)

    @cached_property
    def lat_lon(self) -> Float[Tensor, "examples 2"]:
        """Where the examples were taken, in degrees."""
        places = [[example.lat, example.lon] for example in self.examples]
        return torch.tensor(places, dtype=torch.float64).reshape(-1, 2)

    @cached_property
    def index(self) -> Float[Tensor, "examples channels"]:
        """Features of the examples; encoded when first asked for."""
        encode = self._encoder.encode
        vectors = self.described(encode) if self.described else torch.empty(0)
        photos = [example.image for example in self.examples[: len(self.examples) - len(vectors)]]
        parts = [encode(photos)] if photos or not len(vectors) else []
        return torch.cat([*parts, vectors]) if len(vectors) else parts[0]

    @cached_property
    def _encoder(self) -> Features:
        if self.features is None:
            raise ValueError(
                "expected a bank with features for this choice, got none; give "
                "Bank(examples, icgeo.features.open('tiny'))"
            )
        return self.features if isinstance(self.features, Features) else self.features()

    def encode(self, photos: Sequence[Photo]) -> Float[Tensor, "photos channels"]:
        """Encode queries; the last ones are remembered, for several strategies ask for them."""
        keys = [*map(content_key, photos)]
        if self._query_cache.get("keys") != keys:
            self._query_cache.update(keys=keys, vectors=self._encoder.encode(photos))
        return self._query_cache["vectors"]


@runtime_checkable
class Strategy(Protocol):
    """A way to choose examples."""

    def choose(self, bank: Bank, photos: Sequence[Photo], shots: int) -> Chosen:
        """Choose different examples for each photo; 1 <= shots <= len(bank)."""


@dataclass(frozen=True)
class Random:
    """The same examples for all photos, drawn without looking."""

    seed: int = 0

    def choose(self, bank: Bank, photos: Sequence[Photo], shots: int) -> Chosen:
        """Choose the first of one shuffled order."""
        return _shuffled(len(bank), self.seed)[:shots].expand(len(photos), -1)


@dataclass(frozen=True)
class Stratified:
    """The same examples for all photos, spread over the world.

    Of HEALPix cells of equal area, as many as there are shots or fewer, each gives one in turn.
    """

    seed: int = 0

    def choose(self, bank: Bank, photos: Sequence[Photo], shots: int) -> Chosen:
        """Choose from the cells in a random order, going round until there are enough."""
        nside = 2 ** int(math.log2(max(1, shots / 12)) / 2)
        order = _shuffled(len(bank), self.seed)
        cells = cell_of(bank.lat_lon[order], nside)
        # how many of the same cell come earlier: the round in which each is chosen
        by_cell = cells.argsort(stable=True)
        counts = torch.bincount(cells, minlength=12 * nside**2)
        starts = (counts.cumsum(0) - counts)[cells[by_cell]]
        rounds = torch.empty_like(cells).scatter_(0, by_cell, torch.arange(len(cells)) - starts)
        return order[rounds.argsort(stable=True)[:shots]].expand(len(photos), -1)


@dataclass(frozen=True)
class Nearest:
    """For each photo the examples most alike in features."""

    def choose(self, bank: Bank, photos: Sequence[Photo], shots: int) -> Chosen:
        """Choose by cosine, the most alike first."""
        return search(bank.index, bank.encode(photos), shots)[1]


@dataclass(frozen=True)
class Diverse:
    """For each photo examples that are alike to it and not to each other.

    Maximal marginal relevance (Carbonell and Goldstein 1998) among the nearest.
    """

    relevance: float = 0.7
    """Weight in [0, 1] of likeness to the photo; 1 is `Nearest`."""
    pool: int = 4
    """Candidates for each shot: so many of the nearest are looked at."""

    def __post_init__(self) -> None:
        if not 0 <= self.relevance <= 1 or self.pool < 1:
            raise ValueError(
                "expected a relevance in [0, 1] and a pool of at least 1, got "
                f"{self.relevance} and {self.pool}"
            )

    def choose(self, bank: Bank, photos: Sequence[Photo], shots: int) -> Chosen:
        """Choose one by one the largest relevance x likeness - (1 - relevance) x redundance."""
        count = min(len(bank), self.pool * shots)
        cosines, numbers = search(bank.index, bank.encode(photos), count)
        vectors, rows = bank.index[numbers], torch.arange(len(numbers))
        redundance = -torch.ones_like(cosines)
        mask = torch.zeros_like(cosines, dtype=torch.bool)
        picks: list[Tensor] = []
        for _ in range(shots):
            gain = self.relevance * cosines - (1 - self.relevance) * redundance
            pick = gain.masked_fill(mask, -torch.inf).argmax(dim=-1)
            mask[rows, pick] = True
            picks.append(numbers[rows, pick])
            redundance = redundance.maximum((vectors @ vectors[rows, pick, :, None]).squeeze(-1))
        return torch.stack(picks, dim=-1)


@dataclass(frozen=True)
class TwoStage:
    """Locate each photo roughly with few examples, then show examples from the likely regions.

    They are drawn without replacement, each with a chance in proportion to the rough density at
    its place (Efraimidis and Spirakis 2006). Locating costs twice.
    """

    locator: Locator
    first: Strategy = field(default_factory=Stratified)
    """How the few are chosen."""
    few: int = 8
    seed: int = 0

    def choose(self, bank: Bank, photos: Sequence[Photo], shots: int) -> Chosen:
        """Choose the largest of log-density + Gumbel noise, the same for all photos."""
        selector = Selecting(self.locator, bank, self.first, shots=min(self.few, len(bank)))
        predictions = selector.locate(photos)
        log_density = torch.stack([one.density.log_prob(bank.lat_lon) for one in predictions])
        generator = Generator().manual_seed(self.seed)
        draws = torch.rand(len(bank), generator=generator, dtype=torch.float64)
        return (log_density - (-draws.log()).log()).topk(shots, dim=-1).indices


STRATEGIES: dict[str, Callable[..., Strategy]] = {
    "random": Random,
    "stratified": Stratified,
    "nearest": Nearest,
    "diverse": Diverse,
    "two-stage": TwoStage,
}
"""By name; `two-stage` is made with a locator, the others need nothing."""
BY_FEATURES = frozenset({"nearest", "diverse"})
"""Those that look at the photo, and so need features."""


def make_strategy(select: str | Strategy, locator: Locator) -> Strategy:
    """Make a strategy by its name for a locator; a strategy is returned as it is."""
    if not isinstance(select, str):
        return select
    if select not in STRATEGIES:
        raise ValueError(f"expected select to be one of {sorted(STRATEGIES)}, got {select!r}")
    return TwoStage(locator) if select == "two-stage" else STRATEGIES[select]()


def common_first(chosen: Chosen) -> Chosen:
    """Order the examples of each photo: those first that most photos are shown, then by number.

    Which examples a photo is shown does not depend on the other photos of the batch; their order
    does.

    >>> common_first(torch.tensor([[0, 2], [2, 1]])).tolist()
    [[2, 0], [2, 1]]
    """
    numbers = chosen.sort(dim=-1).values
    counts = torch.bincount(numbers.flatten())[numbers]
    return numbers.gather(-1, counts.argsort(dim=-1, descending=True, stable=True))


def _shuffled(count: int, seed: int) -> Int[Tensor, " count"]:
    return torch.randperm(count, generator=Generator().manual_seed(seed))


@dataclass(frozen=True, eq=False)
class Selecting:
    """A locator that is shown what a strategy chooses from a bank, for each photo anew."""

    locator: Locator
    bank: Bank
    strategy: Strategy = field(default_factory=Nearest)
    shots: int | None = None
    """How many are shown; None means as many as `locate` is given, so that `evaluate` can say."""
    name: str = "selecting"

    def __post_init__(self) -> None:
        self._require_shots(self.shots or 0)

    def _require_shots(self, shots: int) -> None:
        if not 0 <= shots <= len(self.bank):
            raise ValueError(
                f"expected 0 to {len(self.bank)} shots, as many as the bank holds, got {shots}"
            )

    def choose(self, photos: Sequence[Photo], shots: int) -> Chosen:
        """Choose examples for each photo, in the order in which they are shown."""
        return self.strategy.choose(self.bank, photos, shots)

    def locate(
        self, photos: Sequence[Photo], examples: Sequence[Example] = (), **options: Any
    ) -> list[Prediction]:
        """Locate photos; `options` are those of the locator's `locate_chosen`.

        Of `examples` only the number counts, where `shots` does not say: the bank has its own.
        More shots than it holds raise `ValueError`.
        """
        shots = len(examples) if self.shots is None else self.shots
        self._require_shots(shots)
        if not (photos and shots):
            return self.locator.locate(photos, [], **options)
        start = time.perf_counter()
        choices = self.choose(photos, shots)
        seconds = time.perf_counter() - start
        predictions = locate_chosen(self.locator, photos, self.bank.examples, choices, **options)
        return add_seconds(predictions, seconds)


@dataclass(frozen=True, eq=False)
class Chooser:
    """A strategy for any bank, whose features are kept as long as the same examples are given."""

    strategy: Strategy
    shots: int | None
    """How many are chosen; None means all."""
    features: Callable[[], Features]
    described: Callable[[Callable[..., Tensor]], Tensor] | None
    """As `Bank` has them."""
    _banks: dict[tuple[Any, ...], Bank] = field(default_factory=dict, init=False, repr=False)

    @property
    def is_shared(self) -> bool:
        """Whether all photos are shown the same, chosen without looking."""
        return isinstance(self.strategy, Random | Stratified)

    def count(self, examples: int) -> int:
        """Return how many of so many examples a photo is shown."""
        return examples if self.shots is None else min(self.shots, examples)

    def bank(self, examples: Sequence[Example]) -> Bank:
        """Return a bank of the examples, with features where the strategy may need them."""
        if self.is_shared:
            return Bank(examples)
        key = content_keys(examples)
        if key not in self._banks:
            self._banks.clear()
            self._banks[key] = Bank(examples, self.features, self.described)
        return self._banks[key]

    def prepare(self, examples: Sequence[Example]) -> None:
        """Encode the examples now, if photos are compared with them."""
        if self.shots and isinstance(self.strategy, Nearest | Diverse):
            _ = self.bank(examples).index

    def choose(self, photos: Sequence[Photo], examples: Sequence[Example]) -> Chosen:
        """Choose among examples for each photo; all in their order, if no more are asked for."""
        count = self.count(len(examples))
        if photos and 0 < count < len(examples):
            return self.strategy.choose(self.bank(examples), photos, count)
        return torch.arange(count).expand(len(photos), -1)


def content_keys(pairs: Sequence[Example]) -> tuple[Any, ...]:
    """Return a key of examples that follows their content, without reading files."""
    return tuple((content_key(pair.image), pair.lat, pair.lon) for pair in pairs)
