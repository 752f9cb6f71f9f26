"""Measure modes of attention and guidance by examples against the model's own way, by shots."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import icgeo
from icgeo import config
from icgeo.options import SHOTS, UNKNOWN


@dataclass(frozen=True)
class Options:
    """Compare on worlds of held-out families; a run that was stopped goes on."""

    model: str = "tiny"
    """A name, or a checkpoint folder."""
    device: str = "cpu"
    """Device on which the model runs."""
    attention: tuple[str, ...] = ("joint", "full")
    """Modes beside the model's own."""
    guidance: tuple[float, ...] = (1.5, 2.0, 3.0)
    """Scales of guidance by examples, in the model's own mode; 1 is none."""
    episodes: int = 20
    """Number of episodes, each in a world of its own."""
    queries: int = 12
    """Queries of an episode."""
    shots: tuple[int, ...] = SHOTS
    """Numbers of examples."""
    matching: bool = False
    """Compare what is drawn and what alike parts say together, in place of what is drawn alone."""
    seed: int = 0
    """Seed of worlds and views."""
    name: str = "modes"
    """Run folder under runs/."""


def main(options: Options) -> None:
    """Locate the same queries in every way; print and write `modes.md` and `modes.json`."""
    from icgeo.evaluation import compare, comparison_table, evaluate
    from icgeo.evaluation.episodes import HELD_OUT, group_episodes

    folder = config.save_run(Path("runs") / options.name, options, may_differ=("device",))
    native_mode = icgeo.load(options.model, device=options.device).settings.attention
    ways = [(native_mode, scale) for scale in (1.0, *options.guidance)]
    ways += [(mode, 1.0) for mode in options.attention]
    make = partial(
        icgeo.Geolocator, options.model, device=options.device, matching=options.matching
    )
    locators = [
        make(attention=mode, example_guidance=w, prompt=UNKNOWN, name=f"{mode}, w = {w:g}")
        for mode, w in ways
    ]
    take = partial(group_episodes, queries=options.queries, seed=options.seed)
    episodes = take(HELD_OUT, options.episodes)
    runs = [(locator, episode) for episode in episodes for locator in locators]
    rows = evaluate(runs, folder=folder, shots=options.shots, baselines=False)

    comparison = compare(rows, locators[0].name)
    comparison.to_json(folder / "modes.json", orient="records", double_precision=15, indent=2)
    table = comparison_table(comparison)
    (folder / "modes.md").write_text(table + "\n", encoding="utf-8")
    print(table)


if __name__ == "__main__":
    config.run(main, Options)
