"""Measure the zoom on examples: a photo laid over those of a bank that are most alike."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icgeo import config


@dataclass(frozen=True)
class Options:
    """Options of the comparison; a run that was stopped goes on."""

    worlds: tuple[str, ...] = ("blue-marble", "rivers")
    """The Earth, and families of worlds that no training saw."""
    banks: tuple[int, ...] = (1_000, 10_000)
    """Numbers of examples, drawn from anywhere."""
    shots: tuple[int, ...] = (4, 16)
    """Examples that a photo is shown: the most alike by the descriptor of `tiny`."""
    queries: int = 64
    """Photos of each world."""
    seed: int = 77
    """Seed of the views."""
    name: str = "bank-zoom"
    """Run folder under runs/."""


def main(options: Options) -> None:
    """Locate with and without zoom, and by the place of the example most alike; print a table."""
    from pandas import concat

    import icgeo
    from icgeo.baselines import Retrieval
    from icgeo.evaluation import choose_examples, episodes, evaluate, score, score_table

    folder = config.save_run(Path("runs") / options.name, options)
    model, features = icgeo.load("tiny"), icgeo.features.open("tiny")
    pixels = icgeo.features.open("pixels")
    tables = []
    for world in options.worlds:
        for size in options.banks:
            sizes: dict[str, Any] = {"queries": options.queries, "shots": size}
            episode = episodes.world_episode(world, **sizes, seed=options.seed)
            ways = [
                icgeo.Geolocator(model, prompt=episode.prompt, name="examples"),
                icgeo.Geolocator(model, prompt=episode.prompt, name="zoomed", zoom=True),
            ]
            most = max(options.shots)
            runs, _ = choose_examples(
                [(way, episode) for way in ways], "nearest", features, shots=most
            )
            place = folder / f"{world}-{size}"
            rows = [evaluate(runs, folder=place, shots=options.shots, baselines=False)]
            for name, kind in (("tiny", features), ("pixels", pixels)):
                retrieval = Retrieval(kind, name=f"retrieval, {name}")
                found = evaluate(
                    [(retrieval, episode)], folder=place / name, shots=(size,), baselines=False
                )
                rows.append(found)
            tables.append(concat(rows, ignore_index=True).assign(world=f"{world}, bank of {size}"))
    print(score_table(score(concat(tables, ignore_index=True))))


if __name__ == "__main__":
    config.run(main, Options)
