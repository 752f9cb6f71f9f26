"""The geography inside: activations of models, what can be read from them, and what they cause.

Activations are kept on disk (`activations`), places are read from them by probes (`probes`), spaces
are compared with each other and with the globe (`alignment`), sparse autoencoders take them apart
(`sparse`) into features whose places are looked at (`concentration`), and maps are moved by
changing activations (`steering`).
"""

from icgeo.latents.activations import ActivationStore as ActivationStore
from icgeo.latents.alignment import MEASURES as MEASURES
from icgeo.latents.alignment import Space as Space
from icgeo.latents.alignment import align as align
from icgeo.latents.concentration import feature_maps as feature_maps
from icgeo.latents.concentration import suited_nside as suited_nside
from icgeo.latents.concentration import top_photos as top_photos
from icgeo.latents.controls import CONTROLS as CONTROLS
from icgeo.latents.controls import colours as colours
from icgeo.latents.controls import untrain as untrain
from icgeo.latents.feature_steering import FeatureDirection as FeatureDirection
from icgeo.latents.feature_survey import FeatureSurvey as FeatureSurvey
from icgeo.latents.feature_survey import survey_features as survey_features
from icgeo.latents.probes import error_by_group as error_by_group
from icgeo.latents.probes import median_km as median_km
from icgeo.latents.probes import probe_labels as probe_labels
from icgeo.latents.probes import probe_numbers as probe_numbers
from icgeo.latents.probes import probe_places as probe_places
from icgeo.latents.probes import thirds as thirds
from icgeo.latents.steering import PlaceDirections as PlaceDirections
from icgeo.latents.steering import compare_changes as compare_changes
from icgeo.latents.steering import steer as steer
