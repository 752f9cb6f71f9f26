"""Causes: activations are changed at a block and time, and the map that is drawn is read again.

Conventions: activations are [photos, tokens, channels] at the tokens of the map. A place is a unit
vector. Of two ways to follow a probe, the `pattern` is how activations change with the place (the
regression of activations on places; Haufe et al. 2014), the `weights` are what the probe weighs
(the least change that makes it say another place). What a change does is compared with changes of
the same norm that know no place.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int, UInt8
from pandas import DataFrame, concat
from torch import Generator, Tensor
from torch.nn import functional

from icgeo import maps
from icgeo.config import require
from icgeo.latents.probes import ALPHAS
from icgeo.metrics.intervals import paired_bootstrap
from icgeo.models import Context, MapModel
from icgeo.models.blocks import Edit, Taps, walk
from icgeo.seeds import seeded_generator
from icgeo.sphere import EARTH_RADIUS_KM, angle, log_map, to_xyz

NSIDE = 32
"""Of the densities that are read: cells of 200 km."""

Activations = Float[Tensor, "photos tokens channels"]
Direction = Float[Tensor, "3 tokens channels"]
Places = Float[Tensor, "photos 3"]


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

    def along_pattern(self, change: Places) -> Activations:
        """Return the change of activations that goes with a change of the place."""
        return einsum(change, self.pattern, "n i, i t c -> n t c")

    def along_weights(self, change: Places) -> Activations:
        """Return the least change of activations after which the probe says another place."""
        inverse = torch.linalg.pinv(self.weights.flatten(1))
        return (change @ inverse.T).reshape(len(change), *self.mean.shape)

    def project(self, x: Activations) -> Activations:
        """Project on the span of the pattern: what of activations goes with places."""
        return project(x, self.pattern)


def project(x: Activations, basis: Float[Tensor, "count tokens channels"]) -> Activations:
    """Project activations on the span of some directions."""
    q = torch.linalg.qr(basis.flatten(1).T).Q
    return (x.flatten(1) @ q @ q.T).reshape(x.shape)


def _of_norm(x: Activations, like: Activations) -> Activations:
    """Scale each photo's change to the norm of another."""
    norms = [rearrange(part.flatten(1).norm(dim=1), "n -> n 1 1") for part in (x, like)]
    return x * norms[1] / norms[0].clamp_min(1e-12)


@dataclass(frozen=True, eq=False)
class Changed:
    """What activations become."""

    name: str
    activations: Activations
    against: str | None = None
    """The name of the change of the same norm, which knows no place, to compare it with."""


RANDOM, BETWEEN_PHOTOS = "random direction", "difference of two other photos"
RANDOM_EXCHANGED, RANDOM_REMOVED = "random subspace exchanged", "random subspace removed"


