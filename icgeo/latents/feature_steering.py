"""Causes: a feature is added to activations, or taken out, and the maps are read again.

Conventions: the same direction is added at every token that is looked at, so that the mean over
tokens, on which the autoencoder was trained, moves by exactly the amount. Distances are in km, NLL
in nats per steradian; a feature's goal is the place around which its photos are.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from einops import reduce
from jaxtyping import UInt8
from pandas import DataFrame, concat
from torch import Generator, Tensor
from torch.nn import functional

from icgeo import maps, sphere
from icgeo.latents.concentration import top_photos
from icgeo.latents.sparse import SparseAutoencoder, remove
from icgeo.metrics.intervals import Interval, paired_bootstrap
from icgeo.models import Context, MapModel
from icgeo.models.blocks import Activation, Edit, Taps, walk
from icgeo.seeds import seeded_generator
from icgeo.sphere import Values

NSIDE = 32
"""Of the densities that are read: cells of 200 km."""
MOST = 50
"""Photos that say where a feature is, and how much of it there is."""
ADDED, RANDOM, OTHER = "feature added", "random direction", "another feature added"
REMOVED = "feature removed"


@dataclass(frozen=True)
class Goal:
    """Where a feature is, and how much of it is added."""

    lat: float
    lon: float
    amount: float
    """Mean code of the photos with most of it, in units of the activations."""

    @classmethod
    def of(cls, codes: Any, lat_lon: Values, feature: int) -> "Goal":
        """Take the mean direction of the photos with most of a feature, weighted by their codes."""
        photos = top_photos(codes, feature, MOST)
        if not len(photos):
            raise ValueError(f"expected photos with feature {feature}, which fires in none")
        values = torch.from_numpy(codes[photos][:, [feature]].toarray()).double()
        xyz = sphere.to_xyz(sphere.as_lat_lon(lat_lon).double()[torch.from_numpy(photos).long()])
        lat, lon = sphere.to_lat_lon(functional.normalize((values * xyz).sum(0), dim=0)).tolist()
        return cls(lat, lon, float(values.mean()))


def steer_features(
    model: MapModel,
    context: Context,
    photos: UInt8[Tensor, "photos 3 high wide"],
    *,
    autoencoder: SparseAutoencoder,
    goals: Mapping[int, Goal],
    edit: tuple[int, float, float] = (0, 1.0, 1.0),
    prompt: str,
) -> DataFrame:
    """Add each feature to the activations of photos, or take it out, and measure what maps do.

    Beside each feature a random direction and the feature after it in `goals` are added, of the
    same norm. `edit` is the block, the time, and a factor on the amount of each goal.

    Returns:
        a row for each feature, change and photo: feature, change, photo, moved_km (of the
        density's mean direction), nearer_km (of that to the feature's goal), nll_goal (how much
        less likely the map says the goal is than before: negative is nearer).
    """
    block, time, factor = edit
    taps = Taps((block,), tuple(sorted({1.0, time}, reverse=True)))
    draw = partial(walk, model, context, photos, prompt=prompt, taps=taps)

    def drawn(*edits: Edit) -> list[maps.Reading]:
        *_, last = draw(edits=edits)
        settings = model.settings
        return maps.read(last.maps, settings.style, noise=settings.noise, nside=NSIDE)

    generator = seeded_generator("random directions", block, time)
    before, rows, numbers = drawn(), [], list(goals)
    for position, (feature, goal) in enumerate(goals.items()):
        atom = autoencoder.direction(feature)
        other = autoencoder.direction(numbers[(position + 1) % len(numbers)])
        random = functional.normalize(torch.randn(atom.shape, generator=generator), dim=0)
        amount = factor * goal.amount
        changes: dict[str, Any] = {
            name: partial(_add, step=amount * direction)
            for name, direction in ((ADDED, atom), (RANDOM, random), (OTHER, other))
        }
        changes[REMOVED] = edit_mean(autoencoder, remove(feature))
        for name, change in changes.items():
            after = drawn(Edit(block, change, time))
            measured = _measure(before, after, (goal.lat, goal.lon))
            rows.append(measured.assign(feature=feature, change=name))
    return concat(rows, ignore_index=True)


def edit_mean(
    autoencoder: SparseAutoencoder, change: Callable[[Tensor], Tensor]
) -> Callable[[Activation], Activation]:
    """Return a change of activations, for `Edit`, by which the codes of their mean are changed.

    `change` is `sparse.remove`, `sparse.exchange`, or any other of codes; every token moves by the
    same, for autoencoders of means over tokens.
    """

    def changed(activations: Activation) -> Activation:
        mean = reduce(activations, "n t c -> n 1 c", "mean")
        return activations + (autoencoder.edit(mean, change) - mean)

    return changed


def _add(activations: Activation, *, step: Tensor) -> Activation:
    return activations + step.to(activations)


def _measure(
    before: list[maps.Reading], after: list[maps.Reading], goal: tuple[float, float]
) -> DataFrame:
    there = torch.tensor(goal, dtype=torch.float64)
    points = [
        torch.stack([one.density.mean() for one in some]).double() for some in (before, after)
    ]
    here, now = points
    likely = [
        torch.stack([one.density.log_prob(there) for one in some]) for some in (before, after)
    ]
    values = {
        "moved_km": sphere.distance_km(here, now),
        "nearer_km": sphere.distance_km(here, there) - sphere.distance_km(now, there),
        "nll_goal": likely[0] - likely[1],
    }
    table = {name: value.numpy() for name, value in values.items()}
    return DataFrame({"photo": range(len(before)), **table})


def compare_steering(
    rows: DataFrame, column: str = "nll_goal", *, against: str = RANDOM, generator: Generator
) -> Interval:
    """Compare adding features with another change, feature by feature, with a 95 % interval.

    The difference of the means over photos of a column; features are resampled.
    """
    means = rows.groupby(["change", "feature"])[column].mean()
    both = (torch.from_numpy(means[name].to_numpy(copy=True)) for name in (ADDED, against))
    return paired_bootstrap(*both, generator=generator)
