"""Tests of choosing examples: independent implementations, properties, a locator in the middle."""

import numpy as np
import pytest
import torch

from icgeo import features
from icgeo.baselines import NearestPixels
from icgeo.geolocator import Geolocator
from icgeo.prediction import Example, Locator, Prediction
from icgeo.selection import (
    STRATEGIES,
    Bank,
    Diverse,
    Nearest,
    Random,
    Selecting,
    Stratified,
    TwoStage,
)
from icgeo.sphere import distance_km, fibonacci_grid, to_lat_lon
from icgeo.sphere.density import Density
from icgeo.sphere.healpix import cell_of

QUERIES, BANK = 5, 60


class Listed:
    """Features given beforehand: a photo is an array of one pixel, which says which row."""

    name = "listed"

    def __init__(self, count, channels=6, seed=0):
        vectors = torch.randn(count, channels, generator=torch.Generator().manual_seed(seed))
        self.rows = torch.nn.functional.normalize(vectors, dim=-1)

    def encode(self, photos):
        return torch.stack([self.rows[int(photo[0, 0, 0])] for photo in photos])


def numbered(count, start=0):
    return [np.full((1, 1, 3), start + n, dtype=np.uint8) for n in range(count)]


@pytest.fixture(scope="module")
def bank():
    places = to_lat_lon(fibonacci_grid(BANK)).tolist()
    examples = [Example(i, *p) for i, p in zip(numbered(BANK), places, strict=True)]
    return Bank(examples, Listed(BANK + QUERIES))


@pytest.fixture(scope="module")
def photos():
    return numbered(QUERIES, start=BANK)


class Pointing:
    """Answers with a density around one place, and remembers what it was shown."""

    name = "pointing"

    def __init__(self, lat=40.0, lon=100.0):
        self.place, self.shown = (lat, lon), []

    def locate(self, photos, examples=()):
        self.shown.append((len(photos), [(e.lat, e.lon) for e in examples]))
        density = Density.from_mixture([self.place], 60.0, nside=16)
        return [
            Prediction(density, *self.place, legibility=1.0, located=True, seconds=0.0)
            for _ in photos
        ]


def every_strategy():
    return [
        make(Pointing()) if name == "two-stage" else make() for name, make in STRATEGIES.items()
    ]


@pytest.mark.parametrize("strategy", every_strategy(), ids=list(STRATEGIES))
@pytest.mark.parametrize("shots", [1, 13, BANK])
def test_every_strategy_chooses_different_examples(bank, photos, strategy, shots):
    chosen = strategy.choose(bank, photos, shots)
    assert chosen.shape == (QUERIES, shots)
    assert all(len(set(row)) == shots for row in chosen.tolist())
    assert 0 <= chosen.min() <= chosen.max() < BANK
    for number, photo in enumerate(photos):  # in any company
        assert strategy.choose(bank, [photo], shots)[0].tolist() == chosen[number].tolist()


@pytest.mark.parametrize("name", ["random", "nearest"])
def test_more_shots_only_add(bank, photos, name):
    few, many = (STRATEGIES[name]().choose(bank, photos, shots) for shots in (3, 9))
    assert torch.equal(few, many[:, :3])


def test_seeds_draw_otherwise(bank, photos):
    for make in (Random, Stratified):
        first, again, other = (make(seed=s).choose(bank, photos, 9) for s in (0, 0, 1))
        assert torch.equal(first, again)
        assert set(first[0].tolist()) != set(other[0].tolist())


@pytest.mark.parametrize(("shots", "nside"), [(12, 1), (48, 2)])
def test_stratified_takes_one_from_each_cell(shots, nside):
    places = to_lat_lon(fibonacci_grid(2000)).tolist()
    bank = Bank([Example(image, *p) for image, p in zip(2000 * numbered(1), places, strict=True)])
    chosen = Stratified().choose(bank, numbered(1), shots)[0]
    assert sorted(cell_of(bank.lat_lon[chosen], nside).tolist()) == list(range(shots))
    more = Stratified().choose(bank, numbered(1), shots + 5)[0]
    assert torch.bincount(cell_of(bank.lat_lon[more], nside)).max() == 2


def test_stratified_goes_on_where_cells_are_empty():
    places = [(10.0, 10.0 + n / 100) for n in range(9)] + [(-80.0, 0.0)]
    bank = Bank([Example(image, *p) for image, p in zip(10 * numbered(1), places, strict=True)])
    chosen = Stratified().choose(bank, numbered(1), 4)[0].tolist()
    assert 9 in chosen[:2]
    assert len(set(chosen)) == 4


def test_nearest_is_that_of_brute_force(bank, photos):
    known, asked = bank.features.rows[:BANK].double(), bank.features.rows[BANK:].double()
    expected = (asked @ known.T).argsort(dim=-1, descending=True)[:, :7]
    assert torch.equal(Nearest().choose(bank, photos, 7), expected)


