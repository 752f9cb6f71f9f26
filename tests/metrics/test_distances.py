"""Distances and scores of each protocol against pyproj and numbers by hand; groups by loops."""

import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from pyproj import Geod

from icgeo import metrics
from icgeo.sphere import distance_km, sample_cap, sample_uniform, to_lat_lon, to_xyz

DISTANCES = [0.0, 100.0, 200.0, 3000.0]

GEODS = {
    "osv5m": Geod(a=6_371_000, b=6_371_000),
    "pigeon": Geod(a=6_378_137, b=6_378_137),
    "geoclip": Geod(ellps="WGS84"),
}


def test_geoscore_of_hand_computed_distances():
    """5000 exp(-d / 1492.7): half at 1492.7 ln 2 km, as in Haas et al. 2024, section 3."""
    half = 1492.7 * math.log(2)
    assert metrics.geoscore([0, half, math.inf]).tolist() == pytest.approx([5000, 2500, 0])
    assert metrics.geoscore(torch.full((2, 3), half)).shape == (2, 3)
    assert metrics.geoscore(0).item() == 5000


def test_accuracy_is_strict():
    assert metrics.accuracy_within(DISTANCES, 200) == 0.5
    assert metrics.accuracy_within(DISTANCES, 200.001) == 0.75
    assert metrics.accuracy_within([math.inf], 25_000) == 0


@pytest.mark.parametrize(
    ("distance", "mean", "median"),
    [
        (DISTANCES, 825, 150),
        ([7], 7, 7),
        ([1.0, 2.0, math.inf], math.inf, 2),
        ([1.0, math.inf], math.inf, math.inf),
    ],
)
def test_errors_in_km(distance, mean, median):
    assert metrics.mean_error(distance) == mean
    assert metrics.median_error(np.array(distance)) == median


@pytest.mark.parametrize("score", [metrics.geoscore, metrics.mean_error, metrics.median_error])
@pytest.mark.parametrize("wrong", [math.nan, -1.0])
def test_distances_that_are_none_name_the_row(score, wrong):
    with pytest.raises(ValueError, match=rf"expected distance_km in \[0, inf\], got {wrong:g}.*2"):
        score([1.0, 2.0, wrong])


@pytest.mark.parametrize("score", [metrics.mean_error, metrics.median_error, metrics.summarise])
@pytest.mark.parametrize("wrong", [[], 3.0, [[1.0]]])
def test_columns_have_one_row_a_query(score, wrong):
    with pytest.raises(ValueError, match="each of at least one query, got shape"):
        score(wrong)


def test_summary_of_hand_computed_numbers():
    summary = metrics.summarise([100.0, 500.0, 1000.0, math.inf])
    scores = [5000 * math.exp(-d / 1492.7) for d in (100, 500, 1000)]
    assert asdict(summary) == {
        "queries": 4,
        "median_km": 750,
        "mean_km": math.inf,
        "mean_geoscore": pytest.approx(sum(scores) / 4),
        "within_1": 0,
        "within_25": 0,
        "within_200": 0.25,
        "within_750": 0.5,
        "within_2500": 0.75,
    }


@pytest.mark.parametrize("protocol", GEODS)
def test_distances_are_those_of_pyproj(protocol):
    """Karney's algorithm, on the ellipsoid and on it made a sphere."""
    a, b = to_lat_lon(sample_uniform(2, 500, generator=torch.Generator().manual_seed(0)))
    (lat, lon), (lat_b, lon_b) = a.T.numpy(), b.T.numpy()
    expected = GEODS[protocol].inv(lon, lat, lon_b, lat_b)[2] / 1000
    assert metrics.distances(a, b, protocol=protocol).numpy() == pytest.approx(expected, rel=1e-9)


def test_published_geodesic_of_vincenty():
    """Flinders Peak to Buninyong, 54972.271 m (Geocentric Datum of Australia manual, GRS80)."""
    flinders, buninyong = (
        (-37.95103341666667, 144.42486788888888),
        (-37.65282113888889, 143.92649552777777),
    )
    km = metrics.distances([flinders], [buninyong], protocol="geoclip")
    assert km.item() == pytest.approx(54.972271, abs=1e-6)


