"""The trainable ways by name: one line each, and all of them are compared."""

from typing import Literal

from icgeo.baselines.geocells import Planet, PlanetSettings
from icgeo.baselines.geoclip import GeoClip, GeoClipSettings
from icgeo.baselines.harmonics import HarmonicDiffusion, HarmonicsSettings
from icgeo.baselines.head import Way
from icgeo.baselines.mixture import MixtureSettings, VmfMixture
from icgeo.baselines.pigeon import Pigeon, PigeonSettings
from icgeo.baselines.sphere_flow import SphereFlow, SphereFlowSettings
from icgeo.baselines.two_branch import SegmentedPixels, TwoBranch, TwoBranchSettings


def _plonk(way: Literal["sphere", "flow", "diffusion"]) -> Way:
    few_settings = SphereFlowSettings(way=way, width=64, learning_rate=5e-3)
    return Way(SphereFlow, SphereFlowSettings(way=way), few=few_settings)


WAYS: dict[str, Way] = {
    "geoclip": Way(GeoClip, GeoClipSettings()),
    "pigeon": Way(
        Pigeon,
        PigeonSettings(minimum=10, maximum=100, borders=True),
        few=PigeonSettings(minimum=1, maximum=1, rounds=((2, 0.05),), most_km=10_000.0),
    ),
    "planet": Way(Planet, PlanetSettings(), few=PlanetSettings(split_above=0)),
    "locdiff": Way(HarmonicDiffusion, HarmonicsSettings()),
    "locdiff h": Way(HarmonicDiffusion, HarmonicsSettings(retrieval_km=200.0)),
    "plonk": _plonk("sphere"),
    "plonk diffusion": _plonk("diffusion"),
    "plonk flow": _plonk("flow"),
    "translocator": Way(TwoBranch, TwoBranchSettings(), features=SegmentedPixels()),
    "vmf": Way(VmfMixture, MixtureSettings()),
    "vmf mixture": Way(VmfMixture, MixtureSettings(components=3)),
}
"""Each makes a head of photos to train on; `configs/baselines` holds the published settings."""
