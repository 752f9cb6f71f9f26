"""The share of an evaluation that a process has, as Accelerate started it.

Conventions: process i of n takes every n-th batch from the i-th on. Each writes rows of its own
beside the common ones; all processes, on all machines, see the same folder.
"""

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from icgeo.config import UsageError

PATIENCE = timedelta(days=30)
"""How long a process that is done waits for the others."""


@dataclass(frozen=True)
class Shard:
    """One of `count` processes.

    Raises:
        ValueError: an index outside [0, count).
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(
                f"expected a shard below their count, got {self.index} of {self.count}; "
                "shards are counted from 0"
            )

    @classmethod
    def here(cls) -> "Shard":
        """Return which of the processes of `accelerate launch` or torchrun this is; alone 0 of 1.

        Makes the GPU of this process the current one, so call it before a model is loaded.

        Raises:
            UsageError: there are several processes and Accelerate sees one alone.
        """
        state = _state()
        started = int(os.environ.get("WORLD_SIZE", "1"))
        if started != state.num_processes:
            raise UsageError(
                f"expected {started} processes as launched, Accelerate sees {state.num_processes}; "
                "start them by accelerate launch or torchrun, or unset WORLD_SIZE"
            )
        return cls(state.process_index, state.num_processes)

    @property
    def is_main(self) -> bool:
        """Whether it prints, shows progress and merges."""
        return self.index == 0

    @property
    def file_name(self) -> str:
        """Where its rows go."""
        if self.count == 1:
            return "predictions.jsonl"
        return f"predictions-{self.index}-of-{self.count}.jsonl"

    def takes(self, batch: int) -> bool:
        """Whether the batch of that number is one of its share."""
        return batch % self.count == self.index

    def wait(self) -> None:
        """Wait for the other processes."""
        if self.count > 1:
            _state().wait_for_everyone()


ALONE = Shard()


def _state() -> Any:
    import torch
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    # it reads that flag only from within an Accelerator
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    return PartialState(cpu=on_cpu, timeout=PATIENCE)