@pytest.mark.parametrize("relevance", [0.0, 0.5, 0.7])
def test_diverse_is_maximal_marginal_relevance(bank, photos, relevance):
    """Against the definition, one pick at a time, of 12 candidates for 3 shots."""
    known, asked = bank.features.rows[:BANK].numpy(), bank.features.rows[BANK:].numpy()
    chosen = Diverse(relevance).choose(bank, photos, 3)
    for query, found in zip(asked, chosen.tolist(), strict=True):
        left = sorted(range(BANK), key=lambda n: -float(known[n] @ query))[:12]
        picked = []
        for _ in range(3):

            def gain(n, picked=picked, query=query):
                alike = max((float(known[n] @ known[m]) for m in picked), default=0.0)
                return relevance * float(known[n] @ query) - (1 - relevance) * alike

            picked.append(max(left, key=gain))
            left.remove(picked[-1])
        if relevance:  # with none, all are alike at first
            assert found == picked


def test_diverse_with_all_weight_on_relevance_is_nearest(bank, photos):
    assert torch.equal(Diverse(1.0).choose(bank, photos, 5), Nearest().choose(bank, photos, 5))


def test_diverse_leaves_out_duplicates():
    """Three copies of one photo and two others: the copies are shown last."""
    listed = Listed(0)
    listed.rows = torch.nn.functional.normalize(
        torch.tensor([[1, 0.1, 0], [1, 0.1, 0], [1, 0.1, 0], [1, -1, 0], [1, 0, 1], [1, 0, 0.0]]),
        dim=-1,
    )
    bank = Bank([Example(image, 0, 0) for image in numbered(5)], listed)
    (chosen,) = Diverse(0.5).choose(bank, numbered(1, start=5), 3).tolist()
    assert chosen[0] in (0, 1, 2)
    assert set(chosen[1:]) == {3, 4}


def test_two_stages_show_the_likely_region(bank, photos):
    rough = Pointing()
    chosen = TwoStage(rough, few=4).choose(bank, photos[:2], 5)
    assert [count for count, _ in rough.shown] == [2]
    assert len(rough.shown[0][1]) == 4
    far = distance_km(bank.lat_lon[chosen[0]], torch.tensor(rough.place).double())
    assert far.median() < 3000
    assert far.median() < distance_km(bank.lat_lon, torch.tensor(rough.place).double()).median() / 3


def test_two_stages_draw_in_proportion_to_the_density():
    """Shares of first picks over 200 seeds, against the density at three places."""
    places = [(40.0, 100.0), (40.0, 112.0), (40.0, 125.0)]
    bank = Bank([Example(image, *p) for image, p in zip(3 * numbered(1), places, strict=True)])
    firsts = [
        TwoStage(Pointing(), first=Random(), few=1, seed=s).choose(bank, numbered(1), 1).item()
        for s in range(200)
    ]
    density = Pointing().locate(numbered(1))[0].density.log_prob(bank.lat_lon).exp()
    shares = torch.bincount(torch.tensor(firsts), minlength=3) / 200
    torch.testing.assert_close(shares.double(), density / density.sum(), atol=0.1, rtol=0)


def test_a_bank_without_features_says_what_is_missing(photos):
    bank = Bank([Example(image, 0, 0) for image in numbered(3)])
    with pytest.raises(ValueError, match=r"a bank with features .*features\.open"):
        Nearest().choose(bank, photos, 1)


def test_the_same_choice_is_located_at_once(bank, photos):
    locator = Pointing()
    found = Selecting(locator, bank, Random(), shots=6).locate(photos)
    assert isinstance(Selecting(locator, bank), Locator)
    assert len(found) == QUERIES
    assert [count for count, _ in locator.shown] == [QUERIES]
    own = Selecting(locator, bank, Nearest(), shots=2)
    del locator.shown[:]
    own.locate(photos)
    assert sum(count for count, _ in locator.shown) == QUERIES


def test_as_many_are_chosen_as_are_given(bank, photos):
    """So that `evaluate`, which gives the first examples of an episode, says how many."""
    locator = Pointing()
    Selecting(locator, bank, Random()).locate(photos, bank.examples[:4])
    Selecting(locator, bank, Random()).locate(photos, [])
    assert [len(examples) for _, examples in locator.shown] == [4, 0]
    with pytest.raises(ValueError, match="expected 0 to 60 shots, as many as the bank holds"):
        Selecting(locator, bank, shots=61)


def test_retrieval_is_a_choice_of_one(bank, photos):
    found = Selecting(NearestPixels(), bank, Nearest(), shots=1).locate(photos)
    chosen = Nearest().choose(bank, photos, 1)[:, 0]
    answers = torch.tensor([[p.lat, p.lon] for p in found], dtype=torch.float64)
    torch.testing.assert_close(answers, bank.lat_lon[chosen])


def test_the_method_is_shown_what_was_chosen(bank):
    """Each photo is located as alone with its nearest; photos of 64 pixels and tiny's features."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 255, (10, 8, 8, 3), generator=generator, dtype=torch.uint8).numpy()
    small = Bank(
        [Example(i, 3 * n, 5 * n) for n, i in enumerate(images[:8])], features.open("tiny")
    )
    locator = Geolocator("tiny", prompt="unknown world")
    own = Selecting(locator, small, Nearest(), shots=3).locate(list(images[8:]))
    chosen = Nearest().choose(small, list(images[8:]), 3)
    for photo, numbers, found in zip(images[8:], chosen.tolist(), own, strict=True):
        (alone,) = locator.locate([photo], [small.examples[n] for n in numbers])
        torch.testing.assert_close(found.map, alone.map, atol=2e-5, rtol=0)
