"""Tests of alignment against dense formulas in NumPy, and of spaces that are built to be alike."""

import numpy as np
import pytest
import torch

from icgeo import sphere
from icgeo.latents.alignment import MEASURES, Alignment, Space, align

COUNT = 60


def normal(count, channels, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, channels, generator=generator, dtype=torch.float64)


@pytest.fixture(scope="module")
def pair():
    a = normal(COUNT, 5, 0)
    return a, torch.cat((a[:, :3] + 0.5 * normal(COUNT, 3, 1), normal(COUNT, 2, 2)), dim=1)


def value(name, a, b, k=10):
    return MEASURES[name](Space.of(a, k), Space.of(b, k), torch.arange(len(a)))


def hsic(k, other):
    """Unbiased HSIC (Song et al. 2012, eq. 5), written out."""
    n = len(k)
    k, other = k - np.diag(np.diag(k)), other - np.diag(np.diag(other))
    one = np.ones(n)
    total = np.trace(k @ other) + (one @ k @ one) * (one @ other @ one) / ((n - 1) * (n - 2))
    return (total - 2 / (n - 2) * (one @ k @ other @ one)) / (n * (n - 3))


def test_cka_is_that_of_unbiased_hsic(pair):
    k, other = ((x - x.mean(0)).numpy() @ (x - x.mean(0)).numpy().T for x in pair)
    expected = hsic(k, other) / np.sqrt(hsic(k, k) * hsic(other, other))
    assert value("CKA", *pair) == pytest.approx(expected, abs=1e-12)


def nearest(x, k):
    """Neighbours by cosine, found by scikit-learn."""
    from sklearn.neighbors import NearestNeighbors

    x = (x - x.mean(0)).numpy()
    found = NearestNeighbors(n_neighbors=k + 1, metric="cosine").fit(x).kneighbors(x)[1]
    return [set(row[1:]) for row in found]


def test_mutual_neighbours_are_those_of_scikit_learn(pair):
    first, second = (nearest(x, 10) for x in pair)
    expected = np.mean([len(a & b) / 10 for a, b in zip(first, second, strict=True)])
    assert value("mutual neighbours", *pair) == pytest.approx(expected)


def test_cknna_is_its_sum_written_out(pair):
    """Huh et al. (2024), appendix A: a sum over ordered pairs that are near in both spaces."""
    units = []
    for x in pair:
        centred = (x - x.mean(0)).numpy()
        units.append(centred / np.linalg.norm(centred, axis=1, keepdims=True))
    kernels, near = [x @ x.T for x in units], [nearest(x, 10) for x in pair]

    def aligned(one, two):
        total = 0.0
        for i in range(COUNT):
            for j in near[one][i] & near[two][i]:
                first = kernels[one][i, j] - kernels[one][i].mean()
                total += first * (kernels[two][i, j] - kernels[two][i].mean())
        return total

    expected = aligned(0, 1) / np.sqrt(aligned(0, 0) * aligned(1, 1))
    assert value("CKNNA", *pair) == pytest.approx(expected, abs=1e-12)


def test_distance_correlation_is_its_definition_written_out(pair):
    """Székely and Rizzo (2013), definitions 2 and 3, with loops."""

    def centred(x):
        d = np.linalg.norm(x[:, None] - x[None], axis=-1)
        n, out = len(d), np.zeros_like(d)
        for i in range(n):
            for j in range(n):
                if i != j:
                    means = d[i].sum() / (n - 2) + d[:, j].sum() / (n - 2)
                    out[i, j] = d[i, j] - means + d.sum() / ((n - 1) * (n - 2))
        return out

    a, b = (centred(x.numpy()) for x in pair)
    expected = (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())
    assert value("distance correlation", *pair) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("name", MEASURES)
def test_turned_and_scaled_spaces_are_equal(name, pair):
    turn = torch.linalg.qr(normal(5, 5, 7)).Q
    assert value(name, pair[0], 3 * pair[0] @ turn + 5) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("name", MEASURES)
def test_a_space_made_of_places_is_aligned_with_the_globe(name):
    """And not when the places are shuffled; more noise, less alignment."""
    xyz = sphere.sample_uniform(120, generator=torch.Generator().manual_seed(0))
    globe, axes = Space.globe(sphere.to_lat_lon(xyz)), normal(3, 16, 1)
    clear, noisy = (Space.of(xyz @ axes + s * normal(120, 16, 2)) for s in (0.1, 2.0))
    found = [align(globe, space, name, permutations=40) for space in (clear, noisy)]
    assert found[0].value > 0.6 > found[1].value
    assert found[0].p == pytest.approx(1 / 41)
    order = torch.randperm(120, generator=torch.Generator().manual_seed(3))
    chance = align(Space.globe(sphere.to_lat_lon(xyz[order])), clear, name, permutations=40)
    assert isinstance(chance, Alignment)
    assert abs(chance.value - chance.chance) < 0.08
    assert chance.p > 0.02
    assert found[0].low < found[0].value < found[0].high
    of_neighbours = name in ("mutual neighbours", "CKNNA")
    assert found[0].chance == pytest.approx(10 / 119 if of_neighbours else 0, abs=0.03)


def test_wrong_spaces_are_refused():
    with pytest.raises(ValueError, match="more photos than 11"):
        Space.of(normal(11, 3, 0))
    a, b = Space.of(normal(20, 3, 0)), Space.of(normal(21, 3, 0))
    with pytest.raises(ValueError, match="same photos in both spaces, got 20 and 21"):
        align(a, b)
    with pytest.raises(ValueError, match="got 'likeness'"):
        align(a, a, "likeness")
