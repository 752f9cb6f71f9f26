"""Scores of predictions: arrays in, numbers out.

Errors of points under a protocol, all or in groups (`distances`); the places that people name
(`locations`); bootstrap `intervals`; `densities` as a stream, with their calibration and `energy`
score; what `samples` look like.
"""

from icgeo.metrics.densities import UNIFORM_NLL as UNIFORM_NLL
from icgeo.metrics.densities import DensityScores as DensityScores
from icgeo.metrics.densities import calibration_error as calibration_error
from icgeo.metrics.densities import coverage as coverage
from icgeo.metrics.densities import recall_by_area as recall_by_area
from icgeo.metrics.densities import reliability as reliability
from icgeo.metrics.densities import score_density as score_density
from icgeo.metrics.densities import searched_area_km2 as searched_area_km2
from icgeo.metrics.distances import PROTOCOLS as PROTOCOLS
from icgeo.metrics.distances import THRESHOLDS_KM as THRESHOLDS_KM
from icgeo.metrics.distances import accuracies as accuracies
from icgeo.metrics.distances import accuracy_within as accuracy_within
from icgeo.metrics.distances import distances as distances
from icgeo.metrics.distances import errors_by_group as errors_by_group
from icgeo.metrics.distances import errors_by_training_density as errors_by_training_density
from icgeo.metrics.distances import geoscore as geoscore
from icgeo.metrics.distances import mean_error as mean_error
from icgeo.metrics.distances import median_error as median_error
from icgeo.metrics.distances import summarise as summarise
from icgeo.metrics.distances import training_counts as training_counts
from icgeo.metrics.energy import energy_score as energy_score
from icgeo.metrics.intervals import Interval as Interval
from icgeo.metrics.intervals import Statistic as Statistic
from icgeo.metrics.intervals import bootstrap_interval as bootstrap_interval
from icgeo.metrics.intervals import paired_bootstrap as paired_bootstrap
from icgeo.metrics.intervals import weighted_mean as weighted_mean
from icgeo.metrics.intervals import weighted_median as weighted_median
from icgeo.metrics.locations import PLACE_LEVELS as PLACE_LEVELS
from icgeo.metrics.locations import Gazetteer as Gazetteer
from icgeo.metrics.locations import accuracy_by_place as accuracy_by_place
from icgeo.metrics.locations import bundled_gazetteer as bundled_gazetteer
from icgeo.metrics.locations import hits as hits
from icgeo.metrics.locations import place_accuracy as place_accuracy
from icgeo.metrics.samples import sample_quality as sample_quality
