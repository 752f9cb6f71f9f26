"""Errors of parts of the queries against loops over all pairs."""

import math

import numpy as np
import pytest
import torch

from icgeo import metrics
from icgeo.sphere import distance_km, sample_cap, to_lat_lon, to_xyz


def test_groups_are_summarised_apart_and_unlabelled_rows_counted():
    km, labels = [1.0, 3.0, 100.0, 7.0], ["EU", "EU", "AF", None]
    groups = metrics.errors_by_group(km, labels, [0.0, 1.0, 2.0, 3.0])
    assert groups.missing == 1
    assert list(groups.summaries) == ["AF", "EU"]
    assert groups.summaries["EU"] == metrics.summarise([1.0, 3.0], [0.0, 1.0])
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
    assert [(b.fewest, b.most, b.summary.queries) for b in bins] == [
        (0, 0, 3),
        (1, 1, 1),
        (2, 5, 2),
        (7, 9, 2),
    ]
    assert bins[2].summary == metrics.summarise(km[4:6])
    (one,) = metrics.errors_by_training_density([1.0, math.inf], [3, 3])
    assert one.summary.queries == 2
