"""Spatial statistics against independent formulas and libraries, and values known by hand."""

import numpy as np
import pandas as pd
import pytest
import torch
from known_features import ANYWHERE, PLACED, make_truth
from scipy.sparse import csr_array
from scipy.stats import fisher_exact

from icgeo import sphere
from icgeo.latents import concentration as where
from icgeo.sphere.healpix import cell_of, cell_xyz

RING = csr_array(np.roll(np.eye(4), 1, axis=0) + np.roll(np.eye(4), -1, axis=0))
TRUTH = make_truth(1000)
CODES = csr_array(TRUTH.codes.numpy())


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def dense_moran(values, weights):
    """Moran (1950) as Cliff and Ord (1981) write it, term by term."""
    count, off = len(values), values - values.mean()
    total = sum(
        weights[i, j] * off[i] * off[j] for i in range(count) for j in range(count) if i != j
    )
    return count / weights.sum() * total / (off**2).sum()


@pytest.mark.parametrize(("values", "moran"), [((1, 0, 1, 0), -1), ((1, 1, 0, 0), 0)])
def test_morans_i_of_a_ring_of_four(values, moran):
    assert where.morans_i(np.array(values, float)[:, None], RING) == pytest.approx(moran)


def test_morans_i_is_that_of_the_dense_formula():
    values = np.random.default_rng(0).random((60, 3))
    cells = np.sort(np.random.default_rng(1).permutation(192)[:60])
    weights = where.neighbour_weights(cells, 4)
    expected = [dense_moran(column, weights.toarray()) for column in values.T]
    np.testing.assert_allclose(where.morans_i(values, weights), expected)


def test_neighbours_are_the_nearest_cells():
    """By the angles between centres alone: none nearer is left out, none farther is in."""
    weights = where.neighbour_weights(np.arange(768), 8).toarray()
    np.testing.assert_array_equal(weights, weights.T)
    assert set(weights.sum(axis=1)) == {7, 8}
    assert (weights.sum(axis=1) == 7).sum() == 24  # the corners of the base cells with three sides
    angle = np.arccos((cell_xyz(8) @ cell_xyz(8).T).clamp(-1, 1).numpy())
    side = np.sqrt(4 * np.pi / 768)
    assert (weights[(angle > 1e-3) & (angle < 1.5 * side)] == 1).all()
    assert (weights[angle > 1.95 * side] == 0).all()


def test_a_slope_over_the_globe_is_nearly_one_and_the_same_everywhere_is_nan():
    height = cell_xyz(8)[:, 2:].numpy()
    weights = where.neighbour_weights(np.arange(768), 8)
    assert 0.97 < where.morans_i(height, weights) < 1
    assert np.isnan(where.morans_i(np.full_like(height, 0.1), weights))


def test_the_effective_share_is_known_by_hand():
    columns = np.array([[1, 1, 1, 1], [2, 0, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 0, 0]]).T
    np.testing.assert_allclose(where.effective_share(columns), [1, 0.25, 0.5, np.nan])


def test_maps_are_means_of_groups():
    maps = where.feature_maps(CODES, TRUTH.lat_lon, nside=2)
    table = pd.DataFrame(TRUTH.codes.numpy()).groupby(cell_of(TRUTH.lat_lon, 2).numpy())
    np.testing.assert_allclose(maps.means, table.mean(), rtol=1e-5)
    np.testing.assert_array_equal(maps.cells, table.mean().index)
    np.testing.assert_array_equal(maps.photos, table.size())


def test_features_of_places_are_concentrated_and_others_are_not():
    table = where.concentration(CODES, TRUTH.lat_lon, nside=4, generator=generator())
    placed, anywhere = table[:PLACED], table[PLACED:]
    assert placed.is_concentrated.all()
    assert (placed.share_q < where.LEVEL).all()
    assert placed.moran.min() > 0.5 > anywhere.moran.max()
    # a cap of 25 degrees is 4.7 % of the globe
    assert placed.share.between(0.03, 0.12).all()
    assert anywhere.is_concentrated.sum() <= 1
    assert len(anywhere) == ANYWHERE


