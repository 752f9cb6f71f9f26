"""Locate each of a list of photos at the other that looks most alike, against chance."""

from dataclasses import dataclass
from pathlib import Path

import icgeo
from icgeo import config


@dataclass(frozen=True)
class Options:
    """Compare features on your photos, or on those in the box."""

    photos: Path = Path(__file__).parents[2] / "assets" / "photos" / "photos.csv"
    """Photos and their locations (CSV, Parquet or a folder)."""
    features: tuple[str, ...] = ("efficientnet-lite0", "pixels")
    """What photos are compared by: pixels, tiny, efficientnet-lite0, or a model of transformers."""
    apart_km: tuple[float, ...] = (0.0, 5.0)
    """How far another photo has to lie to count: 5 leaves out those of the same place."""
    allow_outside: bool = False
    """Accept photos outside the folder of their manifest."""


def main(options: Options) -> None:
    """Print a table; intervals are over photos."""
    import torch
    from pandas import DataFrame

    from icgeo.metrics import accuracy_within, geoscore, median_error
    from icgeo.metrics.intervals import bootstrap_interval
    from icgeo.prediction import as_examples

    photos = as_examples(options.photos, allow_outside=options.allow_outside)
    places = torch.tensor([[photo.lat, photo.lon] for photo in photos])
    errors = icgeo.sphere.distance_km(places[:, None], places)
    is_other = ~torch.eye(len(photos), dtype=torch.bool)
    images = [photo.image for photo in photos]
    vectors = {name: icgeo.features.open(name).encode(images) for name in options.features}
    print(f"{len(photos)} photos, each located at another\n")
    for gap_km in options.apart_km:
        mask, lines = is_other & (errors >= gap_km), []
        ways = {"any, by chance": mask}
        for name, vector in vectors.items():
            best = (vector @ vector.T).masked_fill(~mask, -torch.inf).argmax(dim=1)
            ways[name] = torch.nn.functional.one_hot(best, len(photos)).bool()
        for name, answers in ways.items():
            km, clusters = errors[answers], answers.nonzero()[:, 0].numpy()
            generator = torch.Generator().manual_seed(0)
            score = bootstrap_interval(geoscore(km), clusters=clusters, generator=generator)
            interval = f"{score.estimate:.0f} ({score.low:.0f} to {score.high:.0f})"
            share = accuracy_within(km, 2500)
            lines.append((name, f"{median_error(km):.0f}", f"{share:.0%}", interval))
        header = [f"at least {gap_km:g} km off", "median km", "within 2500 km", "GeoScore, 95 %"]
        print(icgeo.evaluation.to_markdown(DataFrame(lines, columns=header)), end="\n\n")


if __name__ == "__main__":
    config.run(main, Options)
