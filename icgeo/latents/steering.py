"""Causes: activations are changed at a block and time, and the map that is drawn is read again.

Conventions: activations are [photos, tokens, channels] at the tokens of the map. A place is a unit
vector. Of two ways to follow a probe, the `pattern` is how activations change with the place (the
regression of activations on places; Haufe et al. 2014), the `weights` are what the probe weighs (the
least change that makes it say another place). What a change does is compared with changes of the
same norm that know no place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from einops import einsum, rearrange
from jaxtyping import Float, UInt8
from pandas import DataFrame, concat
from torch import Generator, Tensor

from icgeo import maps
from icgeo.config import require
from icgeo.latents.probes import ALPHAS
from icgeo.metrics.intervals import Interval, paired_bootstrap
from icgeo.models import Context, MapModel
from icgeo.models.blocks import Edit, Taps, walk
from icgeo.seeds import seeded_generator
from icgeo.sphere import distance_km, log_map, to_lat_lon, to_xyz

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
    partner: Float[Tensor, " photos"],
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
    pairs = torch.stack([torch.randperm(len(x), generator=generator) for _ in range(2)])
    between = x[pairs[0]] - x[pairs[1]].roll(1, 0)
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
class Drawn:
    """Maps as they are read."""

    lat_lon: Float[Tensor, "photos 2"]
    """Mean directions of the densities, which an illegible map has too."""
    densities: Sequence[maps.Density] if hasattr(maps, "Density") else Sequence[object]


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

    `edit` is the block, the time, and the strength of the change.

    Returns:
        a row for each photo and change, with the columns change, against, photo, lat, lon (of the
        map read after it; `change` "none" is before), moved_km, nearer_km (to the place that the
        partner's map shows), cosine (of the way moved with the way there), nll_partner and nll_truth
        (nats per steradian) and their rise over the map before.
    """
    block, time, strength = edit
    times = tuple(sorted({1.0, time}, reverse=True))
    shown = {"prompt": prompt, "taps": Taps((block,), times)}
    steps = list(walk(model, context, photos, **shown))
    x = next(step for step in steps if step.time == time).activations[block]
    before = _read(model, steps[-1].maps)
    here = to_xyz(before[0])
    partner = torch.randperm(len(x), generator=seeded_generator("partners")).roll(1)
    ring = torch.empty_like(partner)
    ring[partner] = partner.roll(-1)
    generator = seeded_generator("steering", block, time)
    ways = changes(x, here, ring, directions, strength=strength, generator=generator)
    start = _nll(before, before, lat_lon, ring)
    rows = [_rows("none", None, before, before, ring, start, start)]
    for way in ways:
        new = way.activations.to(x)
        edits = [Edit(block, lambda old, new=new: new.to(old), time)]
        *_, last = walk(model, context, photos, edits=edits, **shown)
        after = _read(model, last.maps)
        nll = _nll(after, before, lat_lon, ring)
        rows.append(_rows(way.name, way.against, before, after, ring, start, nll))
    return concat(rows, ignore_index=True)
