"""Options of adapting a model, as data: a command shows its help without waiting for torch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from icgeo.config import UsageError

EPISODE_CHOICES = ("random", "alike", "near", "confusing")
"""How the pairs of an episode may be chosen; `icgeo.training.episodes.choose_pairs` does it."""


@dataclass(frozen=True)
class EpisodeSamplingOptions:
    """How episodes are drawn; shares are probabilities."""

    views: int = 17
    """Pairs an episode."""
    choices: Sequence[str] = ("random",)
    """Of `EPISODE_CHOICES`, one for each episode at random."""
    for_steps: int | None = None
    """Steps of sampling that it is meant for, by which times are drawn and shifted; by default
    those that the model is sampled with."""
    share_at_t1: float | None = None
    """Share of targets at exactly t = 1, which one step reads; by default 0.6 for up to 4 steps,
    and for more one in as many."""
    time_mean: float | None = None
    """Mean of the logit of the other times, above 0 leaning to the noise; by default 0.5 for up to
    4 steps, and for more they are even on the time grid of sampling."""
    time_scale: float = 1.0
    """Deviation of the logit of the other times."""
    drop_examples: float = 0.1
    """Share of targets that see no example, for guidance by examples and answers without any."""
    drop_text: float = 0.1
    """Share of episodes without an instruction, for guidance by the instruction."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.choices if name not in EPISODE_CHOICES]
        if unknown or not self.choices:
            raise UsageError(
                f"expected choices of {sorted(EPISODE_CHOICES)}, got {list(self.choices)}"
            )
        if self.views < 2:
            raise UsageError(f"expected at least 2 views an episode, got {self.views}")
        if self.for_steps is not None and self.for_steps < 1:
            raise UsageError(f"expected for_steps of at least 1, got {self.for_steps}")


@dataclass(frozen=True)
class LoraOptions(EpisodeSamplingOptions):
    """What is learned, and how fast."""

    rank: int = 16
    """Rank of the LoRA."""
    alpha: int = 32
    """Scale of the LoRA: its change is multiplied by alpha / rank."""
    dora: bool = False
    """Learn direction and magnitude apart (DoRA; Liu et al. 2024)."""
    rslora: bool = False
    """Multiply by alpha / sqrt(rank) instead (rsLoRA; Kalajdzievski 2023)."""
    targets: tuple[str, ...] = ()
    """Modules to adapt, as regular expressions of their names; none means the architecture's."""
    learning_rate: float = 3e-3
    """Peak of the learning rate."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """How the learning rate goes after its warm-up."""
    warmup: int = 10
    """Steps over which the learning rate rises."""
    steps: int = 300
    """Steps in all."""
    episodes: int = 4
    """Episodes a step, over all processes and accumulated parts."""
    accumulate: int = 1
    """Parts of a step whose gradients are added up."""
    max_grad_norm: float = 1.0
    """Largest norm of the gradient."""
    average: float = 0.95
    """Decay of the running average of the adapter, which is what is saved."""
    eight_bit: bool = False
    """Keep the state of AdamW in 8 bits, with bitsandbytes, on a GPU."""
    checkpointing: bool = False
    """Compute activations again in the backward pass, for less memory."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "bf16"
    """Of the computation; adapters stay in float32."""
    tracker: Literal["none", "tensorboard", "wandb"] = "tensorboard"
    """Where losses go beside log.jsonl, if it is installed: pip install 'icgeo[trackers]'."""
    validate_every: int = 60
    """Steps between validations."""
    save_every: int = 20
    """Steps between checkpoints."""
    patience: int = 0
    """Validations without improvement after which to stop; 0 means never."""
    seed: int = 0
    """Of everything that is drawn."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rank", "alpha", "steps", "episodes", "accumulate", "validate_every"):
            if getattr(self, name) < 1:
                raise UsageError(f"expected {name} of at least 1, got {getattr(self, name)}")
        if not 0 <= self.average < 1:
            raise UsageError(f"expected an average decay in [0, 1), got {self.average}")

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        rise = min(1.0, (step + 1) / max(1, self.warmup))
        if self.schedule == "constant":
            return self.learning_rate * rise
        progress = max(0.0, (step - self.warmup) / max(1, self.steps - self.warmup))
        return self.learning_rate * rise * (0.01 + 0.99 * (1 + math.cos(math.pi * progress)) / 2)