def test_nothing_is_concentrated_where_places_are_shuffled():
    """A rate of false discovery of 5 % is the chance of any where there is none to discover."""
    false_discoveries = 0
    for seed in range(5):
        places = TRUTH.lat_lon[torch.randperm(len(TRUTH.lat_lon), generator=generator(seed))]
        table = where.concentration(
            CODES, places, nside=2, generator=generator(seed), permutations=199
        )
        false_discoveries += bool(table.is_concentrated.any())
        assert table.moran.abs().max() < 0.4
    assert false_discoveries <= 2


def test_chance_has_the_known_mean():
    """One photo a cell: I is -1 / (n - 1) over all permutations (Cliff and Ord 1981)."""
    lat_lon = sphere.to_lat_lon(cell_xyz(4))
    codes = csr_array(np.random.default_rng(0).random((192, 30)))
    table = where.concentration(codes, lat_lon, nside=4, generator=generator(), permutations=500)
    assert table.moran_by_chance.mean() == pytest.approx(-1 / 191, abs=4e-4)
    # p is uniform where there is nothing
    assert 0.3 < table.moran_p.mean() < 0.7
    assert table.moran_p.min() >= 1 / 501


def test_features_of_few_photos_are_not_tested():
    rare = csr_array(np.eye(1000, 3))
    table = where.concentration(rare, TRUTH.lat_lon, nside=4, generator=generator(), permutations=9)
    assert table.moran_p.isna().all()
    assert not table.is_concentrated.any()
    assert (table.photos == 1).all()


def test_rates_of_false_discovery_are_those_of_the_paper():
    """The example of Benjamini and Hochberg (1995), section 3: 4 rejected at 0.05."""
    p = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459]
    p = np.array([*p, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0, np.nan])
    q = where._discovery_rates(p)
    assert (q < 0.05).sum() == 4
    assert np.isnan(q[-1])


def test_enrichment_is_the_test_of_fisher():
    numbers = np.random.default_rng(0)
    countries = numbers.choice(["FR", "BR", "JP", "no country"], 200, p=[0.2, 0.3, 0.1, 0.4])
    codes = numbers.random((200, 5)) * (numbers.random((200, 5)) < 0.2)
    codes[:, 1] = countries == "BR"
    codes[:, 4] = 0
    table = where.country_enrichment(csr_array(codes), countries.tolist())
    assert (table.country[0], table.feature[0]) == ("BR", 1)
    assert table.fold[0] == pytest.approx(200 / (countries == "BR").sum())
    assert table.q.is_monotonic_increasing
    assert set(table.feature) == {0, 1, 2, 3}
    for row in table.itertuples():
        has, of = codes[:, row.feature] > 0, countries == row.country
        square = [[(has & of).sum(), (has & ~of).sum()], [(~has & of).sum(), (~has & ~of).sum()]]
        assert row.p == pytest.approx(fisher_exact(square, alternative="greater").pvalue)
        assert row.photos == square[0][0]
    assert (table.q[1:] > where.LEVEL).all()
    assert table.q[0] == pytest.approx(table.p[0] * 16)  # four features that fire, four countries


def test_top_photos_have_most():
    codes = csr_array(np.array([[0, 1], [3, 0], [1, 0], [2, 5.0]]))
    np.testing.assert_array_equal(where.top_photos(codes, 0, 2), [1, 3])
    np.testing.assert_array_equal(where.top_photos(codes, 1, 9), [3, 0])


def test_cells_fit_the_photos():
    assert [where.suited_nside(count) for count in (3, 239, 240, 2000, 10**9)] == [1, 1, 2, 4, 32]


def test_too_few_places_are_refused():
    codes = csr_array(np.ones((4, 1)))
    with pytest.raises(ValueError, match="at least 3 cells"):
        where.concentration(codes, [(10.0, 10.0)] * 4, nside=4, generator=generator())
    with pytest.raises(ValueError, match="a place for each of 4 rows, got 3"):
        where.feature_maps(codes, [(10.0, 10.0)] * 3, nside=4)
    with pytest.raises(ValueError, match="a country for each of 4 rows"):
        where.country_enrichment(codes, ["FR"])
