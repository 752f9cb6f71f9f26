"""NaN, nothing and a single row: what every public function of icgeo.metrics makes of them."""

import inspect
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from icgeo import metrics
from icgeo.metrics import densities, intervals, locations, samples
from icgeo.metrics.densities import (
    UNIFORM_NLL,
    DensityScores,
    calibration_error,
    coverage,
    energy_score,
    recall_by_area,
    reliability,
    score_density,
    searched_area_km2,
)
from icgeo.metrics.intervals import (
    bootstrap_interval,
    paired_bootstrap,
    weighted_mean,
    weighted_median,
)
from icgeo.metrics.locations import PLACE_LEVELS, Gazetteer, accuracy_by_place, hits, place_accuracy
from icgeo.metrics.samples import sample_quality
from icgeo.sphere import AREA_KM2
from icgeo.sphere.density import Density

ONE, NONE, NAN = [(10.0, 20.0)], np.zeros((0, 2)), [(math.nan, math.nan)]
BAD = [(math.nan, 20.0)]
FLAT = Density.uniform(1)
NOWHERE = pd.DataFrame([["EU", "FR", None, None, "Paris"]], columns=PLACE_LEVELS)
GAZETTEER = Gazetteer(np.array([(48.9, 2.4)]), NOWHERE)
COUNTS = dict.fromkeys(PLACE_LEVELS, (0, 1))


def column(function, one, *, nan="got nan", **options):
    """A function of a column of numbers."""
    return {
        "single": (lambda: function([2.0], **options), one),
        "empty": (lambda: function([], **options), "at least one query"),
        "nan": (lambda: function([math.nan], **options), nan),
    }


def by_place(predicted, truth):
    return accuracy_by_place(predicted, truth, gazetteer=GAZETTEER)


def streamed(truths, count):
    scores = DensityScores()
    scores.add([FLAT] * count, truths)
    return scores.summary().queries


class IsNan:
    """Equal to NaN."""

    def __eq__(self, other):
        return math.isnan(other)


