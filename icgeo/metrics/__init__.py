"""Scores of predictions: arrays in, numbers out.

`errors` of points under a protocol, `locations` that people name, `groups` of queries, bootstrap
`intervals`; `densities` as a stream, with their `calibration` and `energy` score; `samples`.
"""

from icgeo.metrics.calibration import (
    UNIFORM_NLL,
    calibration_error,
    coverage,
    information_gain,
    mean_nll,
    recall_by_area,
    reliability,
)
from icgeo.metrics.densities import (
    DensityScore,
    DensityScores,
    DensitySummary,
    score_density,
    searched_area_km2,
)
from icgeo.metrics.energy import energy_score, energy_score_of_samples
from icgeo.metrics.errors import (
    PROTOCOLS,
    THRESHOLDS_KM,
    Protocol,
    Summary,
    accuracies,
    accuracy_within,
    distances,
    geoscore,
    mean_error,
    median_error,
    summarise,
)
from icgeo.metrics.groups import (
    DensityBin,
    Groups,
    errors_by_group,
    errors_by_training_density,
    training_counts,
)
from icgeo.metrics.intervals import (
    Interval,
    Statistic,
    bootstrap_interval,
    paired_bootstrap,
    weighted_mean,
    weighted_median,
)
from icgeo.metrics.locations import (
    LEVELS,
    Gazetteer,
    PlaceAccuracy,
    accuracy_by_place,
    bundled_gazetteer,
    hits,
    place_accuracy,
)
from icgeo.metrics.samples import SampleQuality, sample_quality

__all__ = [
    "LEVELS",
    "PROTOCOLS",
    "THRESHOLDS_KM",
    "UNIFORM_NLL",
    "DensityBin",
    "DensityScore",
    "DensityScores",
    "DensitySummary",
    "Gazetteer",
    "Groups",
    "Interval",
    "PlaceAccuracy",
    "Protocol",
    "SampleQuality",
    "Statistic",
    "Summary",
    "accuracies",
    "accuracy_by_place",
    "accuracy_within",
    "bootstrap_interval",
    "bundled_gazetteer",
    "calibration_error",
    "coverage",
    "distances",
    "energy_score",
    "energy_score_of_samples",
    "errors_by_group",
    "errors_by_training_density",
    "geoscore",
    "hits",
    "information_gain",
    "mean_error",
    "mean_nll",
    "median_error",
    "paired_bootstrap",
    "place_accuracy",
    "recall_by_area",
    "reliability",
    "sample_quality",
    "score_density",
    "searched_area_km2",
    "summarise",
    "training_counts",
    "weighted_mean",
    "weighted_median",
]
