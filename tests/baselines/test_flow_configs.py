"""The published settings of Plonk, LocDiff and TransLocator are settings of these heads."""

from pathlib import Path

import pytest
import yaml

from icgeo.baselines.harmonics import HarmonicsSettings
from icgeo.baselines.sphere_flow import SphereFlowSettings
from icgeo.baselines.two_branch import TwoBranchSettings

FOLDER = Path(__file__).parents[2] / "configs" / "baselines"
KINDS = {
    "plonk": (SphereFlowSettings, {"width": 512, "depth": 12, "drop": 0.1}),
    "locdiff": (HarmonicsSettings, {"retrieval_km": 200.0}),
    "translocator": (TwoBranchSettings, {"width": 768, "classes": 150}),
}


@pytest.mark.parametrize("name", KINDS)
def test_published_settings_are_those_of_the_papers(name):
    kind, known = KINDS[name]
    values = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    values = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
    settings = kind(**values)
    assert {key: getattr(settings, key) for key in known} == known
