"""Choose how much `tiny` trusts memory and parts on the Earth, by views of their own seed."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from icgeo import config

PLACES = ("random", "nearest")
"""Examples from anywhere, or the most alike of the bank."""


@dataclass(frozen=True)
class Options:
    """Options of the choice; a run that was stopped goes on."""

    queries: int = 96
    """Views of the Earth to locate."""
    bank: int = 256
    """Examples to choose from."""
    shots: tuple[int, ...] = (1, 4, 16)
    """Numbers of examples with which parts are weighed."""
    powers: tuple[float, ...] = (1.0, 3.0, 3.7, 4.5, 5.4)
    """Powers of the density drawn without examples; its temperature is the inverse."""
    weights: tuple[float, ...] = (0.6, 0.7, 0.8, 0.9, 1.0)
    """Weights of the evidence of parts beside the map drawn with examples."""
    seed: int = 900
    """Seed of the views: not that of any published table."""
    name: str = "weights"
    """Run folder under runs/."""


def main(options: Options) -> None:
    """Locate with each value, and print how likely the truth is and how often it is covered."""
    from pandas import concat

    import icgeo
    from icgeo.evaluation import choose_examples, episodes, evaluate, score, score_table
    from icgeo.options import EARTH

    folder = config.save_run(Path("runs") / options.name, options)
    model = icgeo.load("tiny")

    def locator(name: str, **settings: Any) -> icgeo.Geolocator:
        variant = replace(model, settings=replace(model.settings, **settings))
        return icgeo.Geolocator(variant, prompt=EARTH, name=name)

    sizes: dict[str, Any] = {"queries": options.queries, "shots": options.bank}
    views = episodes.world_episode(episodes.EARTH, **sizes, seed=options.seed)

    by_power = [
        locator(f"power {power}", calibration={EARTH: {"0": 1 / power}}) for power in options.powers
    ]
    power_runs = [(way, views) for way in by_power]
    rows = [evaluate(power_runs, folder=folder, shots=(0,), baselines=False)]
    by_weight = [
        locator(f"weight {weight}", evidence_weight={EARTH: weight}) for weight in options.weights
    ]
    for choice in PLACES:
        features = icgeo.features.open("tiny") if choice == "nearest" else None
        runs, _ = choose_examples(
            [(way, views) for way in by_weight], choice, features, shots=max(options.shots)
        )
        part = evaluate(runs, folder=folder / choice, shots=options.shots, baselines=False)
        rows.append(part.assign(world=f"{episodes.EARTH}, {choice}"))
    print(score_table(score(concat(rows, ignore_index=True))))


if __name__ == "__main__":
    config.run(main, Options)
