"""The loop of training: step after step, with validation, log and checkpoints on the way."""

import ctypes
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Protocol, runtime_checkable

from tqdm import tqdm


@runtime_checkable
class _Run(Protocol):
    """What is trained, and where it stands; `save` writes at once or not at all."""

    folder: Path

    @property
    def step(self) -> int: ...
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

    Args:
        run: what is trained.
        steps: in all.
        validate_every: steps between validations; the last step is validated too.
        save_every: steps between checkpoints; the last step is saved too.
        log_every: steps between lines of mean losses, if not those of validation.
        is_main: whether this process shows progress.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    run.resume()
    bar = tqdm(total=steps, initial=run.step, desc="training", disable=not is_main)
    recent: list[dict[str, float]] = []
    start = time.perf_counter()
    while run.step < steps and not run.has_stopped:
        recent.append(run.update())
        bar.update()
        has_ended = run.step == steps
        is_validated = run.step % validate_every == 0 or has_ended
        if is_validated or (log_every and run.step % log_every == 0):
            seconds = (time.perf_counter() - start) / len(recent)
            means = {
                name: fmean(terms[name] for terms in recent if name in terms) for name in recent[-1]
            }
            run.log({**means, "seconds": seconds, **(run.validate() if is_validated else {})})
            start, recent = time.perf_counter(), []
        if run.step % save_every == 0 or has_ended or run.has_stopped:
            run.save()
    bar.close()


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
