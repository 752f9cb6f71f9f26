"""Rows and run folders for the tests of reports."""

import json

import numpy as np

from icgeo.baselines import Chance
from icgeo.evaluation import Row
from icgeo.sphere import AREA_KM2, distance_km

OPTIONS = "seed: 0\nmodel: tiny\ndevice: null\n"
VERSIONS = {"python": "3.11", "packages": {"torch": "2.13.0"}}


def rows(world="moon", *, count=8, locators=("icgeo", Chance.name), shots=(0, 4), episode="e"):
    """Answers north of the truth, the farther the higher the number of the query."""
    generator = np.random.default_rng(0)
    truths = generator.uniform((-60, -179), (50, 179), size=(count, 2)).tolist()
    return [
        Row(
            locator,
            episode,
            world,
            f"q{number}",
            k,
            lat=lat + number,
            lon=lon,
            true_lat=lat,
            true_lon=lon,
            distance_km=distance_km((lat + number, lon), (lat, lon)).item(),
            nll=1.0,
            level=(number + 0.5) / count,
            area_90_km2=AREA_KM2 / 10,
            searched_area_km2=AREA_KM2 * (number + 1) / count,
            legibility=0.9,
            located=True,
            seconds=0.02,
        )
        for locator in locators
        for number, (lat, lon) in enumerate(truths)
        for k in shots
    ]


def write_run(folder, some_rows, *, name="run"):
    """Make a run folder."""
    target = folder / name
    target.mkdir()
    lines = [row.to_json() + "\n" for row in some_rows]
    (target / "predictions.jsonl").write_text("".join(lines), encoding="utf-8")
    (target / "options.yaml").write_text(OPTIONS)
    (target / "versions.json").write_text(json.dumps(VERSIONS))
    return target
