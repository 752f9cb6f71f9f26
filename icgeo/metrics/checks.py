"""Columns of numbers and of locations as the scores take them, or a `ValueError` that says why."""

import math

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

from icgeo.sphere import Values, as_lat_lon


def checked(
    values: ArrayLike | Tensor, name: str, *, low: float = -math.inf, high: float = math.inf
) -> Float[Tensor, "..."]:
    """Numbers in [low, high] as float64."""
    tensor = values if isinstance(values, Tensor) else torch.from_numpy(np.array(values, float))
    tensor = tensor.double()
    wrong = ~((tensor >= low) & (tensor <= high))  # NaN is in no range
    if wrong.any():
        where = tuple(wrong.nonzero()[0].tolist())
        raise ValueError(
            f"expected {name} in [{low:g}, {high:g}], got {tensor[where].item():g} at index "
            f"{list(where)}; drop such queries, or score a missing answer as infinitely far"
        )
    return tensor


def column(
    values: ArrayLike | Tensor, name: str, *, low: float = -math.inf, high: float = math.inf
) -> Float[Tensor, "rows"]:
    """One number in [low, high] for each of at least one query."""
    numbers = checked(values, name, low=low, high=high)
    if numbers.ndim != 1 or not len(numbers):
        raise ValueError(
            f"expected one {name} for each of at least one query, got shape {tuple(numbers.shape)}"
        )
    return numbers


def places(values: Values, name: str) -> Float[Tensor, "rows 2"]:
    """At least one location in degrees, float64."""
    lat_lon = as_lat_lon(values).double()
    if lat_lon.ndim != 2 or not len(lat_lon):
        raise ValueError(
            f"expected a {name} (latitude, longitude) for each of at least one query, "
            f"got shape {tuple(lat_lon.shape)}"
        )
    return lat_lon


def answers(values: Values, name: str) -> tuple[Float[Tensor, "rows 2"], Tensor]:
    """Locations, and which rows have one: NaN stands for a query without an answer."""
    lat_lon = torch.as_tensor(np.array(values, float) if not isinstance(values, Tensor) else values)
    known = ~lat_lon.isnan().all(-1) if lat_lon.ndim else torch.ones(())
    return places(torch.where(known[..., None].bool(), lat_lon, 0), name), known


def same_rows(count: int, other: int, name: str) -> None:
    """Refuse two columns of different lengths."""
    if count != other:
        raise ValueError(f"expected {name} of {count} queries, got {other}")
