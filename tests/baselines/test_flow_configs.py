"""The published settings of Plonk, LocDiff and TransLocator are settings of these heads."""

from pathlib import Path

import pytest

from icgeo import config
from icgeo.baselines.registry import WAYS

FOLDER = Path(__file__).parents[2] / "configs" / "baselines"
KNOWN = {
    "plonk": {"way": "sphere", "width": 512, "depth": 12, "drop": 0.1, "schedule": (-7.0, 3.0)},
    "plonk flow": {"way": "flow", "width": 512, "depth": 12, "guidance": 2.0},
    "plonk diffusion": {"way": "diffusion", "width": 512, "depth": 12},
    "locdiff": {"retrieval_km": None},
    "locdiff h": {"retrieval_km": 200.0},
    "translocator": {"width": 768, "depth": 12, "weights": (0.5, 0.3, 0.2)},
}


@pytest.mark.parametrize("name", KNOWN)
def test_published_settings_are_those_of_the_papers(name):
    path = FOLDER / f"{name.replace(' ', '-')}.yaml"
    settings = config.parse(type(WAYS[name].settings), ["--config", str(path)])
    assert {key: getattr(settings, key) for key in KNOWN[name]} == KNOWN[name]
