"""Measure how a model learns from examples: worlds seen and unseen, calibration, steps, codec."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from icgeo import config

if TYPE_CHECKING:
    from icgeo.evaluation import Row


@dataclass(frozen=True)
class Options:
    """Evaluate on many episodes; a run that was stopped goes on."""

    model: str = "tiny"
    """A name, or a checkpoint folder."""
    device: str = "cpu"
    """Where the model runs."""
    held_out: int = 52
    """Episodes of families that were held out of training."""
    seen: int = 15
    """Episodes of families that were trained on, in worlds that were not."""
    turned: int = 8
    """Episodes of the Earth, turned and recoloured."""
    queries: int = 12
    """Queries of an episode."""
    by_heart: int = 256
    """Views of the Earth to locate without examples."""
    settings: int = 10
    """Held-out episodes on which 4 steps of 8 samples are tried against 1 step."""
    seed: int = 0
    """Of worlds and views."""
    name: str = "worlds"
    """Run folder under runs/."""


def main(options: Options) -> None:
    """Locate, print and write `evidence.md`, `evidence.json` and figures."""
    from icgeo.evaluation import evaluate, world_episode
    from icgeo.evaluation import evidence as of
    from icgeo.evaluation.benchmarks import EARTH, TURNED_EARTH
    from icgeo.geolocator import Geolocator
    from icgeo.models import load

    folder = config.save_run(Path("runs") / options.name, options, may_differ=("device",))
    model = load(options.model, device=options.device)
    ask = partial(Geolocator, model, prompt="unknown world")
    counts = {
        of.HELD_OUT: options.held_out, of.SEEN: options.seen, TURNED_EARTH: options.turned
    }  # fmt: skip
    take = partial(of.family_episodes, queries=options.queries, seed=options.seed)
    episodes = [episode for group, count in counts.items() for episode in take(group, count)]
    rows = of.by_group(evaluate([(ask(), episode) for episode in episodes], folder=folder))

    earth = world_episode(EARTH, queries=options.by_heart, shots=0, seed=options.seed)
    rows += evaluate([(ask(prompt=earth.prompt), earth)], folder=folder / "by-heart")

    save_figures(folder, rows)

    settings = (ask(steps=1, samples=1, name="1 step"), ask(steps=4, samples=8, name="4 x 8"))
    runs = [(locator, episode) for locator in settings for episode in episodes[: options.settings]]
    tried = evaluate(runs, folder=folder / "settings", shots=(16,), baselines=False)
    rows += [replace(row, world=f"{of.HELD_OUT}, {row.locator}") for row in tried]
    codec = of.codec_and_heatmap_km(model, model.settings.style)
    print(of.write_evidence(folder, rows, {"codec_and_ink_median_km": codec}))


def save_figures(folder: Path, rows: "Sequence[Row]") -> None:
    """Write error against shots, and calibration with most shots."""
    from icgeo import plots
    from icgeo.evaluation import levels_by_world, scores
    from icgeo.evaluation.evidence import FAMILIES

    shown = scores([row for row in rows if row.world in FAMILIES])
    plots.plot_shots(shown).savefig(folder / "shots.png", dpi=150)
    plots.plot_calibration(levels_by_world(rows)).savefig(folder / "calibration.png", dpi=150)


if __name__ == "__main__":
    config.run(main, Options)
