"""Tests of cells: by s2sphere, by hand-made formulas, and on albums of one place."""

import math

import numpy as np
import pytest
import torch
from torch import Generator
from torch.nn.functional import normalize

from icgeo.baselines.geocells import (
    AlbumSettings,
    Planet,
    PlanetAlbums,
    PlanetSettings,
    S2Cells,
    grid_leaves,
    leaf_ids,
    parents,
)
from icgeo.baselines.pigeon import Pigeon, PigeonSettings, SemanticCells, smooth_labels
from icgeo.sphere import (
    EARTH_RADIUS_KM,
    angle,
    distance_km,
    healpix,
    sample_uniform,
    sample_von_mises_fisher,
    to_lat_lon,
    to_xyz,
)
from icgeo.training.heads import train_head

s2sphere = pytest.importorskip("s2sphere")


def uniform(count, seed=0):
    return sample_uniform(count, generator=Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def leaves():
    """Leaves of photos, half of them near one place."""
    near = sample_von_mises_fisher(
        uniform(1).expand(300, 3), 300.0, generator=Generator().manual_seed(1)
    )
    return leaf_ids(to_lat_lon(torch.cat((uniform(300), near))))


def test_s2_cells_cover_the_sphere_exactly_once(leaves):
    """Nothing dropped: ranges follow each other without a gap, and areas sum to 4 pi (s2sphere)."""
    cells = S2Cells.adaptive(leaves, split_above=20, drop_below=0)
    own = [s2sphere.CellId(cell) for cell in cells.ids.tolist()]
    ends = [one.range_max().id() for one in own]
    starts = [one.range_min().id() for one in own]
    assert all(end + 2 == start for end, start in zip(ends, starts[1:], strict=False))
    assert starts[0] == s2sphere.CellId.from_face_pos_level(0, 0, 0).range_min().id()
    assert ends[-1] == s2sphere.CellId.from_face_pos_level(5, 0, 0).range_max().id()
    assert [one.level() for one in own] == cells.levels.tolist()
    area = sum(s2sphere.Cell(one).exact_area() for one in own)
    assert area == pytest.approx(4 * math.pi)
    elsewhere = leaf_ids(to_lat_lon(uniform(200, seed=5)))
    number = cells.number_of(elsewhere)
    for leaf, cell in zip(elsewhere.tolist(), number, strict=True):
        assert own[cell].contains(s2sphere.CellId(leaf))


def test_cells_are_split_above_and_dropped_below(leaves):
    cells = S2Cells.adaptive(leaves, split_above=20, drop_below=5)
    number = cells.number_of(leaves)
    counts = np.bincount(number[number >= 0], minlength=len(cells.ids))
    assert counts.min() >= 5
    assert counts.max() <= 20
    assert (number == -1).sum() > 0
    coarse = S2Cells.adaptive(leaves, split_above=20, drop_below=5, max_level=2)
    assert coarse.levels.max() == 2
    with pytest.raises(ValueError, match="lower drop_below"):
        S2Cells.adaptive(leaves[:3], split_above=5, drop_below=10)


def test_parents_are_those_of_s2sphere(leaves):
    for level in (0, 1, 13, 29, 30):
        expected = [s2sphere.CellId(leaf).parent(level).id() for leaf in leaves[:20].tolist()]
        assert parents(leaves[:20], level).tolist() == expected


def test_planets_density_is_uniform_within_a_cell():
    """Trained on photos that all look alike, each cell has the share of its photos."""
    xyz = uniform(60).float()
    features = torch.zeros(60, 4)
    settings = PlanetSettings(split_above=15, width=4, learning_rate=0.1)
    head = Planet(features, xyz, settings)
    train_head(head, features, xyz, steps=150, settings=settings)
    number = head.cells.cells.number_of(leaf_ids(to_lat_lon(xyz.double())))
    share = np.bincount(number, minlength=len(head.cells)) / 60
    with torch.inference_mode():
        (density,) = head.densities(features[:1])
    grid = head.cells.cells.number_of(grid_leaves(density.nside))
    mass = np.bincount(grid, density.mass.numpy(), len(head.cells))
    area = np.bincount(grid, minlength=len(head.cells)) / len(grid)
    np.testing.assert_allclose(mass, 0.99 * share + 0.01 * area, atol=0.01)
    in_cell = density.mass[torch.from_numpy(grid == grid[0])]
    torch.testing.assert_close(in_cell, in_cell[:1].expand_as(in_cell))


def albums(count, photos, seed):
    """Albums of one place each: photos show it through noise that one alone drowns in."""
    generator = Generator().manual_seed(seed)
    xyz = sample_uniform(count, generator=generator).float()
    clean = xyz @ torch.randn(3, 12, generator=Generator().manual_seed(99))
    noise = torch.randn(count, photos, 12, generator=generator)
    return normalize(clean[:, None] + 2 * noise, dim=-1), xyz[:, None].expand(-1, photos, -1)


@pytest.mark.parametrize("how", [{}, {"offset": 2}, {"repeats": 2}, {"bidirectional": True}])
def test_albums_have_an_answer_for_every_photo(how):
    features, xyz = albums(3, 5, 0)
    settings = AlbumSettings(width=8, split_above=1, max_level=3, **how)
    head = train_head(PlanetAlbums(features, xyz, settings), features, xyz, steps=2)
    with torch.inference_mode():
        assert len(head.densities(features)) == 15
        first = head.logits(features)[:, 0]
        other = head.logits(torch.cat((features[:, :2], features[:, 2:].flip(1)), 1))[:, 0]
    # a photo is located from what was read: all of the album, or as far ahead as the offset
    sees_rest = how.get("repeats") == 2 or "bidirectional" in how
    assert torch.equal(first, other) != (sees_rest or "offset" in how)


@pytest.mark.slow
def test_an_lstm_beats_single_photos_on_albums_of_one_place():
    """Eight noisy photos of a place: the last of an album against the same photo alone."""
    (features, xyz), (test, truth) = albums(3000, 8, 1), albums(60, 8, 2)
    how = {"width": 48, "split_above": 400, "max_level": 4, "learning_rate": 3e-3}
    settings = AlbumSettings(batch_size=64, **how)
    together = PlanetAlbums(features, xyz, settings)
    train_head(together, features, xyz, steps=300, settings=settings)
    single, flat, places = PlanetSettings(**how), features.flatten(0, 1), xyz.flatten(0, 1)
    alone = Planet(flat, places, single)
    train_head(alone, flat, places, steps=300, settings=single)
    with torch.inference_mode():
        found = [together.densities(test)[7::8], alone.densities(test[:, -1])]
    true = to_lat_lon(truth[:, -1].double())
    nll = [
        -np.mean([d.log_prob(place).item() for d, place in zip(one, true, strict=True)])
        for one in found
    ]
    km = [distance_km(torch.stack([d.best_point() for d in one]), true).median() for one in found]
    assert nll[0] < nll[1]
    assert km[0] < km[1]


def haversine_km(a, b):
    (lat, lon), (to_lat, to_lon) = (map(math.radians, place) for place in (a, b))
    half = math.sin((to_lat - lat) / 2) ** 2
    half += math.cos(lat) * math.cos(to_lat) * math.sin((to_lon - lon) / 2) ** 2
    return 2 * 6371.0 * math.asin(math.sqrt(half))


def test_smoothing_is_the_published_formula():
    """exp(-(d(cell, photo) - d(own cell, photo)) / 75), d by the haversine; not normalised."""
    cells, photos = (to_lat_lon(uniform(count, seed=count)) for count in (7, 5))
    labels = smooth_labels(to_xyz(photos), to_xyz(cells), 75.0)
    for row, photo in enumerate(photos.tolist()):
        km = [haversine_km(cell, photo) for cell in cells.tolist()]
        expected = [math.exp(-(one - min(km)) / 75) for one in km]
        assert labels[row].tolist() == pytest.approx(expected, rel=1e-6, abs=1e-12)
    assert labels.max(-1).values.tolist() == [1.0] * 5


@pytest.fixture(scope="module")
def europe():
    """Photos around cities of three countries, some regions with few."""
    cities = [
        (48.86, 2.35),
        (45.76, 4.84),
        (40.85, 14.27),
        (45.46, 9.19),
        (52.5, 13.4),
        (48.14, 11.58),
    ]
    counts = (60, 4, 30, 25, 40, 2)
    places = torch.tensor([city for city, n in zip(cities, counts, strict=True) for _ in range(n)])
    generator = Generator().manual_seed(0)
    return sample_von_mises_fisher(to_xyz(places.double()), 1e5, generator=generator)


def test_semantic_cells_partition_the_land_and_respect_borders(europe):
    settings = PigeonSettings(minimum=10, maximum=30, borders=True)
    cells = SemanticCells(europe, settings)
    assert np.array_equal(cells.number_of(europe), cells.number)
    counts = np.bincount(cells.number)
    assert counts.min() >= 10
    countries = [label[0] for label in SemanticCells._labels(europe.numpy())]
    for cell in range(cells.count):
        assert len({countries[row] for row in np.flatnonzero(cells.number == cell)}) == 1
    everywhere = cells.number_of(healpix.cell_xyz(8))
    assert len(everywhere) == 12 * 64
    assert everywhere.min() >= 0
    assert everywhere.max() < cells.count
    # a place in a country belongs to a cell of it, however near the border the photos are
    labels = SemanticCells._labels(to_xyz(torch.tensor([[45.0, 7.0]], dtype=torch.float64)).numpy())
    (turin,) = cells.number_of(to_xyz(torch.tensor([[45.07, 7.69]], dtype=torch.float64)))
    assert labels[0][0] == "IT"
    assert {countries[row] for row in np.flatnonzero(cells.number == turin)} == {"IT"}


def test_clusters_within_a_cell_are_split_off():
    """Two towns of one region, 40 photos each, and no more than 50 allowed: two cells."""
    towns = to_xyz(torch.tensor([[10.0, 10.0], [12.0, 14.0]], dtype=torch.float64))
    generator = Generator().manual_seed(0)
    xyz = sample_von_mises_fisher(towns.repeat_interleave(40, 0), 1e6, generator=generator)
    cells = SemanticCells(xyz, PigeonSettings(minimum=20, maximum=50))
    assert cells.count == 2
    assert len(set(cells.number[:40])) == len(set(cells.number[40:])) == 1


def test_refinement_takes_the_prototype_alike_and_not_beyond_its_reach():
    xyz, features = uniform(6).float(), torch.eye(6)
    settings = PigeonSettings(maximum=6, most_km=1e5, width=8)
    head = Pigeon(features, xyz, settings)
    assert head.cells.count == 1
    with torch.inference_mode():
        refined = head.points(features)
        near = Pigeon(features, xyz, PigeonSettings(maximum=6, most_km=1.0, width=8)).points(
            features
        )
    km = EARTH_RADIUS_KM * angle(to_xyz(refined), xyz.double())
    assert km.max() < 1
    centre = to_lat_lon(head.cells.centres[0]).expand(6, 2)
    torch.testing.assert_close(near, centre, atol=1e-4, rtol=0)
