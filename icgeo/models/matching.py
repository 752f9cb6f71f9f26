"""Alike parts of photos and the place that they give: local descriptors, swept hypotheses.

A photo is cut into `grid x grid` cells, each with a descriptor of unit length. Where a query lies,
how wide its view is and how wide the example's is (a hypothesis) says which cell of the example
each cell of the query shows, exactly, with the turn of north between them. Alike cells speak for a
hypothesis, unlike ones against it. Views are gnomonic and north-up, as in `icgeo.data.orbit`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import einsum, rearrange, reduce, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from icgeo import sphere
from icgeo.sphere.healpix import cell_xyz, neighbours

COARSE, FINE = 16, 64
"""Resolution (HEALPix nside) of the first sweep, of all places, and of the second, of the best."""
CHILDREN = (FINE // COARSE) ** 2
STRIDE = 2
"""The first sweep asks every second cell of the query, in each direction."""
PAIRS_AT_ONCE = 256
"""Queries times examples whose cells are compared at a time: 64 MiB for cells of 4 x 4 pixels."""
LEAST = 1e-30
"""Likelihood of a place relative to the best: less is not told apart."""
REACH = 0.55
"""Views overlap too little when farther apart than this share of both fields of view."""


class Residual(nn.Module):
    """A normalised 3 x 3 convolution beside the identity."""

    def __init__(self, channels: int, dilation: int = 1) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, channels)
        self.spread = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation)
        self.mix = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Return the input plus what its neighbourhood tells."""
        return x + self.mix(functional.gelu(self.spread(self.norm(x))))


def with_standardised(photos: Float[Tensor, "photos 3 h w"]) -> Float[Tensor, "photos 6 h w"]:
    """Return photos in [0, 1] at about unit variance, and each channel standardised beside them.

    Haze and exposure are affine in each channel: the standardised copy is free of both.
    """
    return torch.cat((photos * 4 - 2, functional.instance_norm(photos, eps=1e-4)), dim=1)