EQUAL_WEIGHTS = torch.ones(1)
CASES: dict[str, dict[str, tuple[Any, Any]]] = {
    "geoscore": {
        "single": (lambda: metrics.geoscore([0.0]).tolist(), [5000]),
        "empty": (lambda: metrics.geoscore([]).tolist(), []),
        "nan": (lambda: metrics.geoscore([math.nan]), "got nan"),
    },
    "accuracy_within": column(metrics.accuracy_within, 1, km=25),
    "mean_error": column(metrics.mean_error, 2),
    "median_error": column(metrics.median_error, 2),
    "summarise": column(lambda km: metrics.summarise(km).median_km, 2),
    "bootstrap_interval": column(lambda x: bootstrap_interval(x).low, IsNan()),
    "paired_bootstrap": column(lambda x: paired_bootstrap(x, x).low, IsNan()),
    "recall_by_area": column(lambda x: recall_by_area(x, [1.0, 2.0]).tolist(), [0, 1]),
    "errors_by_group": column(lambda x: len(metrics.errors_by_group(x, ["a"])), 1),
    "errors_by_training_density": column(
        lambda x: len(metrics.errors_by_training_density(x, [0] * len(x))), 1
    ),
    "coverage": {
        "single": (lambda: coverage([0.5], 0.9), 1),
        "empty": (lambda: coverage([], 0.9), "at least one query"),
        "nan": (lambda: coverage([math.nan], 0.9), "got nan"),
    },
    "reliability": {
        "single": (lambda: reliability([0.5], [0.4, 0.6]).tolist(), [0, 1]),
        "empty": (lambda: reliability([], [0.5]), "at least one query"),
        "nan": (lambda: reliability([0.5], [math.nan]), "got nan"),
    },
    "calibration_error": {
        "single": (lambda: calibration_error([0.5]), 0.5),
        "empty": (lambda: calibration_error([]), "at least one query"),
        "nan": (lambda: calibration_error([math.nan]), "got nan"),
    },
    "weighted_mean": {
        "single": (lambda: weighted_mean(torch.ones(1), EQUAL_WEIGHTS), 1),
        "empty": (lambda: weighted_mean(torch.ones(0), torch.ones(0)), IsNan()),
        "nan": (lambda: weighted_mean(torch.tensor([math.nan]), EQUAL_WEIGHTS), IsNan()),
    },
    "weighted_median": {
        "single": (lambda: weighted_median(torch.ones(1), EQUAL_WEIGHTS), 1),
        "empty": (lambda: weighted_median(torch.ones(0), torch.ones(0)), IsNan()),
        "nan": (lambda: weighted_median(torch.tensor([math.nan]), EQUAL_WEIGHTS), IsNan()),
    },
    "distances": {
        "single": (lambda: metrics.distances(ONE, ONE).tolist(), [0]),
        "empty": (lambda: metrics.distances(NONE, NONE), "at least one query"),
        "nan": (lambda: metrics.distances(ONE, NAN), "latitude in"),
        "no answer": (lambda: metrics.distances(NAN, ONE).tolist(), [math.inf]),
        "half an answer": (lambda: metrics.distances(BAD, ONE), "latitude in"),
        "lengths": (lambda: metrics.distances(ONE * 2, ONE), "of 1 queries, got 2"),
    },
    "training_counts": {
        "single": (lambda: metrics.training_counts(ONE, ONE).tolist(), [1]),
        "empty": (lambda: metrics.training_counts(ONE, NONE), "training location"),
        "nan": (lambda: metrics.training_counts(NAN, ONE), "latitude in"),
    },
    "accuracy_by_place": {
        "single": (
            lambda: by_place(ONE, ONE)["city"].accuracy,
            1,
        ),
        "empty": (lambda: by_place(NONE, NONE), "at least one query"),
        "nan": (
            lambda: {
                level: (accuracy.scored, accuracy.missing)
                for level, accuracy in by_place(ONE, NAN).items()
            },
            COUNTS,
        ),
    },
    "place_accuracy": {
        "single": (lambda: place_accuracy(["a"], ["a"]).accuracy, 1),
        "empty": (lambda: place_accuracy([], []), "at least one label"),
        "nan": (lambda: place_accuracy(["a"], [math.nan]).missing, 1),
    },
    "hits": {
        "single": (lambda: hits(["a"], ["b"]).tolist(), [0]),
        "empty": (lambda: hits([], []), "at least one label"),
        "nan": (lambda: hits([None], ["a"]).tolist(), [0]),
    },
    "Gazetteer": {
        "single": (lambda: GAZETTEER.locate(ONE)["country"].tolist(), ["FR"]),
        "empty": (lambda: Gazetteer(NONE, NOWHERE[:0]), "at least one city"),
        "nan": (lambda: Gazetteer(np.array(NAN), NOWHERE), "latitude in"),
    },
    "score_density": {
        "single": (lambda: score_density(FLAT, ONE[0]).nll, UNIFORM_NLL),
        "empty": (lambda: score_density(FLAT, NONE), "at least one query"),
        "nan": (lambda: score_density(FLAT, NAN[0]), "latitude in"),
    },
    "searched_area_km2": {
        "single": (lambda: searched_area_km2(FLAT, ONE[0]), 6.5 * AREA_KM2 / 12),
        "empty": (lambda: searched_area_km2(FLAT, ()), "last dimension of 2"),
        "nan": (lambda: searched_area_km2(FLAT, NAN[0]), "latitude in"),
    },
    "DensityScores": {
        "single": (lambda: streamed(ONE, 1), 1),
        "empty": (lambda: streamed(NONE, 0), "at least one query"),
        "nan": (lambda: streamed(NAN, 1), "latitude in"),
    },
    "energy_score": {
        "single": (lambda: energy_score(FLAT, ONE).shape, (1,)),
        "empty": (lambda: energy_score(FLAT, NONE).shape, (0,)),
        "nan": (lambda: energy_score(FLAT, NAN), "latitude in"),
        "resolution": (lambda: energy_score(FLAT, ONE, resolution=0), "in (0, 1)"),
    },
    "sample_quality": {
        "single": (lambda: sample_quality(ONE, ONE), "nearest from 1"),
        "empty": (lambda: sample_quality(NONE, NONE), "at least one query"),
        "nan": (lambda: sample_quality(NAN, ONE), "latitude in"),
    },
}  # fmt: skip
ROWS = [(name, what) for name, cases in CASES.items() for what in cases]


@pytest.mark.parametrize(("name", "what"), ROWS, ids=[" ".join(row) for row in ROWS])
def test_result_is_as_stated_or_an_error_says_why(name, what):
    call, expected = CASES[name][what]
    if isinstance(expected, str):
        with pytest.raises(ValueError, match="expected") as error:
            call()
        assert expected in str(error.value)
        assert "\n" not in str(error.value)
    else:
        assert call() == expected


def test_no_public_function_is_left_out():
    others = {"bundled_gazetteer", "as_numbers", "as_column", "as_locations", "as_answers"}
    others |= {"check_rows", "check_same_rows"}
    public = {
        name
        for module in (metrics, densities, intervals, locations, samples)
        for name, value in vars(module).items()
        if (inspect.isfunction(value) or name in ("Gazetteer", "DensityScores"))
        and value.__module__ == module.__name__
        and not name.startswith("_")
    }
    assert public - others == set(CASES)