def changes(
    x: Activations,
    here: Places,
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
    x, other = x.double(), x.double()[partner]
    way = here[partner] - here
    follow = strength * directions.along_pattern(way)
    noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    some, next_one = torch.randperm(len(x), generator=generator), cycle(len(x), generator)
    between = x[some] - x[next_one[some]]
    place = directions.project(other - x)
    dropped = directions.project(x - directions.mean)
    basis = torch.randn(directions.pattern.shape, generator=generator, dtype=torch.float64)
    by_weights = _of_norm(directions.along_weights(way), follow)
    return [
        Changed("probe pattern", x + follow, BETWEEN_PHOTOS),
        Changed("probe weights", x + by_weights, RANDOM),
        Changed(RANDOM, x + _of_norm(noise, follow)),
        Changed(BETWEEN_PHOTOS, x + _of_norm(between, follow)),
        Changed("place exchanged", x + place, RANDOM_EXCHANGED),
        Changed(RANDOM_EXCHANGED, x + _of_norm(project(other - x, basis), place)),
        Changed("all exchanged", other, "mean photo"),
        Changed("place removed", x - dropped, RANDOM_REMOVED),
        Changed(RANDOM_REMOVED, x - _of_norm(project(x - directions.mean, basis), dropped)),
        Changed("mean photo", directions.mean.expand_as(x)),
    ]


@dataclass(frozen=True, eq=False)
class _Read:
    """Maps as they are read."""

    lat_lon: Float[Tensor, "photos 2"]
    """Mean directions of the densities; NaN of illegible maps."""
    nll: Float[Tensor, "photos places"]
    """Of the places of interest, in nats per steradian."""


def _read(model: MapModel, drawn: Tensor, places: Float[Tensor, "places 2"]) -> _Read:
    settings = model.settings
    readings = maps.read(drawn, settings.style, noise=settings.noise, nside=NSIDE)
    means = [
        one.density.mean() if one.legibility >= maps.LEGIBLE else torch.full((2,), torch.nan)
        for one in readings
    ]
    nll = torch.stack([-one.density.log_prob(places) for one in readings])
    return _Read(torch.stack(means).double(), nll)


def steer(
    model: MapModel,
    context: Context,
    photos: UInt8[Tensor, "photos 3 high wide"],
    lat_lon: Float[Tensor, "photos 2"],
    *,
    directions: PlaceDirections,
    edit: tuple[int, float, float] = (0, 1.0, 1.0),
    prompt: str,
) -> DataFrame:
    """Change the activations of photos in each way, and measure how their maps move.

    `edit` is the block, the time, and the strength of the change. All photos begin with the same
    noise, which what is exchanged would else carry over; fit `directions` on such activations.

    Returns:
        a row for each photo and change ("none" is before), with the columns change, against, photo,
        lat, lon (of the map, NaN if it is illegible), partner_lat, partner_lon (of the map of the
        photo whose place is the goal), moved_km, nearer_km (to that place), cosine (of the way
        moved with the way there), nll_truth and nll_partner (of the true places of the photo and
        its partner, in nats per steradian).
    """
    block, time, strength = edit
    shown: Any = {"prompt": prompt, "taps": Taps((block,), (1.0, time), same_noise=True)}
    steps = list(walk(model, context, photos, **shown))
    x = next(step for step in steps if step.time == time).activations[block]
    before = _read(model, steps[-1].maps, lat_lon)
    partner = cycle(len(x), seeded_generator("partners"))
    here = to_xyz(before.lat_lon.where(before.lat_lon.isfinite(), lat_lon))
    generator = seeded_generator("steering", block, time)
    ways = changes(x, here, partner, directions, strength=strength, generator=generator)
    rows = [_rows(Changed("none", x), before, before, partner)]
    for way in ways:
        new = way.activations
        edits = [Edit(block, lambda old, new=new: new.to(old), time)]  # type: ignore[misc]
        *_, last = walk(model, context, photos, edits=edits, **shown)
        rows.append(_rows(way, before, _read(model, last.maps, lat_lon), partner))
    return concat(rows, ignore_index=True)


def cycle(count: int, generator: Generator) -> Int[Tensor, " photos"]:
    """Give each photo another as its partner, in one large circle."""
    order = torch.randperm(count, generator=generator)
    partner = torch.empty_like(order)
    partner[order] = order.roll(-1)
    return partner


def _rows(way: Changed, before: _Read, after: _Read, partner: Tensor) -> DataFrame:
    goal, rows = before.lat_lon[partner], torch.arange(len(partner))
    there, here, now = (
        to_xyz(lat_lon.nan_to_num()) for lat_lon in (goal, before.lat_lon, after.lat_lon)
    )
    ways = [functional.normalize(log_map(here, end), dim=-1) for end in (now, there)]
    known = goal.isfinite().all(1) & before.lat_lon.isfinite().all(1)
    known = known & after.lat_lon.isfinite().all(1)
    angles = [EARTH_RADIUS_KM * angle(*ends) for ends in ((here, now), (here, there), (now, there))]
    values = {
        "moved_km": angles[0],
        "nearer_km": angles[1] - angles[2],
        "cosine": (ways[0] * ways[1]).sum(-1),
    }
    return DataFrame(
        {"change": way.name, "against": way.against, "photo": rows.numpy()}
        | {name: part.where(known, torch.nan).numpy() for name, part in values.items()}
        | {"lat": after.lat_lon[:, 0].numpy(), "lon": after.lat_lon[:, 1].numpy()}
        | {"partner_lat": goal[:, 0].numpy(), "partner_lon": goal[:, 1].numpy()}
        | {"nll_truth": after.nll[rows, rows].numpy()}
        | {"nll_partner": after.nll[rows, partner].numpy()}
    )


COLUMNS = ("moved_km", "nearer_km", "nll_truth", "nll_partner")


def compare_changes(rows: DataFrame) -> DataFrame:
    """Compare each change with the one of the same norm that knows no place, photo by photo.

    Returns:
        a row for each change, with the mean of each of `COLUMNS` and of cosine, the share of
        legible maps, and the paired difference from the change named `against` with its 95 %
        bootstrap interval over photos. Photos of which a map is illegible are left out of ways.
    """
    found = []
    by_change = dict(list(rows.groupby("change", sort=False)))
    for name, part in by_change.items():
        line: dict[str, Any] = {"change": name, "against": part.against.iloc[0]}
        line |= {"legible": part.lat.notna().mean(), "cosine": part.cosine.mean()}
        for column in COLUMNS:
            line[column] = part[column].mean()
            if line["against"] is not None:
                other = by_change[line["against"]][column].to_numpy()
                line |= _difference(column, part[column].to_numpy(), other)
        found.append(line)
    return DataFrame(found)


def _difference(column: str, a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    known = np.isfinite(a) & np.isfinite(b)
    if known.sum() < 2:
        return {}
    generator = seeded_generator("steering", column)
    interval = paired_bootstrap(a[known], b[known], generator=generator)
    names = (f"{column}_more", f"{column}_low", f"{column}_high")
    return dict(zip(names, (interval.estimate, interval.low, interval.high), strict=True))