@dataclass(frozen=True)
class MatchSettings:
    """How alike cells become a likelihood; fitted on worlds that the encoder never saw."""

    sharpness: float = 13.6
    """Weight of the cosine of two descriptors."""
    none_logit: float = 12.4
    """Logit of a query cell's being seen in no example."""
    inliers: float = 0.45
    """Share of cells that match as a true hypothesis says."""
    weight: float = 0.1
    """Weight of one cell's evidence: neighbouring cells are not independent."""
    blur: float = 0.34
    """Share of the likelihood of a place that its neighbours have, whose views hardly differ."""
    fields_of_view_deg: tuple[float, ...] = (21.0, 27.0, 34.6, 44.4, 57.0)
    """Fields of view that are tried, of queries and of examples."""
    floor: float = 0.02
    """Share of the answer that is spread evenly: how often all of this is wrong."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "MatchSettings":
        """Take plain values, as of JSON."""
        values = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return cls(**values)


class LocalEncoder(ModelMixin, ConfigMixin):
    """Local descriptors of photos: a convolutional network with one step down and up again."""

    @register_to_config
    def __init__(
        self, *, photo_size: int = 64, channels: int = 64, width: int = 48, deep_width: int = 96
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(6, width, 4, stride=4), nn.GELU(), Residual(width), Residual(width, 2)
        )
        self.down = nn.Sequential(
            nn.Conv2d(width, deep_width, 2, stride=2),
            *(Residual(deep_width, dilation) for dilation in (1, 2, 1, 2, 1)),
        )
        self.up = nn.Conv2d(deep_width, width, 1)
        self.fine = nn.Sequential(
            Residual(width), Residual(width), nn.GroupNorm(1, width), nn.Conv2d(width, channels, 1)
        )

    @property
    def grid(self) -> int:
        """Cells in each direction."""
        return int(self.config.photo_size) // 4

    def forward(
        self, photos: Float[Tensor, "photos 3 size size"]
    ) -> Float[Tensor, "photos cells channels"]:
        """Describe the cells of photos in [0, 1], in row order, by vectors of unit length."""
        stem, deep_features = self._features(photos)
        up = functional.interpolate(self.up(deep_features), scale_factor=2, mode="nearest")
        features = functional.normalize(self.fine(stem + up).float(), dim=1)
        return rearrange(features, "n c h w -> n (h w) c")

    def _features(self, photos: Tensor) -> tuple[Tensor, Tensor]:
        pixels = with_standardised(photos)
        stem = self.stem(pixels.contiguous(memory_format=torch.channels_last))
        return stem, self.down(stem)

    def statistics(
        self, photos: Float[Tensor, "photos 3 size size"]
    ) -> Float[Tensor, "photos statistics"]:
        """Describe the look of whole photos in [0, 1] by their features at two depths.

        Mean and spread over the cells, and the mean step to the next cell, down and to the right.
        """
        stem, deep_features = (features.float() for features in self._features(photos))
        moments = [
            f(part, (2, 3)) for part in (stem, deep_features) for f in (torch.mean, torch.std)
        ]
        steps = [stem.diff(dim=dim).abs().mean((2, 3)) for dim in (2, 3)]
        return torch.cat((*moments, *steps), dim=1)


def mutual_matches(
    query: Float[Tensor, "queries cells channels"],
    examples: Float[Tensor, "queries shots cells channels"],
    settings: MatchSettings,
) -> Float[Tensor, "queries shots cells cells"]:
    """Return the probability that a query's cell and an example's show the same.

    It is mutual, the geometric mean of those in both directions (the dual softmax of Sun et al.
    2021, LoFTR, eq. 2, under a root): of the query's cell among the cells of all examples or none,
    and of the example's cell among those of the query. [.., query cell, example cell].
    """
    cosine = einsum(query, examples, "b q d, b k c d -> b k q c")
    likeness = cosine.sub_(1).mul_(settings.sharpness).exp_()  # at most 1
    none_weight = math.exp(settings.none_logit - settings.sharpness)
    one_of_all = reduce(likeness, "b k q c -> b 1 q 1", "sum") + none_weight
    one_of_query = reduce(likeness, "b k q c -> b k 1 c", "sum")
    return likeness.mul_(one_of_all.rsqrt()).mul_(one_of_query.rsqrt())


def log_ratio(matches: Float[Tensor, "*batch"], cells: int, settings: MatchSettings) -> Tensor:
    """Return how much a match speaks for a hypothesis that says it, in nats, in place.

    Robust: only a share of the cells of a true hypothesis match; the others match by chance.
    """
    chance = matches.mul_(cells).sub_(1).mul_(settings.inliers)
    return chance.log1p_().mul_(settings.weight)


def _frames(xyz: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3 3"]:
    """Return the axes of north-up views: right, down, ahead."""
    north, east = sphere.north_east(xyz)
    return torch.stack((east, -north, xyz), dim=-2)


def _in_example(
    query: Float[Tensor, "pairs 3 3"],
    query_tan: Float[Tensor, " pairs"],
    example: Float[Tensor, "#pairs 3 3"],
    centres: Float[Tensor, "cells 2"],
) -> Float[Tensor, "pairs cells 2"]:
    """Return where each cell of a query lies in its example: tangents of angles, right and down.

    Views are given by their axes, the query also by the tangent of half its field of view. What is
    not ahead is infinitely far.
    """
    turn = (example @ query.mT)[..., None]  # [pairs, axes of the example, axes of the query, 1]
    right, down = query_tan[:, None, None] * centres.T[:, None, None]
    x, y, z = (turn[:, :, 0] * right + turn[:, :, 1] * down + turn[:, :, 2]).unbind(1)
    depth = torch.where(z > 0.05, z, 0)
    return torch.stack((x / depth, y / depth), dim=-1)


def _cell_at(
    place: Float[Tensor, "*batch 2"], tangent: Float[Tensor, "#*batch"], grid: int
) -> Int[Tensor, "*batch"]:
    """Return the number of the cell at a place (right, down) inside an example."""
    column, row = (((place / tangent[..., None] + 1) * (grid / 2)).int().clamp(0, grid - 1)).unbind(
        -1
    )
    return row * grid + column


def _centres(grid: int) -> Float[Tensor, "cells 2"]:
    """Return the centres of cells (right, down) in half widths of the view, in row order."""
    step = (torch.arange(grid) + 0.5) * 2 / grid - 1
    down, right = torch.meshgrid(step, step, indexing="ij")
    return torch.stack((right, down), dim=-1).flatten(0, 1)


def _asked(grid: int) -> Int[Tensor, " cells"]:
    """Return the cells of the query that the first sweep asks."""
    numbers = torch.arange(grid**2).view(grid, grid)
    return numbers[STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE].flatten()


def _tangents(fields_of_view_deg: tuple[float, ...]) -> Float[Tensor, " fields"]:
    return torch.tan(torch.deg2rad(torch.tensor(fields_of_view_deg)) / 2)


def _least_cosine(fields_of_view_deg: tuple[float, ...]) -> Float[Tensor, "fields fields"]:
    """Return the cosine of how far two views of these fields of view may lie apart."""
    degrees = torch.tensor(fields_of_view_deg)
    return torch.cos(torch.deg2rad(REACH * (degrees[:, None] + degrees)))


@lru_cache(maxsize=8)
def _places(nside: int) -> Float[Tensor, "cells 3"]:
    return cell_xyz(nside).float()


@dataclass(frozen=True, eq=False)
class ExampleSweep:
    """The hypotheses of the first sweep that one example can judge, and the cells they compare."""

    lookups: Int[Tensor, " lookups"]
    """Pairs of cells, query cell x cells + example cell, hypothesis by hypothesis."""
    starts: Int[Tensor, " hypotheses"]
    """Where each hypothesis begins in them: [places, fields of the query, of the example]."""
    places: Int[Tensor, " places"]
    """Cells of the sphere that are near enough."""


@lru_cache(maxsize=512)
def _example_sweep(
    xyz: tuple[float, float, float], grid: int, fields_of_view_deg: tuple[float, ...]
) -> ExampleSweep:
    """List the hypotheses about an example at a place; they depend on nothing else."""
    centre, tangents = torch.tensor(xyz), _tangents(fields_of_view_deg)
    cells, min_cosine = _asked(grid), _least_cosine(fields_of_view_deg)
    cosine = _places(COARSE) @ centre
    places = (cosine > min_cosine.min()).nonzero()[:, 0]
    is_near = cosine[places, None, None] > min_cosine
    place, query_field = is_near.any(-1).nonzero().unbind(-1)
    position = _in_example(
        _frames(_places(COARSE)[places])[place],
        tangents[query_field],
        _frames(centre[None]),
        _centres(grid)[cells],
    )
    is_inside = position.abs().amax(-1)[:, None] < tangents[:, None]
    is_inside &= is_near[place, query_field][..., None]
    pair, field, cell = is_inside.nonzero().unbind(-1)
    lookups = cell.int() * grid**2 + _cell_at(position[pair, cell], tangents[field], grid)
    counts = torch.zeros(is_near.shape, dtype=torch.int32)
    counts[place, query_field] = is_inside.sum(-1, dtype=torch.int32)
    starts = counts.flatten().cumsum(0, dtype=torch.int32) - counts.flatten()
    return ExampleSweep(lookups, starts, places)


def _bags(
    table: Float[Tensor, "queries entries"],
    numbers: Int[Tensor, "*_"],
    starts: Int[Tensor, " bags"] | None = None,
    *,
    mode: str,
) -> Float[Tensor, "queries bags"]:
    """Sum or average the entries of these numbers in each bag: a row, or from each start on."""
    rows = table if len(table) > 1 else table.expand(2, -1)  # rows of one number are 6 times slower
    bags: Tensor = functional.embedding_bag(numbers, rows.T.contiguous(), starts, mode=mode)
    return bags.T[: len(table)]


def _coarse_evidence(
    ratios: Float[Tensor, "queries asked cells"], sweep: ExampleSweep, fields: int
) -> Float[Tensor, "queries places fields"]:
    """Return the evidence of one example for each place near it and each field of the query."""
    # views without overlap, of no lookups, say nothing
    scores = _bags(ratios.flatten(1), sweep.lookups, sweep.starts, mode="sum")
    scores = scores.reshape(len(ratios), len(sweep.places), fields, fields)
    return scores.logsumexp(-1) - math.log(fields)


def _fine_evidence(
    ratios: Float[Tensor, "shots cells cells"],
    xyz: Float[Tensor, "shots 3"],
    places: Float[Tensor, "places 3"],
    query_field: Int[Tensor, " places"],
    grid: int,
    fields_of_view_deg: tuple[float, ...],
) -> Float[Tensor, " places"]:
    """Return the evidence of all examples for some places and fields of view."""
    tangents, fields = _tangents(fields_of_view_deg), len(fields_of_view_deg)
    numbers = torch.arange(grid**2)
    cells = numbers[(numbers // grid + numbers) % 2 == 0]  # half, as the black cells of a board
    is_near = (places @ xyz.T)[..., None] > _least_cosine(fields_of_view_deg)[query_field][:, None]
    place, example = is_near.any(-1).nonzero().unbind(-1)
    position = _in_example(
        _frames(places)[place],
        tangents[query_field][place],
        _frames(xyz)[example],
        _centres(grid)[cells],
    )[:, None]
    is_inside = (position.abs().amax(-1) < tangents[:, None]) & is_near[place, example][..., None]
    pair, field, cell = is_inside.nonzero().unbind(-1)
    example_cell = _cell_at(position[pair, 0, cell], tangents[field], grid)
    numbers = (example[pair] * grid**2 + cells[cell]) * grid**2 + example_cell
    values = torch.zeros(is_inside.shape).masked_scatter_(is_inside, ratios.flatten()[numbers])
    by_field = torch.zeros(len(places), len(xyz), fields)
    by_field[place, example] = values.sum(-1) * (grid**2 / len(cells))
    return (by_field.logsumexp(-1) - math.log(fields)).sum(-1)


def match(
    query: Float[Tensor, "queries cells channels"],
    examples: Float[Tensor, "#queries shots cells channels"],
    xyz: Float[Tensor, "#queries shots 3"],
    settings: MatchSettings,
    *,
    top: int = 12,
) -> Float[Tensor, "queries places"]:
    """Return the log-likelihood ratio of each place of the sphere, against none, by alike parts.

    Every place is tried with a quarter of the cells, then the `top` best (times fields of view) at
    a finer resolution with half of them. In nats, at the HEALPix cells (NESTED) of nside 64.
    """
    grid, fields_of_view = math.isqrt(query.shape[1]), settings.fields_of_view_deg
    fields = len(fields_of_view)
    examples, xyz = (x.expand(len(query), *x.shape[1:]) for x in (examples, xyz))
    ratios = log_ratio(mutual_matches(query, examples, settings), grid**2, settings)
    coarse_ratios = STRIDE**2 * ratios[:, :, _asked(grid)]
    coarse = torch.zeros(len(query), len(_places(COARSE)), fields)
    centres, group = xyz.flatten(0, 1).unique(dim=0, return_inverse=True)
    for number, centre in enumerate(centres.tolist()):
        rows, slots = (group.view(xyz.shape[:2]) == number).nonzero(as_tuple=True)
        sweep = _example_sweep(tuple(centre), grid, fields_of_view)
        evidence = _coarse_evidence(coarse_ratios[rows, slots], sweep, fields)
        coarse.index_put_((rows[:, None], sweep.places), evidence, accumulate=True)
    result = repeat(coarse.logsumexp(-1), "b p -> b p n", n=CHILDREN).clone()
    best = coarse.flatten(1).topk(min(top, coarse[0].numel())).indices
    for row, number in enumerate(best):
        place, field = number // fields, number % fields
        children = place[:, None] * CHILDREN + torch.arange(CHILDREN)
        fine_evidence = _fine_evidence(
            ratios[row],
            xyz[row],
            _places(FINE)[children.flatten()],
            field.repeat_interleave(CHILDREN),
            grid,
            fields_of_view,
        )
        unique_places, slot = place.unique(return_inverse=True)
        by_field = repeat(coarse[row, unique_places], "p f -> p n f", n=CHILDREN).clone()
        by_field[slot, :, field] = fine_evidence.view(-1, CHILDREN)
        result[row, unique_places] = by_field.logsumexp(-1)
    return _blurred(result.flatten(1), settings.blur) - math.log(fields)


def _blurred(log_ratios: Float[Tensor, "queries places"], share: float) -> Tensor:
    """Mix the likelihood of each place with the mean of those around it."""
    most = log_ratios.amax(-1, keepdim=True)
    ratios = (log_ratios - most).exp()
    neighbour_mean = _bags(ratios, neighbours(FINE), mode="mean")
    return ratios.lerp(neighbour_mean, share).clamp_min(LEAST).log() + most


@dataclass(frozen=True, eq=False)
class Parts:
    """Local descriptors of examples and where they were taken; a part of their context."""

    cells: Float[Tensor, "examples cells channels"]
    xyz: Float[Tensor, "examples 3"]

    def extended(self, other: "Parts") -> "Parts":
        """Add those of further examples."""
        return Parts(torch.cat((self.cells, other.cells)), torch.cat((self.xyz, other.xyz)))

    def evidence(
        self,
        query: Float[Tensor, "queries cells channels"],
        settings: MatchSettings,
        chosen: Int[Tensor, "queries shots"] | None = None,
    ) -> Float[Tensor, "queries places"]:
        """Match queries with the examples of these numbers, or with all; see `match`."""
        if chosen is None:
            chosen = torch.arange(len(self.xyz)).expand(len(query), -1)
        at_once = max(1, PAIRS_AT_ONCE // max(1, chosen.shape[1]))
        parts = zip(query.split(at_once), chosen.split(at_once), strict=True)
        return torch.cat([match(q, self.cells[c], self.xyz[c], settings) for q, c in parts])


@dataclass(frozen=True, eq=False)
class Evidence:
    """What alike parts say of one photo, and the pairs of cells most alike, the likeliest first.

    Centres of cells are (right, down) in pixels of the squares that the model sees.
    """

    log_ratios: Float[Tensor, " places"]
    """Log-likelihood ratio of each place in nats, at the cells of `FINE`; see `match`."""
    probability: Float[Tensor, " pairs"]
    """That both cells show the same; see `mutual_matches`."""
    query_xy: Float[Tensor, "pairs 2"]
    example: Int[Tensor, " pairs"]
    """Which example, from 0."""
    example_xy: Float[Tensor, "pairs 2"]
    photo_size: int
    """Side of those squares in pixels."""

    @classmethod
    def strongest(
        cls,
        log_ratios: Float[Tensor, " places"],
        matches: Float[Tensor, "shots cells cells"],
        *,
        photo_size: int,
        count: int = 30,
    ) -> "Evidence":
        """Keep the best pair of each of the `count` cells of the query that have the best."""
        cells = matches.shape[-1]
        best, partner = rearrange(matches, "k q c -> q (k c)").max(-1)
        probability, query = best.topk(min(count, cells))
        example, cell = partner[query] // cells, partner[query] % cells
        xy = (_centres(math.isqrt(cells)) + 1) * photo_size / 2
        return cls(log_ratios, probability, xy[query], example, xy[cell], photo_size)