def test_a_query_at_the_threshold_counts_for_geoclip_alone():
    shares = {name: metrics.accuracy_within([25.0, 100.0], 25, protocol=name) for name in GEODS}
    assert shares == {"osv5m": 0, "pigeon": 0, "geoclip": 0.5}


def test_only_pigeon_rounds_the_score():
    """5000 exp(-100 / 1492.7) = 4676.01, by the series of exp to the fourth power."""
    scores = {name: metrics.geoscore(100.0, protocol=name).item() for name in GEODS}
    assert scores["pigeon"] == 4676
    assert scores["osv5m"] == scores["geoclip"] == pytest.approx(4676.01, abs=1e-3)
    summary = metrics.summarise([100.0], protocol="pigeon")
    assert summary.mean_geoscore == 4676


def test_protocols_differ_by_the_figure_of_the_earth():
    """A quarter of a meridian, 10001.966 km on WGS84; a quarter of the equator, 10018.754 km."""
    km = {name: metrics.distances([(90, 0)], [(0, 50)], protocol=name).item() for name in GEODS}
    assert km["geoclip"] == pytest.approx(10001.966, abs=1e-3)
    assert km["pigeon"] == pytest.approx(10018.754, abs=1e-3)
    assert km["osv5m"] == pytest.approx(math.pi / 2 * 6371)


def test_a_missing_answer_is_infinitely_far():
    km = metrics.distances([(1, 1), (math.nan, math.nan)], [(1, 1), (2, 2)])
    assert km.tolist() == [0, math.inf]
    half = np.array([(1.0, math.nan)])
    with pytest.raises(ValueError, match="longitude in"):
        metrics.distances(half, [(1, 1)])
    with pytest.raises(ValueError, match="latitude in"):
        metrics.distances([(1, 1)], [(math.nan, math.nan)])


def test_accuracies_at_the_five_thresholds():
    km = [0.5, 1, 24, 199, 700, 2499, 2500, math.inf]
    shares = {near: metrics.accuracy_within(km, near) for near in metrics.THRESHOLDS_KM}
    assert shares == {1: 1 / 8, 25: 3 / 8, 200: 4 / 8, 750: 5 / 8, 2500: 6 / 8}


def test_unknown_protocols_are_named():
    with pytest.raises(ValueError, match=r"out of \['osv5m', 'geoclip', 'pigeon'\], got 'plonk'"):
        metrics.geoscore([1.0], protocol="plonk")


def test_groups_are_summarised_apart_and_unlabelled_rows_counted():
    km, labels = [1.0, 3.0, 100.0, 7.0], ["EU", "EU", "AF", None]
    groups = metrics.errors_by_group(km, labels)
    assert list(groups) == ["AF", "EU"]
    assert sum(group.queries for group in groups.values()) == 3
    assert groups["EU"] == metrics.summarise([1.0, 3.0])
    with pytest.raises(ValueError, match="expected labels of 4 queries, got 1"):
        metrics.errors_by_group(km, ["EU"])


def test_training_counts_are_those_of_all_distances():
    generator = torch.Generator().manual_seed(0)
    pole = to_xyz(torch.tensor([[89.0, 0.0]], dtype=torch.float64))
    queries, photos = (
        to_lat_lon(sample_cap(pole.expand(n, 3), 10.0, generator=generator)) for n in (40, 300)
    )
    expected = [(distance_km(query, photos) <= 250).sum().item() for query in queries]
    assert metrics.training_counts(queries, photos, radius_km=250).tolist() == expected
    assert max(expected) > 0
    assert metrics.training_counts([(0, 179.9)], [(0, -179.9), (0, 0)]).tolist() == [1]
    with pytest.raises(ValueError, match="radius_km above 0"):
        metrics.training_counts(queries, photos, radius_km=0)


def test_bins_are_quantiles_of_the_counts_and_ties_stay_together():
    counts = np.array([0, 0, 0, 1, 2, 5, 7, 9])
    km = np.arange(8.0)
    bins = metrics.errors_by_training_density(km, counts, bins=4)
    queries = {counts: summary.queries for counts, summary in bins.items()}
    assert queries == {(0, 0): 3, (1, 1): 1, (2, 5): 2, (7, 9): 2}
    assert bins[2, 5] == metrics.summarise(km[4:6])
    one = metrics.errors_by_training_density([1.0, math.inf], [3, 3])
    assert one[3, 3].queries == 2
