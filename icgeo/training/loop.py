"""The loop of training: step after step, with validation, log and checkpoints on the way."""

import ctypes
import json
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from icgeo.writing import write_atomically


@runtime_checkable
class _Logged(Protocol):
    """What is trained, if its losses are kept in a folder, and where it stands."""

    @property
    def folder(self) -> Path | None: ...
    @property
    def step(self) -> int: ...


@runtime_checkable
class _Run(_Logged, Protocol):
    """What is trained; `save` writes at once or not at all."""

    @property
    def has_stopped(self) -> bool: ...
    def resume(self) -> bool: ...
    def update(self) -> dict[str, float]: ...
    def validate(self) -> dict[str, float]: ...
    def log(self, record: Mapping[str, float]) -> None: ...
    def save(self) -> None: ...


def train(
    run: _Run,
    steps: int,
    *,
    validate_every: int,
    save_every: int,
    log_every: int | None = None,
    is_main: bool = True,
) -> None:
    """Train to the end, from the last checkpoint if there is one.

    The last step is validated and saved, too. `log_every` counts the steps between lines of mean
    losses, if not those of validation; the process that `is_main` shows progress.
    """
    if run.folder:
        run.folder.mkdir(parents=True, exist_ok=True)
    run.resume()
    bar = tqdm(total=steps, initial=run.step, desc="training", disable=not is_main)
    updates: list[dict[str, float]] = []
    start = time.perf_counter()
    while run.step < steps and not run.has_stopped:
        updates.append(run.update())
        bar.update()
        has_ended = run.step == steps
        is_validated = run.step % validate_every == 0 or has_ended
        if is_validated or (log_every and run.step % log_every == 0):
            seconds = (time.perf_counter() - start) / len(updates)
            last = updates[-1]
            means = {
                name: fmean(terms[name] for terms in updates if name in terms) for name in last
            }
            run.log({**means, "seconds": seconds, **(run.validate() if is_validated else {})})
            start, updates = time.perf_counter(), []
        if run.step % save_every == 0 or has_ended or run.has_stopped:
            run.save()
    bar.close()


def annealed_rate(
    step: int, steps: int, *, peak: float, warmup: int = 100, fall: float = 0.35
) -> float:
    """Return the learning rate of a step: it rises linearly, and falls to a fiftieth at the end.

    `warmup` is the number of steps of the rise, `fall` the share of all steps of the fall.
    """
    remainder = (steps - step) / max(1.0, fall * steps)
    return peak * min(1.0, (step + 1) / warmup) * min(1.0, max(0.02, remainder))


def has_fast_bfloat16(device: torch.device) -> bool:
    """Return whether bfloat16 is worth it: ten times slower on processors without units for it."""
    units = ("amx_bf16", "avx512_bf16", "bf16")
    # torch 2.6 has it not
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return device.type != "cpu" or any(map(capabilities.get, units))


def autocast(device: torch.device) -> AbstractContextManager[None]:
    """Compute in bfloat16 where that is fast, with weights in float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=has_fast_bfloat16(device))


def descend(optimizer: Optimizer, loss: Tensor, weights: Iterable[Tensor], rate: float) -> None:
    """Take a step down the gradient of a loss, that of the weights being clipped to a norm of 1."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(weights, 1.0)
    optimizer.step()


@runtime_checkable
class _Pretraining(Protocol):
    """What is trained on episodes drawn anew, in one process; its `parts` are saved by name."""

    folder: Path
    state_file: ClassVar[str]
    step: int
    generator: Generator
    log_scale: nn.Parameter
    parts: dict[str, Any]


def save_state(run: _Pretraining) -> None:
    """Write the whole state, at once or not at all."""
    run.folder.mkdir(parents=True, exist_ok=True)
    state: dict[str, Any] = {part: value.state_dict() for part, value in run.parts.items()}
    state |= {"log_scale": run.log_scale.data, "generator": run.generator.get_state()}
    with write_atomically(run.folder / run.state_file) as partial_path:
        torch.save({**state, "step": run.step}, partial_path)


def load_state(run: _Pretraining) -> bool:
    """Continue from what `save_state` wrote, if it is there."""
    path = run.folder / run.state_file
    if not path.exists():
        return False
    state = torch.load(path, map_location=run.log_scale.device, weights_only=True)
    for part, value in run.parts.items():
        value.load_state_dict(state[part])
    run.log_scale.data.copy_(state["log_scale"])
    run.generator.set_state(state["generator"].cpu())
    run.step = state["step"]
    return True


def append_log(run: _Logged, record: Mapping[str, float]) -> None:
    """Append a line to `log.jsonl`, if the run has a folder."""
    if run.folder:
        with (run.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps({"step": run.step, **record}) + "\n")


def keep_freed_memory() -> None:
    """Let glibc, where it is, reuse large blocks instead of returning them to the system.

    A training step frees and asks for the same gigabyte each time, and page faults can outweigh
    the arithmetic.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # of malloc.h
        for name in (mmap_threshold, trim_threshold):
            mallopt(name, 2**31 - 1)
        mallopt(top_pad, 2**28)
