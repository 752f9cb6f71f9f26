"""Causes: activations are changed at a block and time, and the map that is drawn is read again.

Conventions: activations are [photos, tokens, channels] at the tokens of the map. A place is a unit
vector. Of two ways to follow a probe, the `pattern` is how activations change with the place (the
regression of activations on places; Haufe et al. 2014), the `weights` are what the probe weighs
(the least change that makes it say another place). A feature is followed along its direction, or
along the difference of its photos from all. What a change does is compared with changes of the same
norm that know no place.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from einops import einsum
from jaxtyping import Float, Int, UInt8
from pandas import DataFrame, concat
from torch import Generator, Tensor
from torch.nn import functional

from icgeo import maps
from icgeo.config import require
from icgeo.latents.feature_steering import (
    RANDOM,
    Activations,
    Changed,
    FeatureDirection,
    feature_changes,
    of_norm,
)
from icgeo.latents.probes import ALPHAS
from icgeo.metrics.intervals import paired_bootstrap
from icgeo.models import Context, MapModel
from icgeo.models.blocks import Activation, Edit, Taps, walk
from icgeo.seeds import seeded_generator
from icgeo.sphere import EARTH_RADIUS_KM, angle, log_map, to_xyz
from icgeo.sphere.density import Density

NSIDE = 32
"""Of the densities that are read: cells of 200 km."""

Direction = Float[Tensor, "3 tokens channels"]


@dataclass(frozen=True, eq=False)
class PlaceDirections:
    """How a linear probe joins activations and places."""

    mean: Float[Tensor, "tokens channels"]
    """Of the photos that it was fitted on."""
    pattern: Direction
    """Change of activations with each coordinate of the place."""
    weights: Direction
    """Of the probe, for each coordinate."""

    @classmethod
    def fit(cls, x: Activations, lat_lon: Float[Tensor, "photos 2"]) -> "PlaceDirections":
        """Fit both ways, the weights by ridge regression of a strength that is chosen by GCV."""
        require("sklearn", "a probe", "latents")
        from sklearn.linear_model import RidgeCV

        mean, xyz = x.double().mean(0), to_xyz(lat_lon.double())
        rows = (x.double() - mean).flatten(1)
        pattern = torch.linalg.lstsq(xyz - xyz.mean(0), rows).solution
        scale = rows.std(0).clamp_min(1e-9)
        ridge = RidgeCV(ALPHAS).fit((rows / scale).numpy(), xyz.numpy())
        weights = torch.from_numpy(ridge.coef_) / scale
        shape = (3, *x.shape[1:])
        return cls(mean, pattern.reshape(shape), weights.reshape(shape))

    def along_weights(self, change: Float[Tensor, "photos 3"]) -> Activations:
        """Return the least change of activations after which the probe says another place."""
        inverse = torch.linalg.pinv(self.weights.flatten(1))
        return (change @ inverse.T).reshape(len(change), *self.mean.shape)


def project(x: Activations, basis: Float[Tensor, "count tokens channels"]) -> Activations:
    """Project activations on the span of some directions."""
    q = torch.linalg.qr(basis.flatten(1).T).Q
    return (x.flatten(1) @ q @ q.T).reshape(x.shape)


BETWEEN_PHOTOS = "difference of two other photos"
RANDOM_EXCHANGED, RANDOM_REMOVED = "random subspace exchanged", "random subspace removed"


def changes(
    x: Activations,
    here: Float[Tensor, "photos 3"],
    partner: Int[Tensor, " photos"],
    directions: PlaceDirections,
    *,
    strength: float = 1.0,
    generator: Generator,
) -> list[Changed]:
    """Return all changes of photos towards the place of another photo each, their partner.

    Args:
        x: activations of the photos.
        here: where their maps are read.
        partner: the number of each photo's partner.
        directions: a probe that was fitted on other photos.
        strength: how far along the probe, as a multiple of the way to the partner's place.
        generator: draws random directions and pairs of photos.
    """
    x, partner_x = x.double(), x.double()[partner]
    way = here[partner] - here
    step = strength * einsum(way, directions.pattern, "n i, i t c -> n t c")
    noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    order, next_one = torch.randperm(len(x), generator=generator), cycle(len(x), generator)
    between = x[order] - x[next_one[order]]
    place = project(partner_x - x, directions.pattern)
    projection = project(x - directions.mean, directions.pattern)
    basis = torch.randn(directions.pattern.shape, generator=generator, dtype=torch.float64)
    by_weights = of_norm(directions.along_weights(way), step)
    return [
        Changed("probe pattern", x + step, BETWEEN_PHOTOS),
        Changed("probe weights", x + by_weights, RANDOM),
        Changed(RANDOM, x + of_norm(noise, step)),
        Changed(BETWEEN_PHOTOS, x + of_norm(between, step)),
        Changed("place exchanged", x + place, RANDOM_EXCHANGED),
        Changed(RANDOM_EXCHANGED, x + of_norm(project(partner_x - x, basis), place)),
        Changed("all exchanged", partner_x, "mean photo"),
        Changed("place removed", x - projection, RANDOM_REMOVED),
        Changed(RANDOM_REMOVED, x - of_norm(project(x - directions.mean, basis), projection)),
        Changed("mean photo", directions.mean.expand_as(x)),
    ]


ReadMaps = tuple[list[Density], Float[Tensor, "photos 2"]]
"""Densities of maps, and their mean directions in degrees; NaN of illegible maps."""


def _read(model: MapModel, images: Tensor) -> ReadMaps:
    settings = model.settings
    readings = maps.read(images, settings.style, noise=settings.noise, nside=NSIDE)
    means = [
        one.density.mean() if one.legibility >= maps.LEGIBLE else torch.full((2,), torch.nan)
        for one in readings
    ]
    return [one.density for one in readings], torch.stack(means).double()


def steer(
    model: MapModel,
    context: Context,
    photos: UInt8[Tensor, "photos 3 high wide"],
    lat_lon: Float[Tensor, "photos 2"],
    *,
    directions: PlaceDirections | tuple[FeatureDirection, FeatureDirection],
    edit: tuple[int, float, float] = (0, 1.0, 1.0),
    prompt: str,
) -> DataFrame:
    """Change the activations of photos in each way, and measure how their maps move.

    `edit` is the block, the time, and the strength of the change. All photos begin with the same
    noise, which what is exchanged would else carry over; fit `directions` on such activations.
    Their goal is where the map of another photo is, their partner, or where the first of two
    features is; the second is its control.

    Returns:
        a row for each photo and change ("none" is before), with the columns change, against, photo,
        lat, lon (of the map, NaN if it is illegible), goal_lat, goal_lon, moved_km, nearer_km (to
        the goal), cosine (of the way moved with the way there), nll_truth and nll_goal (of the true
        places of the photo and of its partner, or of the feature, in nats per steradian).
    """
    block, time, strength = edit
    taps = Taps((block,), tuple(sorted({1.0, time}, reverse=True)), same_noise=True)
    draw = partial(walk, model, context, photos, prompt=prompt, taps=taps)
    steps = list(draw())
    x = next(step for step in steps if step.time == time).activations[block]
    densities, means = _read(model, steps[-1].maps)
    of_features = () if isinstance(directions, PlaceDirections) else (directions[0].number,)
    generator = seeded_generator("steering", block, time, *of_features)
    options: Any = {"strength": strength, "generator": generator}
    if isinstance(directions, PlaceDirections):
        partner = cycle(len(x), seeded_generator("partners"))
        xyz = to_xyz(means.where(means.isfinite(), lat_lon))
        ways = changes(x, xyz, partner, directions, **options)
        places = {"goal": means[partner], "goal_truth": lat_lon[partner], "truth": lat_lon}
    else:
        ways = feature_changes(x, *directions, **options)
        goal = directions[0].goal.expand(len(x), -1)
        places = {"goal": goal, "goal_truth": goal, "truth": lat_lon}
    rows = [_rows(Changed("none", x), means, (densities, means), **places)]
    for way in ways:
        change = partial(_become, way.activations)
        *_, last = draw(edits=[Edit(block, change, time)])
        rows.append(_rows(way, means, _read(model, last.maps), **places))
    return concat(rows, ignore_index=True)


def _become(new: Activations, old: Activation) -> Activation:
    """Put new activations in the place of old ones, with their dtype and device."""
    return new.to(old)


def cycle(count: int, generator: Generator) -> Int[Tensor, " photos"]:
    """Give each photo another as its partner, in one large circle."""
    order = torch.randperm(count, generator=generator)
    partner = torch.empty_like(order)
    partner[order] = order.roll(-1)
    return partner


def _rows(
    way: Changed,
    before: Tensor,
    after: ReadMaps,
    *,
    goal: Tensor,
    goal_truth: Tensor,
    truth: Tensor,
) -> DataFrame:
    densities, lat_lon = after
    goal_xyz, start_xyz, end_xyz = (
        to_xyz(x.double().nan_to_num()) for x in (goal, before, lat_lon)
    )
    nll_truth, nll_goal = (
        torch.stack([-one.log_prob(place) for one, place in zip(densities, places, strict=True)])
        for places in (truth, goal_truth)
    )
    ways = [functional.normalize(log_map(start_xyz, end), dim=-1) for end in (end_xyz, goal_xyz)]
    valid = (goal + before + lat_lon).isfinite().all(1)
    angles = [
        EARTH_RADIUS_KM * angle(*ends)
        for ends in ((start_xyz, end_xyz), (start_xyz, goal_xyz), (end_xyz, goal_xyz))
    ]
    values = {
        "moved_km": angles[0].where(valid, torch.nan),
        "nearer_km": (angles[1] - angles[2]).where(valid, torch.nan),
        "cosine": (ways[0] * ways[1]).sum(-1).where(valid, torch.nan),
        "nll_truth": nll_truth,
        "nll_goal": nll_goal,
    }
    places = torch.cat((lat_lon, goal), dim=1)
    table = DataFrame(places.numpy(), columns=["lat", "lon", "goal_lat", "goal_lon"])
    labels = {"change": way.name, "against": way.against, "photo": range(len(places))}
    return table.assign(**labels, **{name: part.numpy() for name, part in values.items()})


COLUMNS = ("moved_km", "nearer_km", "nll_truth", "nll_goal")


def compare_changes(
    rows: DataFrame, *, unit: str = "photo", against: Mapping[str, str] | None = None
) -> DataFrame:
    """Compare each change with the one of the same norm that knows no place, photo by photo.

    `unit` is the column of what is compared and resampled: photos, or features, whose photos are
    averaged first. `against` names other changes to compare with.

    Returns:
        a row for each change, with the mean of each of `COLUMNS` and of cosine, the share of
        legible maps, and the paired difference from the change named `against` with its 95 %
        bootstrap interval. Photos of which a map is illegible are left out of ways.
    """
    lines = []
    means = rows.groupby(["change", unit], sort=False)[list(COLUMNS)].mean()
    for name, part in rows.groupby("change", sort=False):
        control = (against or {}).get(str(name), part.against.iloc[0])
        line: dict[str, Any] = {"change": name, "against": control}
        line |= {"legible": part.lat.notna().mean(), "cosine": part.cosine.mean()}
        for column in COLUMNS:
            line[column] = part[column].mean()
            if control is not None:
                pair = (means.loc[label][column].to_numpy() for label in (name, control))
                line |= _difference(column, *pair)
        lines.append(line)
    return DataFrame(lines)


def _difference(column: str, a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    valid = np.isfinite(a) & np.isfinite(b)
    if valid.sum() < 2:
        return {}
    generator = seeded_generator("steering", column)
    interval = paired_bootstrap(a[valid], b[valid], generator=generator)
    names = (f"{column}_more", f"{column}_low", f"{column}_high")
    return dict(zip(names, (interval.estimate, interval.low, interval.high), strict=True))
