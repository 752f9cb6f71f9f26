"""Distances and accuracies of each protocol against pyproj and hand-computed numbers."""

import math

import numpy as np
import pytest
import torch
from pyproj import Geod

from icgeo import metrics
from icgeo.sphere import sample_uniform, to_lat_lon

GEODS = {
    "osv5m": Geod(a=6_371_000, b=6_371_000),
    "pigeon": Geod(a=6_378_137, b=6_378_137),
    "geoclip": Geod(ellps="WGS84"),
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
    shares = metrics.accuracies([0.5, 1, 24, 199, 700, 2499, 2500, math.inf])
    assert shares == {1: 1 / 8, 25: 3 / 8, 200: 4 / 8, 750: 5 / 8, 2500: 6 / 8}


def test_unknown_protocols_are_named():
    with pytest.raises(ValueError, match=r"out of \['osv5m', 'geoclip', 'pigeon'\], got 'plonk'"):
        metrics.geoscore([1.0], protocol="plonk")
