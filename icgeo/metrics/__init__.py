"""Scores of predictions: arrays in, numbers out.

`errors` of points under a protocol, `intervals` by the bootstrap, `calibration` of probabilities.
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
from icgeo.metrics.intervals import (
    Interval,
    Statistic,
    bootstrap_interval,
    paired_bootstrap,
    weighted_mean,
    weighted_median,
)

__all__ = [
    "PROTOCOLS",
    "THRESHOLDS_KM",
    "UNIFORM_NLL",
    "Interval",
    "Protocol",
    "Statistic",
    "Summary",
    "accuracies",
    "accuracy_within",
    "bootstrap_interval",
    "calibration_error",
    "coverage",
    "distances",
    "geoscore",
    "information_gain",
    "mean_error",
    "mean_nll",
    "median_error",
    "paired_bootstrap",
    "recall_by_area",
    "reliability",
    "summarise",
    "weighted_mean",
    "weighted_median",
]
