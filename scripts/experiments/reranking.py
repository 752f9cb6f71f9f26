"""Measure what matches of points add to retrieval, and fit how sure they are.

Views of procedural worlds at 256 pixels: the example most alike in features, and that of most
inlier matches among the ten most alike. Prints errors, and the spread fitted (`fit_spread`).
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

from icgeo import config


@dataclass(frozen=True, kw_only=True)
class Options:
    """Retrieve and re-rank views of worlds of the training families, or of others."""

    families: tuple[str, ...] = ()
    """Families of worlds; by default those of training, which nothing is judged on."""
    worlds: int = 2
    """Worlds of each family."""
    examples: int = 48
    """Examples of each world."""
    queries: int = 12
    """Queries of each world."""
    features: str = "efficientnet-lite0"
    """What examples are retrieved by: a name of `icgeo.features.open`."""
    match_by: Literal["lighterglue", "nearest"] = "nearest"
    """How points of XFeat are matched."""
    seed: int = 0
    """Seed of worlds and views."""


def main(options: Options) -> None:
    """Print medians, shares within 2500 km, errors by inliers, and the spread."""
    import numpy as np
    import torch

    import icgeo
    from icgeo.baselines.matching import Reranked, XFeatMatcher
    from icgeo.data.orbit import ViewOptions, random_views, views_to_examples
    from icgeo.data.worlds import TRAINING_FAMILIES, procedural_world
    from icgeo.sphere import EARTH_RADIUS_KM, distance_km
    from icgeo.training.calibration import fit_spread

    locator = Reranked(
        icgeo.features.open(options.features), XFeatMatcher(options.match_by, side=256)
    )
    first = Reranked(locator.features, locator.matcher, candidates=1)
    inliers: list[int] = []
    errors: dict[str, list[float]] = {"retrieval": [], "re-ranked": []}
    for number in range(options.worlds):
        for family in options.families or TRAINING_FAMILIES:
            seed = 1000 * (options.seed + 1) + number
            world = procedural_world(family, generator=seed, height=768)
            views = random_views(
                world,
                options.examples + options.queries,
                generator=torch.Generator().manual_seed(seed),
                options=ViewOptions(size=256),
            )
            pairs = views_to_examples(views.images, views.lat_lon)
            examples = [icgeo.Example(image, *place) for image, place in pairs[: options.examples]]
            queries = [image for image, _ in pairs[options.examples :]]
            truth = views.lat_lon[options.examples :]
            for name, way in (("retrieval", first), ("re-ranked", locator)):
                best, counts = way.matched(queries, examples)
                errors[name] += distance_km(truth, views.lat_lon[best]).tolist()
            inliers += counts
    for name, distances in errors.items():
        share = np.mean(np.array(distances) < 2500)
        print(f"{name}: median {np.median(distances):.0f} km, {share:.0%} within 2500 km")
    tell_by_inliers(np.array(inliers), np.array(errors["re-ranked"]))
    evidence = torch.tensor(inliers, dtype=torch.float64).log1p()
    angles = torch.tensor(errors["re-ranked"], dtype=torch.float64) / EARTH_RADIUS_KM
    print(fit_spread(evidence, angles, start=(1.0, 1.0, 3.0, -1.0), steepest=3.0))


def tell_by_inliers(inliers: Any, errors: Any) -> None:
    """Print how often answers are near, by how many matches they have."""
    for low, high in ((0, 10), (10, 20), (20, 50), (50, math.inf)):
        part = errors[(inliers >= low) & (inliers < high)]
        if len(part):
            share = (part < 2500).mean()
            print(f"{low} to {high} inliers: {len(part)} queries, {share:.0%} within 2500 km")


if __name__ == "__main__":
    config.run(main, Options)
