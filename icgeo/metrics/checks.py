"""Numbers and locations as the scores take them, or a `ValueError` that says why."""

import math

import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

from icgeo.sphere import Values, as_lat_lon, as_tensor


def as_numbers(
    values: ArrayLike | Tensor, name: str, *, low: float = -math.inf, high: float = math.inf
) -> Float[Tensor, "..."]:
    """Return numbers in [low, high] as float64."""
    numbers = as_tensor(values).double()
    wrong = ~((numbers >= low) & (numbers <= high))  # NaN is in no range
    if wrong.any():
        where = tuple(wrong.nonzero()[0].tolist())
        raise ValueError(
            f"expected {name} in [{low:g}, {high:g}], got {numbers[where].item():g} at index "
            f"{list(where)}; drop such queries, or score a missing answer as infinitely far"
        )
    return numbers


def as_column(
    values: ArrayLike | Tensor, name: str, *, low: float = -math.inf, high: float = math.inf
) -> Float[Tensor, "rows"]:
    """Return one number in [low, high] for each of at least one query."""
    numbers = as_numbers(values, name, low=low, high=high)
    check_rows(numbers, 1, f"one {name}")
    return numbers


def as_locations(values: Values, name: str) -> Float[Tensor, "rows 2"]:
    """Return at least one location in degrees, float64."""
    lat_lon = as_lat_lon(values).double()
    check_rows(lat_lon, 2, f"a {name} (latitude, longitude)")
    return lat_lon


def as_answers(values: Values, name: str) -> tuple[Float[Tensor, "rows 2"], Tensor]:
    """Return locations, and which rows have one: NaN stands for a query without an answer."""
    lat_lon = as_tensor(values)
    known = ~lat_lon.isnan().all(-1) if lat_lon.ndim else torch.tensor(True)
    return as_locations(torch.where(known[..., None], lat_lon, 0), name), known


def check_rows(rows: Tensor, dimensions: int, name: str) -> None:
    """Refuse no row, or other dimensions."""
    if rows.ndim != dimensions or not len(rows):
        raise ValueError(
            f"expected {name} for each of at least one query, got shape {tuple(rows.shape)}"
        )


def check_same_rows(count: int, other: int, name: str) -> None:
    """Refuse two columns of different lengths."""
    if count != other:
        raise ValueError(f"expected {name} of {count} queries, got {other}")
