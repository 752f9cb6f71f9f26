"""The trainable ways by name: one line each, and all of them are compared."""

from icgeo.baselines.head import Way
from icgeo.baselines.mixture import MixtureSettings, VmfMixture

WAYS: dict[str, Way] = {
    "vmf": Way(VmfMixture, MixtureSettings()),
    "vmf mixture": Way(VmfMixture, MixtureSettings(components=3)),
}
"""Each makes a head of photos to train on; `configs/baselines` holds the published settings."""
