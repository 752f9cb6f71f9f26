"""The flow ordinary differential equation: noise, time grid and steps.

Time: t = 1 is noise, t = 0 is data, x_t = (1 - t) x_0 + t noise, velocity = noise - data (Liu et
al. 2023, "Flow Straight and Fast"; the convention of FLUX).
"""

from collections.abc import Callable, Sequence

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from icgeo.seeds import seeded_generator

Velocity = Callable[[Float[Tensor, "*batch"], float], Float[Tensor, "*batch"]]
StepCallback = Callable[[Tensor, float], None]
"""Is called after each step with what the data look like from there, and the time before it."""


def shifted(t: Float[Tensor, "*batch"], shift: float) -> Float[Tensor, "*batch"]:
    """Move times towards the noise: t' = s t / (1 + (s - 1) t) (Esser et al. 2024, eq. 23).

    For the times of sampling and of training alike; above 1 it leans to the noise.
    """
    return t / (t + (1 - t) / shift)  # the same, exact at both ends


def time_grid(steps: int, *, shift: float = 1.0) -> Float[Tensor, " times"]:
    """Times from 1 to 0, `steps + 1` of them, even before they are shifted.

    Raises:
        ValueError: fewer than one step.
    """
    if steps < 1:
        raise ValueError(f"expected at least 1 step, got {steps}")
    return shifted(torch.linspace(1, 0, steps + 1, dtype=torch.float64), shift)


def euler(
    velocity: Velocity,
    noise: Float[Tensor, "*batch"],
    times: Float[Tensor, " times"],
    *,
    callback_on_step_end: StepCallback | None = None,
) -> Float[Tensor, "*batch"]:
    """Follow the flow from noise to data by Euler's steps.

    With one step this is `noise - velocity(noise, 1)`, the mean of all data given the condition:
    the posterior in one step. `callback_on_step_end` is called at each time t, in order, with the
    estimate x_t - t velocity(x_t, t) of the data, and t; the last estimate is what is returned.
    """
    x = noise
    for t, next_t in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        v = velocity(x, t)
        if callback_on_step_end is not None:
            callback_on_step_end(x - t * v, t)
        x = x + (next_t - t) * v
    return x


def decoded(
    callback_on_step_end: StepCallback | None, decode: Callable[[Tensor], Tensor]
) -> StepCallback | None:
    """Call `callback_on_step_end` with what `decode` makes of each estimate; None stays None."""
    if callback_on_step_end is None:
        return None
    return lambda estimate, t: callback_on_step_end(decode(estimate), t)


def guided(velocity: Velocity, base: Velocity, scale: float) -> Velocity:
    """Lean away from a velocity that is told less: base + scale (velocity - base).

    Classifier-free guidance (Ho and Salimans 2022, eq. 6, whose w is scale - 1); what `base` is not
    told may be the instruction or the examples. With scale 1 it is not asked.
    """
    if scale == 1:
        return velocity

    def leaning(x: Float[Tensor, "*batch"], t: float) -> Float[Tensor, "*batch"]:
        base_velocity = base(x, t)
        return base_velocity + scale * (velocity(x, t) - base_velocity)

    return leaning


def keyed_noise(
    contents: Sequence[bytes], shape: Sequence[int], *, samples: int, seed: int
) -> Float[Tensor, "queries samples *shape"]:
    """Standard normal noise that depends on (seed, content, sample) alone.

    So that neither the batch size nor the order of the queries changes an answer.
    """
    noise = torch.stack(
        [
            torch.randn(*shape, generator=seeded_generator(seed, sample, content))
            for content in contents
            for sample in range(samples)
        ]
    )
    return rearrange(noise, "(q s) ... -> q s ...", s=samples)
