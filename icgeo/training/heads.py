"""Train the heads of baselines on features of photos: on many of known places, or on examples.

All go through the one loop, with Accelerate, for a number of steps or for so many seconds of the
processor, so that ways can be compared at the same cost.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor, nn

from icgeo.baselines.constant import Chance
from icgeo.baselines.head import HeadLocator, TrainingSettings, Way
from icgeo.data.photos import Photo
from icgeo.prediction import Example, Prediction, add_seconds
from icgeo.seeds import seeded_generator
from icgeo.sphere import to_xyz
from icgeo.training.loop import annealed_rate, append_log, train
from icgeo.writing import write_atomically

STATE = "head.pt"
PARTS = 1000
"""The budget is told the learning rate in so many parts."""


class _Loss(nn.Module):
    """The loss of a head as `forward`, where processes average their gradients."""

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: Tensor, xyz: Tensor, generator: torch.Generator) -> Tensor:
        loss: Tensor = self.head.loss(features, xyz, generator)
        return loss


@dataclass(eq=False)
class HeadTraining:
    """A run of training: of which head, on what, for how long.

    Raises:
        ValueError: neither steps nor seconds or both, seconds for several processes, or no photo.
    """

    head: Any
    """A module that is a `Head`."""
    features: Float[Tensor, "items *album channels"]
    xyz: Float[Tensor, "places *each 3"]
    settings: TrainingSettings = field(default_factory=TrainingSettings)
    steps: int | None = None
    seconds: float | None = None
    """Of the processor, over all its cores, from the first step."""
    seed: int = 0
    folder: Path | None = None
    """Where its state and log are kept, so that it can go on; None keeps nothing."""
    accelerator: Accelerator = field(default_factory=Accelerator)
    step: int = 0
    spent: float = 0.0
    """Seconds of the processor so far."""

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.seconds is None):
            raise ValueError(
                f"expected either steps or seconds, got steps={self.steps} and "
                f"seconds={self.seconds}; give one of them"
            )
        if self.seconds is not None and self.accelerator.num_processes > 1:
            raise ValueError(
                f"expected steps for {self.accelerator.num_processes} processes, got seconds, "
                "which they do not spend alike"
            )
        if not len(self.features) or len(self.features) != len(self.xyz):
            raise ValueError(
                "expected a place for each of at least one photo to train on, got "
                f"{len(self.features)} features and {len(self.xyz)} places"
            )
        weights = [weight for weight in self.head.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(
            weights, lr=0.0, betas=(0.9, 0.99), weight_decay=self.settings.weight_decay
        )
        self.learner, self.optimizer = self.accelerator.prepare(_Loss(self.head), optimizer)
        self.parts = {"head": self.head, "optimizer": self.optimizer}
        device = self.accelerator.device
        self.features = self.features.to(device, torch.float32)
        self.xyz = self.xyz.to(device, torch.float32)

    @property
    def progress(self) -> float:
        """Return the share of the budget that is spent, from 0 to 1."""
        if self.seconds is None:
            return self.step / (self.steps or 1)
        return min(1.0, self.spent / self.seconds)

    @property
    def has_stopped(self) -> bool:
        """Whether the time is spent."""
        return self.progress >= 1

    def update(self) -> dict[str, float]:
        """Take one step on photos drawn by (seed, step, process); return the loss."""
        start, peak = time.process_time(), self.settings.learning_rate
        rate = annealed_rate(round(PARTS * self.progress), PARTS, peak=peak, warmup=PARTS // 20)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        process = self.accelerator.process_index
        generator = seeded_generator("head", self.seed, self.step, process)
        count, size = len(self.features), self.settings.batch_size
        rows = torch.randint(count, (size,), generator=generator) if count > size else slice(None)
        loss = self.learner(self.features[rows], self.xyz[rows], generator)
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.head.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.spent += time.process_time() - start
        return {"loss": loss.item()}

    def validate(self) -> dict[str, float]:
        """Return how far the training is; what generalises is for the comparison to say."""
        return {"spent": self.spent}

    def log(self, record: Mapping[str, float]) -> None:
        """Append a line to `log.jsonl`."""
        if self.accelerator.is_main_process:
            append_log(self, record)

    def save(self) -> None:
        """Write the whole state, at once or not at all."""
        if self.folder and self.accelerator.is_main_process:
            state = {name: value.state_dict() for name, value in self.parts.items()}
            with write_atomically(self.folder / STATE) as partial_path:
                torch.save({**state, "step": self.step, "spent": self.spent}, partial_path)

    def resume(self) -> bool:
        """Go on from what was saved, if it is there."""
        if not (self.folder and (self.folder / STATE).exists()):
            return False
        device = self.accelerator.device
        state = torch.load(self.folder / STATE, map_location=device, weights_only=True)
        for name, value in self.parts.items():
            value.load_state_dict(state[name])
        self.step, self.spent = state["step"], state["spent"]
        return True

    def run(self, *, show: bool = False) -> Any:
        """Train to the end of the budget; return the head, ready to locate."""
        steps = 10**9 if self.steps is None else self.steps
        is_main = show and self.accelerator.is_main_process
        self.head.train()
        train(self, steps, validate_every=500, save_every=500, is_main=is_main)
        return self.head.eval().cpu()


def train_head(
    head: Any,
    features: Float[Tensor, "items *album channels"],
    xyz: Float[Tensor, "places *each 3"],
    *,
    steps: int | None = None,
    seconds: float | None = None,
    seed: int = 0,
    settings: TrainingSettings | None = None,
) -> Any:
    """Train a head for so many steps, or seconds of the processor; return it, ready to locate.

    >>> import torch
    >>> from icgeo.baselines.registry import WAYS
    >>> features, xyz = torch.eye(4), torch.eye(3)[[0, 1, 2, 0]]
    >>> head = WAYS["vmf"].head(features, xyz)
    >>> len(train_head(head, features, xyz, steps=2).densities(features))
    4
    """
    settings = settings or TrainingSettings()
    return HeadTraining(
        head, features, xyz, settings, steps=steps, seconds=seconds, seed=seed
    ).run()


@dataclass(frozen=True, eq=False)
class InContextHead:
    """Locates photos with a head that is trained on the examples of the call, and nothing else."""

    encode: Callable[[Sequence[Photo]], Float[Tensor, "photos channels"]]
    way: Way
    name: str
    seconds: float | None = None
    """Of the processor, for the examples of a call."""
    steps: int | None = None
    """In place of seconds, where answers have to be the same on any machine."""
    seed: int = 0

    def fit(self, examples: Sequence[Example]) -> HeadLocator:
        """Train a head on examples."""
        features = self.encode([example.image for example in examples])
        places = torch.tensor([[one.lat, one.lon] for one in examples], dtype=torch.float64)
        xyz = to_xyz(places).float()
        way = self.way.on_examples()
        head = way.head(features, xyz, seed=self.seed)
        train_head(
            head,
            features,
            xyz,
            steps=self.steps,
            seconds=self.seconds,
            seed=self.seed,
            settings=way.settings,
        )
        return HeadLocator(self.encode, head, self.name)

    def locate(self, photos: Sequence[Photo], examples: Sequence[Example]) -> list[Prediction]:
        """Locate each photo; without examples as `Chance` does."""
        if not (photos and examples):
            return Chance(self.seed).locate(photos, examples)
        start = time.perf_counter()
        locator = self.fit(examples)
        seconds = time.perf_counter() - start
        return add_seconds(locator.locate(photos, examples), seconds)
