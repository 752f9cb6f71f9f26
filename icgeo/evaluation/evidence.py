"""Evidence that a model learns from examples, on worlds of kinds that it has and has not seen.

Conventions: families are held out of training or seen (`icgeo.data.worlds`); the Earth turned and
recoloured stands apart, for its coastlines were seen. Each episode has a world of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Generator, Tensor
from tqdm import tqdm

from icgeo import maps
from icgeo.baselines import NearestPixels
from icgeo.data.worlds import HELD_OUT_FAMILIES, TRAINING_FAMILIES
from icgeo.evaluation.benchmarks import TURNED_EARTH, Episode, world_episode
from icgeo.evaluation.rows import Row
from icgeo.evaluation.legacy import compare_medians, scores, select, table, to_json
from icgeo.metrics import median_error
from icgeo.sphere import AREA_KM2, distance_km, sample_uniform, to_lat_lon

HELD_OUT, SEEN = "held-out families", "seen families"
FAMILIES: dict[str, tuple[str, ...]] = {
    HELD_OUT: HELD_OUT_FAMILIES,
    SEEN: TRAINING_FAMILIES,
    TURNED_EARTH: (TURNED_EARTH,),
}


@runtime_checkable
class Codec(Protocol):
    """A model whose codec can be tried alone."""

    def codec_round_trip(
        self, lat_lon: Float[Tensor, "*batch 2"]
    ) -> Float[Tensor, "*batch 3 height width"]:
        """Draw locations, encode and decode the maps."""
        ...


def family_episodes(group: str, episodes: int, *, queries: int, seed: int = 0) -> list[Episode]:
    """Take episodes of a group in `FAMILIES`, of its families in turn."""
    families = FAMILIES[group]
    return [
        world_episode(families[number % len(families)], number, queries=queries, seed=seed)
        for number in tqdm(range(episodes), desc=f"{group}: worlds", leave=False)
    ]


def by_group(rows: Sequence[Row]) -> list[Row]:
    """Name the group in place of the family as the world of each row."""
    groups = {family: group for group, families in FAMILIES.items() for family in families}
    return [replace(row, world=groups.get(row.world, row.world)) for row in rows]


def learning(rows: Sequence[Row]) -> dict[str, Any]:
    """Say how the method improves from 1 to 16 shots on the rows of one group, ready for JSON.

    The median error with 16 shots over that with 1; its difference in km to the nearest example by
    pixels; coverage and median area, as a share of the sphere, of the 90 % regions.
    """
    shots = sorted({row.shots for row in rows})
    method = {k: select(rows, shots=k) for k in shots}
    pixels = {k: select(rows, shots=k, locator=NearestPixels.name) for k in shots}
    ratio = compare_medians(method[16], method[1], ratio=True)
    own = [score for score in scores(rows) if score.locator == method[1][0].locator]
    return {
        "episodes": len({row.episode for row in rows}),
        "queries": len(method[1]),
        "median_16_over_1_shot": asdict(ratio),
        "km_above_nearest_by_pixels": {
            k: asdict(compare_medians(method[k], pixels[k])) for k in shots if k >= 4
        },
        "coverage_90": {score.shots: score.coverage_90 for score in own},
        "area_90": {score.shots: (score.summary.median_area_km2 or 0) / AREA_KM2 for score in own},
    }


def codec_and_heatmap_km(model: object, style: maps.MapStyle, *, count: int = 256) -> float | None:
    """Median error of reading drawn maps through the codec: what no training can go below.

    None for a model that is no `Codec`.
    """
    if not isinstance(model, Codec):
        return None
    places = to_lat_lon(sample_uniform(count, generator=Generator().manual_seed(0)))
    readings = maps.read(model.codec_round_trip(places).float(), style)
    answers = torch.stack([reading.density.best_point() for reading in readings])
    return median_error(distance_km(places, answers))


def write_evidence(folder: Path, rows: Sequence[Row], extra: Mapping[str, Any]) -> str:
    """Write `evidence.json`, and `evidence.md` which is returned: tables, then the rest as JSON."""
    tables = table(scores(rows))
    worlds = dict.fromkeys(row.world for row in rows)
    groups = {world: [row for row in rows if row.world == world] for world in worlds}
    found = {
        world: learning(group)
        for world, group in groups.items()
        if {1, 16} <= {row.shots for row in group}
    }
    values = {"groups": found, **extra}
    text = to_json(values)
    (folder / "evidence.json").write_text(text, encoding="utf-8")
    markdown = f"{tables}\n\n```json\n{text}```\n"
    (folder / "evidence.md").write_text(markdown, encoding="utf-8")
    return markdown
