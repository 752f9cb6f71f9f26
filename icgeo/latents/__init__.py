"""The geography inside: activations of models, what can be read from them, and what they cause.

Activations are kept on disk (`activations`), places are read from them by probes (`probes`), spaces
are compared with each other and with the globe (`alignment`), sparse autoencoders take them apart
(`sparse`) into features whose places are looked at (`concentration`), and maps are moved by
changing activations (`steering`).
"""

from icgeo.latents.activations import ActivationStore
from icgeo.latents.alignment import MEASURES, Space, align
from icgeo.latents.concentration import feature_maps, suited_nside, top_photos
from icgeo.latents.controls import CONTROLS, colours, untrain
from icgeo.latents.feature_steering import FeatureDirection
from icgeo.latents.feature_survey import FeatureSurvey, survey_features
from icgeo.latents.probes import (
    error_by_group,
    median_km,
    probe_labels,
    probe_numbers,
    probe_places,
    thirds,
)
from icgeo.latents.steering import PlaceDirections, compare_changes, steer

__all__ = ["CONTROLS", "MEASURES", "ActivationStore", "FeatureDirection", "FeatureSurvey"]
__all__ += ["PlaceDirections", "Space", "align", "colours", "compare_changes", "error_by_group"]
__all__ += ["feature_maps", "median_km", "probe_labels", "probe_numbers", "probe_places", "steer"]
__all__ += ["suited_nside", "survey_features", "thirds", "top_photos", "untrain"]
